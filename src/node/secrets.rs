//! What a start reads out of settings and files that nobody else may read or change, and what it makes where there is none.
//!
//! `Given::look` reads everything once and changes nothing, so that a start which cannot work leaves no trace, and so that
//! `config check` finds what a start would refuse, all at once. `Given::complete` makes what is missing, once nobody else
//! uses the data directory.

use std::fmt;
use std::path::Path;

use iroh::SecretKey;
use secrecy::{ExposeSecret as _, SecretString};

use super::backup::RESTORED_FROM;
use super::preflight::SettingProblem;
use super::{DataDir, StartError};
use crate::config::{Config, Origin, Origins};
use crate::discovery::address_book;
use crate::identity::{
    self, IdentityError, Keeper, Mend, NetworkKeys, Passphrase, PassphraseOrigin, PassphraseSources,
    PresenceKeys,
};
use crate::store::embedded::EmbeddedStore;
use crate::store::service::key::{self, FoundKey, KeyError};

const KEY_NEEDED: &str = "an external CAN Service needs its key: set sync_api_key or sync_api_key_file to what \
                          can-service keeps in its data directory as 'sync_api_key'";

pub(crate) struct GivenSecrets {
    passphrase: Option<Passphrase>,
    /// The passphrase came with this start alone: nobody else keeps it.
    is_passing: bool,
    sync_api_key: Option<SecretString>,
    pub(super) api_token: Option<SecretString>,
    can_token: Option<SecretString>,
    topic_secret: Option<SecretString>,
    /// What somebody should know about permissions.
    pub(crate) remarks: Vec<String>,
}

/// Everything secret that a node works with.
pub(super) struct Secrets {
    pub(super) endpoint_key: SecretKey,
    pub(super) passphrase: Passphrase,
    /// To be kept in the data directory once the start has succeeded.
    pub(super) keep_passphrase: bool,
    pub(super) keys: NetworkKeys,
    pub(super) presence: PresenceKeys,
    pub(super) sync_api_key: Option<SecretString>,
    pub(super) api_token: Option<SecretString>,
    /// What the embedded CAN Service asks for.
    pub(super) can_token: Option<SecretString>,
}

impl GivenSecrets {
    /// Reads everything, and makes and changes nothing.
    pub(crate) fn look(config: &Config, origins: &Origins) -> Result<Self, Vec<SettingProblem>> {
        let dir = DataDir::new(&config.data_dir);
        let mut look = Looking { origins, problems: Vec::new(), remarks: Vec::new() };
        // What is in a directory that cannot be looked into need not be looked at.
        let dir = look.dir(&dir).then_some(&dir);
        let passphrase = look.passphrase(config, dir);
        dir.inspect(|dir| look.endpoint_key(dir));
        let sync_api_key = look.sync_api_key(config, dir);
        let api_token = look.token("api_token_file", config.api_token_file.as_deref());
        let can_token = look.token("can_token_file", config.can_token_file.as_deref());
        let topic_secret = look.topic_secret(config);
        let Looking { problems, mut remarks, .. } = look;
        if !problems.is_empty() {
            return Err(problems);
        }
        remarks.dedup();
        let is_passing = origins.get("sync_passphrase").is_some_and(Origin::is_passing);
        Ok(Self { passphrase, is_passing, sync_api_key, api_token, can_token, topic_secret, remarks })
    }

