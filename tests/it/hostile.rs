//! Peers that do not keep to the rules: each is shut out, or the one asset refused, and nobody else notices.

mod bulk;
mod content;
mod crowds;
mod denied;
mod entries;
mod floods;
mod frames;
pub(crate) mod lanes;
mod proofs;
mod records;
mod reflection;
mod strangers;
