//! What differs between two agents.
