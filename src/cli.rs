//! The command lines: one module per program or command. The only place that prints.

pub mod can_service;
