//! The whole system as real processes on this machine: one command, elasticity, start order, and what the parts promise
//! each other. Not what one crate can show by itself: that is tested there.
//!
//! Every cluster has a directory of its own and free ports, so the tests run beside each other and beside clusters that
//! are not theirs.

#![expect(clippy::unwrap_used, reason = "a test that cannot go on has failed")]

mod admin;
mod alone;
mod browser;
mod certificates;
mod claims;
mod elastic;
mod examples;
mod flows;
mod grpc;
mod keys;
mod launcher;
mod map;
mod names;
mod proofs;
mod questions;
mod recall;
mod reload;
mod routes;
mod sealed;
mod services;
mod start_order;
mod stopping;
mod streams;
mod support;
mod tickets;
mod top;
mod tunnel;
mod upgrade;
mod wrapped;
