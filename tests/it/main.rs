//! Everything that is tested from outside a module, in one binary.

mod store_conformance;
mod store_embedded;
mod store_faults;
mod store_list;
mod store_merge;
mod support;
