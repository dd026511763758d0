//! What an agent says of itself to its network, signed with its endpoint key. Pure.