    /// Makes what is missing in the data directory, which nobody else uses now, and closes what was opened there. Takes its
    /// time: the passphrase is stretched.
    pub(super) fn complete(self, config: &Config, dir: &DataDir) -> Result<Secrets, StartError> {
        let sentence = |e: IdentityError| StartError::new(format!("data_dir: {e}"));
        let Self { passphrase, is_passing, sync_api_key, api_token, can_token, topic_secret, remarks: _ } =
            self;
        let configured = |passphrase: &Passphrase| match passphrase.origin {
            PassphraseOrigin::Config | PassphraseOrigin::File => true,
            PassphraseOrigin::DataDir | PassphraseOrigin::Generated => false,
        };
        let passphrase = match passphrase.filter(configured) {
            Some(passphrase) => passphrase,
            // Read again: another start may have ended since.
            None => match Passphrase::existing(kept_in(dir), Mend::Ours).map_err(sentence)? {
                Some(passphrase) => passphrase,
                None => Passphrase::generate(dir.path()).map_err(sentence)?,
            },
        };
        let endpoint_key = identity::endpoint_key(dir.path()).map_err(sentence)?;
        let own_key = config.can_service_url.is_none()
            && config.sync_api_key.is_none()
            && config.sync_api_key_file.is_none();
        let sync_api_key = if own_key {
            let made = key::read_or_generate(&dir.path().join(key::FILE_NAME));
            Some(made.map_err(|e| StartError::new(format!("data_dir: {e}")))?.0)
        } else {
            sync_api_key
        };
        let keys = NetworkKeys::derive(&passphrase.secret);
        let presence = match (&config.discovery.topic, &topic_secret) {
            (None, None) => keys.presence().clone(),
            (topic, secret) => PresenceKeys::of_topic(topic.as_deref().unwrap_or_default(), secret.as_ref()),
        };
        let keep_passphrase = is_passing && passphrase.origin == PassphraseOrigin::Config;
        Ok(Secrets {
            endpoint_key,
            passphrase,
            keep_passphrase,
            keys,
            presence,
            sync_api_key,
            api_token,
            can_token,
        })
    }
}

/// Where the settings look for the passphrase. What is given on standard input is kept in the data directory, which
/// therefore stands for it.
pub(crate) fn passphrase_sources(config: &Config) -> PassphraseSources<'_> {
    let file = config.sync_passphrase_file.as_deref().filter(|path| !identity::is_stdin(path));
    PassphraseSources { configured: config.sync_passphrase.as_ref(), file, data_dir: &config.data_dir }
}

/// The data directory alone.
fn kept_in(dir: &DataDir) -> PassphraseSources<'_> {
    PassphraseSources { configured: None, file: None, data_dir: dir.path() }
}

/// One look at everything, and what came of it so far.
struct Looking<'a> {
    origins: &'a Origins,
    problems: Vec<SettingProblem>,
    remarks: Vec<String>,
}

