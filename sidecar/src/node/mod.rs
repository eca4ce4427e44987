//! What is done about it: sockets, timers, signals, files, and the role's process.

mod check;
pub(crate) mod driver;
mod footprint;
mod glance;
pub mod handler;
mod intake;
pub mod key_file;
mod key_orders;
pub mod lifeline;
mod link;
mod procfs;
mod program;
mod publish;
mod recall;
mod receipts;
mod recent;
mod replace;
mod role;
mod seats;
pub mod seeds;
mod shortage;
mod signals;
mod snapshot;
mod stream;
pub mod supervise;
mod survey;
mod tickets;
