//! Everything that is tested from outside a module, in one binary.

mod can_http_conformance;
mod can_http_faults;
mod can_service;
mod service_http;
mod store_conformance;
mod store_embedded;
mod store_list;
mod store_merge;
mod support;
