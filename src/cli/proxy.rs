//! `concertina proxy`: the program, and what is asked of one that runs.

use std::process::ExitCode;

use clap::Subcommand;

use crate::{ask, say::say};

/// What to do.
#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct ProxyArgs {
    #[command(subcommand)]
    order: Option<ProxyOrder>,
    #[command(flatten)]
    args: proxy::Args,
    /// Say what the proxy would do, or what is wrong with its settings, without starting it
    #[arg(long)]
    check: bool,
}

#[derive(Subcommand)]
enum ProxyOrder {
    /// Have the proxy of a node read its file again: all of it or, where something is wrong, nothing
    Reload(ask::ReloadArgs),
    /// Print the JSON Schema of the file, for editors
    Schema,
    /// Start the program of a node's proxy anew beside its process, and have that drain once the new one serves
    Upgrade(ask::UpgradeArgs),
}

impl ProxyArgs {
    /// What the proxy would go by.
    pub(super) fn plan(&self) -> anyhow::Result<proxy::config::Plan> {
        proxy::Proxy::check(&self.args)
    }
}

/// Runs it, or asks one that runs.
pub(crate) async fn proxy(args: ProxyArgs) -> anyhow::Result<ExitCode> {
    match args.order {
        Some(ProxyOrder::Reload(args)) => return ask::reload(args).await,
        Some(ProxyOrder::Upgrade(args)) => ask::upgrade(args).await?,
        Some(ProxyOrder::Schema) => say!("{}", proxy::config::schema()),
        None if args.check => say!("{}", args.plan()?),
        None => proxy::run(args.args).await?,
    }
    Ok(ExitCode::SUCCESS)
}
