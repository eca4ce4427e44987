//! The same promises on containers: the walk-through of the README, command by command, on the default bridge, on a network
//! of its own and by compose; and proofs that nothing is lost while containers come, go and fail.
//!
//! Runs whenever a Docker engine answers, and must run where `CI` is set. The images are built once from this tree.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod compose;
mod images;
mod proofs;
mod support;
mod walkthrough;
