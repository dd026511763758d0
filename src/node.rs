//! Boot, shutdown, supervision: the whole tree is put together here.

pub mod endpoint;
pub mod events;
pub mod policy;
pub mod restart;
pub mod signals;
pub mod status;
pub mod supervisor;
