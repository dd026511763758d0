//! Large assets between real agents: interrupted, from several sources, some of which are slow or lie.

mod progress;
mod resume;
mod sources;
