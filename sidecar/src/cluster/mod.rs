//! What a node knows of its cluster, and what follows from it: no socket, no clock, no file.

pub mod advert;
pub(crate) mod broadcast;
pub(crate) mod codec;
pub(crate) mod drain;
pub mod effect;
pub(crate) mod event;
pub(crate) mod explain;
pub(crate) mod health;
pub mod input;
pub mod labels;
pub(crate) mod lifelines;
pub mod member_id;
pub mod membership;
pub mod peer;
pub(crate) mod picture;
pub mod query;
pub(crate) mod role_tables;
pub(crate) mod sync;
pub(crate) mod timers;
pub mod trouble;
pub(crate) mod twins;
pub(crate) mod verdicts;
