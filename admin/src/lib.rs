//! The admin port's HTTP: what may be asked, by whom, and how answers leave.
//!
//! ```text
//! connection ─▶ serve (hyper, bounded) ─▶ Asked ─▶ whoever knows ─▶ Answer ─▶ connection
//! ```
//!
//! [`asked`] decides what a request asks for and whether its sender may, and is pure. [`map`] is the page that shows the answers to people.
//! This crate knows nothing of members, metrics or drains: the sidecar answers.

pub mod asked;
pub mod map;
mod serve;
pub mod token;

pub use asked::Asked;
pub use serve::{Answer, serve};
pub use token::Token;
