//! `concertina tags`: what is said of a node, read and changed while it runs.

use anyhow::bail;
use feed::{FromSidecar, Tag, Tags, ToSidecar};

use super::Target;
use crate::say::{escaped, say};

#[derive(clap::Args)]
pub(crate) struct TagsArgs {
    #[command(subcommand)]
    change: Option<Change>,
    #[command(flatten)]
    target: Target,
}

#[derive(clap::Subcommand)]
enum Change {
    /// Set tags
    Set {
        /// The tags
        #[arg(required = true, value_name = "KEY=VALUE")]
        tags: Vec<Tag>,
    },
    /// Delete tags
    Delete {
        /// Their keys; one that is not there is no error
        #[arg(required = true, value_name = "KEY")]
        keys: Vec<String>,
    },
}

/// Prints the tags that the node has now, one a line.
pub(crate) async fn tags(args: TagsArgs) -> anyhow::Result<()> {
    let (set, delete) = match args.change {
        None => (Tags::default(), Vec::new()),
        Some(Change::Set { tags }) => (Tags::new(tags)?, Vec::new()),
        Some(Change::Delete { keys }) => (Tags::default(), keys),
    };
    let FromSidecar::Tags(tags) = args.target.ask_node(ToSidecar::Tags { set, delete }).await?.next().await?
    else {
        bail!("the sidecar answered something else than tags");
    };
    tags.iter().for_each(|(key, value)| say!("{}={}", escaped(key), escaped(value)));
    Ok(())
}
