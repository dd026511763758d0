//! Who is let into the network of the passphrase, who waits, and who is shut out.

use super::{Registry, RegistryError, signed, unsigned};

/// Endpoints that wait for somebody to approve them. Where there are so many, further ones are not noted: ids cost nothing to
/// make, and one that waits must not be pushed off by those that come later.
pub const WAITING_MAX: u32 = 256;

const DECIDE: &str = "INSERT INTO devices (endpoint_id, name, standing, at_ms) VALUES (?1, ?2, ?3, ?4)
     ON CONFLICT (endpoint_id) DO UPDATE SET standing = excluded.standing, at_ms = excluded.at_ms,
     name = CASE excluded.name WHEN '' THEN name ELSE excluded.name END";

/// Asking again neither undoes a decision nor changes since when somebody waits.
const WAIT: &str = "INSERT INTO devices (endpoint_id, name, standing, at_ms) SELECT ?1, ?2, ?3, ?4
     WHERE (SELECT count(*) FROM devices WHERE standing = 'waiting') < ?5
     OR EXISTS (SELECT 1 FROM devices WHERE endpoint_id = ?1)
     ON CONFLICT (endpoint_id) DO UPDATE SET
     name = CASE excluded.name WHEN '' THEN name ELSE excluded.name END WHERE standing = 'waiting'";

/// How an endpoint stands with the network of the passphrase.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceStanding {
    Approved,
    /// Waits for somebody to approve it.
    Waiting,
    /// Shut out, from everything.
    Denied,
}

impl DeviceStanding {
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Approved => "approved",
            Self::Waiting => "waiting",
            Self::Denied => "denied",
        }
    }

    fn parse(text: &str) -> Self {
        match text {
            "approved" => Self::Approved,
            "waiting" => Self::Waiting,
            // Whatever it is, it opens no door.
            _ => Self::Denied,
        }
    }
}

/// An endpoint that somebody decided about, or has to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Device {
    pub endpoint_id: String,
    /// What it calls itself.
    pub name: String,
    pub standing: DeviceStanding,
    /// Since when, in milliseconds since the Unix epoch.
    pub at_ms: u64,
}

impl Registry {
    /// Decides about an endpoint, or has it wait if there is room on the list of those.
    pub fn set_device(&self, device: &Device) -> Result<(), RegistryError> {
        let Device { endpoint_id, name, standing, at_ms } = device;
        let (standing, at_ms) = (standing.as_str(), signed(*at_ms));
        self.with("write", |db| {
            if device.standing == DeviceStanding::Waiting {
                db.execute(WAIT, (endpoint_id, name, standing, at_ms, WAITING_MAX))
            } else {
                db.execute(DECIDE, (endpoint_id, name, standing, at_ms))
            }
        })?;
        Ok(())
    }

    /// Every endpoint that somebody decided about, or has to.
    pub fn devices(&self) -> Result<Vec<Device>, RegistryError> {
        self.with("read", |db| {
            db.prepare("SELECT endpoint_id, name, standing, at_ms FROM devices ORDER BY at_ms DESC")?
                .query_map([], |row| {
                    Ok(Device {
                        endpoint_id: row.get(0)?,
                        name: row.get(1)?,
                        standing: DeviceStanding::parse(&row.get::<_, String>(2)?),
                        at_ms: unsigned(row.get(3)?),
                    })
                })?
                .collect()
        })
    }
}
