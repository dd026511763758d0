//! Boot, shutdown, supervision: the whole tree is put together here.

pub mod events;