impl Looking<'_> {
    fn refuse(&mut self, setting: &'static str, problem: impl Into<String>) {
        self.problems.push(SettingProblem::new(self.origins, setting, problem));
    }

    fn remark(&mut self, setting: &str, remarks: Vec<String>) {
        self.remarks.extend(remarks.into_iter().map(|remark| format!("{setting}: {remark}")));
    }

    /// Takes what was read, or notes why nothing was.
    fn take<T, E: fmt::Display>(&mut self, setting: &'static str, read: Result<T, E>) -> Option<T> {
        read.map_err(|e| self.refuse(setting, e.to_string())).ok()
    }

    /// Whether what is in it can be looked at.
    fn dir(&mut self, dir: &DataDir) -> bool {
        let looked = identity::check_dir(dir.path(), Keeper::Node, Mend::Never);
        let is_there = !matches!(looked, Err(IdentityError::Io { .. }));
        if let Some(remarks) = self.take("data_dir", looked) {
            self.remark("data_dir", remarks);
        }
        is_there
    }

    fn passphrase(&mut self, config: &Config, dir: Option<&DataDir>) -> Option<Passphrase> {
        let sources = passphrase_sources(config);
        let setting = sources.setting();
        if setting == "data_dir" && dir.is_none() {
            return None;
        }
        let found = self.take(setting, Passphrase::existing(sources, Mend::Never))?;
        let Some(mut passphrase) = found else {
            if let Some(problem) = dir.and_then(left_network) {
                self.refuse("sync_passphrase", problem);
            }
            return None;
        };
        if let Some(dir) = dir.filter(|_| setting != "data_dir") {
            self.rotated(setting, &passphrase, dir);
        }
        if !config.allow_weak_passphrase {
            self.take(setting, passphrase.check_strength());
        }
        self.remark(setting, std::mem::take(&mut passphrase.remarks));
        Some(passphrase)
    }

    /// Refuses a passphrase that a person replaced: a start that took it would leave the other machines behind.
    fn rotated(&mut self, setting: &'static str, given: &Passphrase, dir: &DataDir) {
        let rotated = self.take("data_dir", identity::rotated_passphrase(dir.path()));
        let Some((rotated, mark)) = rotated.flatten() else { return };
        if *identity::normal(rotated.expose_secret()) != *identity::normal(given.secret.expose_secret()) {
            let problem = format!(
                "it gives another passphrase than the one that `can-sync passphrase rotate` made ('{}'): set that one there, \
                 or leave the setting out; to go by the setting all the same, remove '{}'",
                dir.path().join(identity::PASSPHRASE_FILE).display(),
                mark.display()
            );
            self.refuse(setting, problem);
        }
    }

    fn endpoint_key(&mut self, dir: &DataDir) {
        let looked = identity::existing_endpoint_key(dir.path(), Mend::Never);
        if let Some(Some((_, remarks))) = self.take("data_dir", looked) {
            self.remark("data_dir", remarks);
        }
    }

    /// The key from the settings; for an embedded store without any, the data directory's.
    fn sync_api_key(&mut self, config: &Config, dir: Option<&DataDir>) -> Option<SecretString> {
        let (setting, read): (_, Result<Option<FoundKey>, KeyError>) =
            match (&config.sync_api_key, &config.sync_api_key_file) {
                (Some(key), _) => {
                    let parsed = key::parse(key.expose_secret(), "it");
                    ("sync_api_key", parsed.map(|key| Some((key, Vec::new()))))
                }
                (None, Some(path)) => ("sync_api_key_file", key::read(path, Mend::Never).map(Some)),
                (None, None) if config.can_service_url.is_none() => {
                    let dir = dir?;
                    ("data_dir", key::read_if_there(&dir.path().join(key::FILE_NAME), Mend::Never))
                }
                (None, None) => {
                    self.refuse("can_service_url", KEY_NEEDED);
                    return None;
                }
            };
        let (key, remarks) = self.take(setting, read)??;
        self.remark(setting, remarks);
        Some(key)
    }

    /// The token in the file that a setting names.
    fn token(&mut self, setting: &'static str, path: Option<&Path>) -> Option<SecretString> {
        let kept = self.take(setting, identity::read_given(path?, Mend::Never))?;
        self.remark(setting, kept.remarks);
        Some(kept.text.as_str().into())
    }

    fn topic_secret(&mut self, config: &Config) -> Option<SecretString> {
        let secret = config.discovery.topic_secret.as_ref()?;
        let text = self.take("discovery.topic_secret", identity::secret_in(secret.expose_secret()))?;
        Some(text.into())
    }
}

/// Why no passphrase may be made here: the node belongs to a network, which it would leave without a word. `None` for a new
/// one, and for one that has met nobody and holds nothing.
fn left_network(dir: &DataDir) -> Option<String> {
    let is_restored = dir.path().join(RESTORED_FROM).exists();
    if !identity::has_endpoint_key(dir.path()) && !is_restored {
        return None;
    }
    let met = |entry: &address_book::RememberedPeer| entry.last_seen_ms.is_some();
    let peers =
        address_book::read(&dir.agent_db()).unwrap_or_default().iter().filter(|entry| met(entry)).count();
    let assets = EmbeddedStore::assets_at_rest(&dir.store()).unwrap_or_default();
    if peers == 0 && assets == 0 {
        return None;
    }
    let remembered = if peers == 1 { "1 peer".to_owned() } else { format!("{peers} peers") };
    let held = if assets == 1 { "1 asset".to_owned() } else { format!("{assets} assets") };
    Some(format!(
        "none is set, and '{}' belongs to a network ({remembered} remembered, {held} here): start it with the passphrase of \
         that network (`can-sync passphrase` on another machine prints it), or begin a new network with what is here by \
         `can-sync passphrase rotate`",
        dir.path().display()
    ))
}
