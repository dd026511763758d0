//! A CAN Service behind HTTP.
