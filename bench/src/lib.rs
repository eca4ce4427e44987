//! How fast the parts are, and the proxy beside others.
//!
//! ```text
//! benches/ ── corpus ──▶ time of a head, a body, a table             (cargo bench -p bench)
//! wrk ──▶ proxy under test ──▶ origin                                (bench compare)
//!         └─ CPU time, read from /proc ──▶ results/compare.{csv,md,svg}
//! N agents ── log lines ──▶ when each knows what happened to one     (bench members)
//!          └─ processor time and memory, from /proc
//! memberships on a virtual clock ──▶ when all tables are right        (bench scale)
//! ```
//!
//! `README.md` says what each number means and how far it carries.

pub mod compare;
pub mod corpus;
mod event_loop;
pub mod members;
pub mod origin;
pub mod relay;
pub mod scale;
