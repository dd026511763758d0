//! Everything that is tested from outside a module, in one binary.

mod agent_api;
mod service_http;
mod store_embedded;
mod support;
