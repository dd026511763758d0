//! Moving content: who is asked for what ([`fetching`], [`schedule`]), and the two ends of a content stream ([`send`], [`receive`]).

pub mod active;
pub mod commit;
pub mod fetching;
pub mod meter;
pub mod pace;
pub mod partial;
pub mod ranges;
pub mod receive;
pub mod schedule;
pub mod search;
pub mod send;
pub mod setbacks;
pub mod streams;
pub mod take;
pub mod turns;
