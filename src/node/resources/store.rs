//! The store that a node has: its own, or an external CAN Service.

use std::sync::Arc;

use secrecy::SecretString;

use crate::api::proxy::StoreProxy;
use crate::clock::Clock;
use crate::config::Config;
use crate::http::SharedListener;
use crate::node::{DataDir, StartError};
use crate::store::StoreRef;
use crate::store::bucket::BucketConfig;
use crate::store::can_http::CanHttpStore;
use crate::store::embedded::{EmbeddedConfig, EmbeddedStore};
use crate::store::server::StoreServerArgs;
use crate::store::service::on_demand::FetchPort;
use crate::store::service::{self, ServiceSettings};

pub(super) struct OpenedStore {
    pub(super) store: StoreRef,
    pub(super) url: String,
    pub(super) proxy: StoreProxy,
    pub(super) server: Option<StoreServerArgs>,
    pub(super) on_demand: FetchPort,
    pub(super) embedded: Option<EmbeddedStore>,
}

impl OpenedStore {
    pub(super) async fn open(
        config: &Config,
        dir: &DataDir,
        listener: Option<SharedListener>,
        key: Option<SecretString>,
        token: Option<SecretString>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        match (&config.can_service_url, listener, key) {
            (Some(url), _, Some(key)) => {
                let store = CanHttpStore::new(url.as_str(), &key)
                    .map_err(|e| StartError::new(format!("can_service_url: {e}")))?;
                let url = store.url().to_owned();
                let proxy = proxy_to(&url, &key)?;
                Ok(Self {
                    store: Arc::new(store),
                    url,
                    proxy,
                    server: None,
                    on_demand: FetchPort::default(),
                    embedded: None,
                })
            }
            (None, Some(listener), Some(key)) => {
                Self::embedded(config, dir, listener, key, token, clock).await
            }
            (_, _, None) | (None, None, _) => {
                Err(StartError::new("can_service_url: the CAN Service's key is missing"))
            }
        }
    }

    async fn embedded(
        config: &Config,
        dir: &DataDir,
        listener: SharedListener,
        key: SecretString,
        token: Option<SecretString>,
        clock: Clock,
    ) -> Result<Self, StartError> {
        let store_config =
            EmbeddedConfig { dir: dir.store(), disk_reserve_bytes: config.limits.disk_reserve_bytes, clock };
        let bucket = config.store.content.0.clone();
        let bucket = bucket.map(|place| BucketConfig::new(place, config.store.cache_bytes));
        let store =
            EmbeddedStore::open_on(store_config, bucket).await.map_err(|e| StartError::new(e.to_string()))?;
        store.set_quota(config.store.quota_bytes);
        let addr = listener.local_addr().map_err(|e| StartError::new(e.to_string()))?;
        let url = store_url(&listener)?;
        let proxy = proxy_to(&url, &key)?;
        let on_demand = FetchPort::default();
        let settings = ServiceSettings {
            on_demand: on_demand.clone(),
            allowed_hosts: config.allowed_hosts.clone(),
            token,
            ..ServiceSettings::new(key, addr)
        };
        let router = service::router(store.clone(), settings);
        Ok(Self {
            store: Arc::new(store.clone()),
            url,
            proxy,
            server: Some(StoreServerArgs { listener, router }),
            on_demand,
            embedded: Some(store),
        })
    }
}

/// The way to the store for those who talk to the agent.
fn proxy_to(url: &str, key: &SecretString) -> Result<StoreProxy, StartError> {
    let proxy = StoreProxy::new(url).and_then(|proxy| proxy.with_key(key));
    proxy.map_err(|e| StartError::new(format!("can_service_url: {e}")))
}

/// Where programs on this machine reach the embedded store.
pub(super) fn store_url(listener: &SharedListener) -> Result<String, StartError> {
    let url = listener.local_url().map_err(|e| StartError::new(e.to_string()))?;
    Ok(format!("{url}{}", service::BASE_PATH))
}
