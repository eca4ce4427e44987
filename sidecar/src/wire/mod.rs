//! What travels between nodes: packets, plain and sealed, and what is refused before anybody parses it.

pub mod access;
pub mod drops;
pub(crate) mod fnv;
pub mod gate;
pub mod keyring;
pub mod packet;
pub mod replay;
pub mod seal;
pub(crate) mod swim;
pub mod tickets;
pub(crate) mod window;
