//! Bulk connections: the contents of a session flow on a connection of their own in each direction.
//!
//! A connection that carries much both ways is slow: iroh 1.4 drops what it is about to send when the connection's task spent
//! its turn on receiving, and takes that for congestion. One that carries contents one way drops nothing but acknowledgements,
//! which the next ones make good. Contents that wait for a disk then hold up no control frame either.
//!
//! The sender opens it ([`BulkOutgoing`]), once there is content worth it, at the addresses where the session's connection
//! has its paths; contents go over the session's own connection until then, and wherever no bulk connection comes about.
//! The receiver takes it in ([`BulkSessions`]). Both first prove that they take part in the session
//! ([`BulkSecret`](super::auth::BulkSecret)), on a bidirectional stream: 32 bytes from the opener, 32 bytes back. All other streams are
//! unidirectional and carry contents, as on the session's connection.
//!
//! A bulk connection is no peer: it has no place, no actor and no part in which of two connections is kept. It ends with the
//! control stream of its session. There is one of them in each direction; one that comes later takes the other's place. Either end
//! closes one on which nothing comes any more ([`Pulse`]): the session's connection may have found another path where it did not.

mod incoming;
mod outgoing;
mod pulse;
mod window;

pub use self::incoming::{BulkArrivals, BulkSessions};
pub use self::outgoing::{BulkCarrier, BulkOutgoing, Carrying};
pub use self::pulse::Pulse;
pub use self::window::{BulkWindow, InboundWindow};
