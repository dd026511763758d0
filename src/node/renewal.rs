//! Another endpoint id for the data directory of a node that does not run, which is a copy of another one's.
//!
//! What hangs on the id: the key itself, who writes in the embedded store, and tickets of libraries that were issued to this
//! endpoint alone. All else stays: assets, the passphrase, the address book, libraries that were made here with their keys.

use iroh::EndpointId;

use super::DataDir;
use super::resources;
use crate::config::Config;
use crate::identity::{self, Mend};
use crate::library::registry::Registry;
use crate::library::ticket::Subject;
use crate::store::embedded::EmbeddedStore;

#[derive(Debug)]
pub(crate) struct RenewedId {
    pub(crate) former: EndpointId,
    pub(crate) endpoint_id: EndpointId,
    /// Names of libraries whose tickets were for the former id alone: they let nobody in here any more.
    pub(crate) lost: Vec<String>,
    /// Names of libraries that were made here: the other machine has their keys, too.
    pub(crate) owned: Vec<String>,
}

#[derive(Debug, thiserror::Error)]
pub(crate) enum RenewalError {
    #[error("there is no node in '{0}': its first start makes an endpoint id")]
    NoNode(String),
    /// A node runs on it.
    #[error("{0}")]
    InUse(String),
    #[error("{0}")]
    Failed(String),
}

/// Gives the data directory another endpoint id. Blocks.
pub(crate) fn renew(config: &Config) -> Result<RenewedId, RenewalError> {
    let dir = DataDir::new(&config.data_dir);
    let failed = |error: &dyn std::fmt::Display| RenewalError::Failed(error.to_string());
    if !identity::has_endpoint_key(dir.path()) {
        return Err(RenewalError::NoNode(dir.path().display().to_string()));
    }
    // Held until all of it is done: no start comes in between.
    let _lock = resources::lock(&dir).map_err(|error| RenewalError::InUse(error.to_string()))?;
    let former = identity::existing_endpoint_key(dir.path(), Mend::Ours).map_err(|e| failed(&e))?;
    let Some((former, _)) = former else {
        return Err(RenewalError::NoNode(dir.path().display().to_string()));
    };
    let former = former.public();
    let (mut lost, mut owned) = (Vec::new(), Vec::new());
    if dir.libraries_db().exists() {
        let registry = Registry::open(&dir.libraries_db()).map_err(|e| failed(&e))?;
        for kept in registry.libraries().map_err(|e| failed(&e))? {
            let claims = kept.ticket.claims();
            if kept.key.is_some() {
                owned.push(claims.name.clone());
            } else if claims.subject == Subject::Endpoint(former) {
                lost.push(claims.name.clone());
            }
        }
    }
    if config.can_service_url.is_none() {
        EmbeddedStore::renew_writer(&dir.store()).map_err(|e| failed(&e))?;
    }
    // Last: whatever failed before is tried again with the same command.
    let key = identity::renew_endpoint_key(dir.path()).map_err(|e| failed(&e))?;
    Ok(RenewedId { former, endpoint_id: key.public(), lost, owned })
}
