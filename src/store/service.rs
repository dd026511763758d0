//! The CAN Service's HTTP API.
