//! The node that `serve` and `demo` run. To be replaced by `crate::node::Node`, of which this has the outline: nothing
//! can be made of it, and starting one fails.

use std::fmt;
use std::net::SocketAddr;

use iroh::EndpointId;

use crate::config::Config;
use crate::identity::PassphraseOrigin;

/// Tells what a start is busy with.
pub(super) struct StartOutput {
    /// Called with a clause such as "stretching the passphrase".
    pub(super) progress: Box<dyn Fn(&str) + Send + Sync>,
}

/// One sentence with the next step.
#[derive(Debug)]
pub(super) struct StartError(String);

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// How a node ended.
pub(super) struct Shutdown {
    pub(super) reason: String,
    pub(super) failed: bool,
    pub(super) forced: bool,
}

/// A running node.
pub(super) enum Node {}

impl Node {
    #[expect(clippy::unused_async, reason = "the outline of what is to come")]
    pub(super) async fn start(config: Config, output: StartOutput) -> Result<Self, StartError> {
        (output.progress)("starting");
        Err(StartError(format!("this build cannot run a node in '{}' yet", config.data_dir.display())))
    }

    pub(super) fn api_addr(&self) -> SocketAddr {
        match *self {}
    }

    pub(super) fn store_url(&self) -> String {
        match *self {}
    }

    pub(super) fn endpoint_id(&self) -> EndpointId {
        match *self {}
    }

    pub(super) fn ticket(&self) -> String {
        match *self {}
    }

    pub(super) fn passphrase_origin(&self) -> PassphraseOrigin {
        match *self {}
    }

    pub(super) fn channels(&self) -> Vec<String> {
        match *self {}
    }

    /// Begins an ordered shutdown.
    pub(super) fn stop(&self) {
        match *self {}
    }

    #[expect(clippy::unused_async, reason = "the outline of what is to come")]
    pub(super) async fn wait(self) -> Shutdown {
        match self {}
    }
}
