//! Routes: from a request's host and path to what serves it.
//!
//! ```text
//! Host: Shop.example.com:80 ─▶ shop.example.com ┐
//! GET /api/%61?x            ─▶ /api/a           ┴▶ Table ─▶ target
//! ```

mod key;
mod limiter;
mod rules;
mod stickiness;
mod table;

pub use key::{Key, Unroutable};
pub(crate) use rules::{Rules, Target, Usual, Verdict};
pub(crate) use stickiness::Stickiness;
pub use table::Table;
