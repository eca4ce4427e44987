//! `concertina keys`: the keys that a cluster's gossip is sealed with.

use anyhow::Context;
use sidecar::keyring::Key;

#[derive(clap::Subcommand)]
pub(crate) enum KeysCommand {
    /// Print a new key: a line for the key file
    Generate,
}

pub(crate) fn keys(command: &KeysCommand) -> anyhow::Result<()> {
    match command {
        KeysCommand::Generate => {
            println!("{}", Key::generate().context("the system has no randomness")?.encode());
            Ok(())
        }
    }
}
