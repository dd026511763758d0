//! Who takes part: members that are looked for and written down, and machines that are let in or shut out.

use iroh::{EndpointAddr, EndpointId};

use super::Manager;
use crate::clock::now_ms;
use crate::discovery::channel::Channel;
use crate::library::error::LibraryError;
use crate::library::registry::{Device, DeviceStanding, Registry};
use crate::library::report::DeviceReport;

impl Manager {
    /// Has members looked for.
    pub fn dial(&self, addrs: Vec<EndpointAddr>) {
        for addr in addrs.into_iter().filter(|addr| addr.id != self.own_id) {
            self.members.found(addr, Channel::Library);
        }
    }

    pub async fn decide(&self, id: EndpointId, standing: DeviceStanding) -> Result<(), LibraryError> {
        let device = Device { endpoint_id: id.to_string(), name: String::new(), standing, at_ms: now_ms() };
        self.registry(move |registry| registry.set_device(&device)).await?;
        self.libraries.set_standing(id, standing);
        self.gate.enforce(&id);
        Ok(())
    }

    /// Every endpoint that was decided about, or waits.
    pub async fn devices(&self) -> Result<Vec<DeviceReport>, LibraryError> {
        let devices = self.registry(Registry::devices).await?;
        Ok(devices.into_iter().map(DeviceReport::from).collect())
    }

    /// Writes down which members were in sync lately.
    ///
    /// # Errors
    /// A registry that does not work; the news are lost then, and come again.
    pub async fn write_news(&self) -> Result<(), LibraryError> {
        for library in self.libraries.shared() {
            let Some(shared) = library.shared() else { continue };
            let (id, news) = (shared.id(), shared.take_news());
            if !news.is_empty() {
                let write = move |registry: &Registry| {
                    news.iter().try_for_each(|member| registry.remember(id, member))
                };
                self.registry(write).await?;
            }
        }
        Ok(())
    }

    /// Has members of joined libraries looked for, where none is connected.
    pub fn look_for_members(&self) {
        for library in self.libraries.shared() {
            let Some(shared) = library.shared() else { continue };
            if shared.key().is_some() || shared.is_connected() {
                continue;
            }
            match shared.check_own(self.own_id, now_ms()) {
                Ok(()) => self.dial(shared.ticket().addrs),
                Err(why) => shared.set_refused(why.to_string()),
            }
        }
    }
}
