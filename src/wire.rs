//! What agents say to each other: the messages ([`proto`]) and how one is put on a stream.

pub mod decode;
mod frame;
pub mod fuzz;
pub mod proto;

pub use frame::{
    FIRST_FRAME_BYTES_MAX, FRAME_BYTES_MAX, WireError, decode_frame, encode, read_bytes, read_frame,
    read_frame_of, read_header, read_message, write_frame, write_message,
};
