//! `concertina`: an elastic front door for containers that come and go.
//!
//! One binary, several programs: each subcommand is one, and its code is its own crate. What is here is the
//! command line ([`cli`]), the local cluster (`up`), and questions to a sidecar ([`ask`]).

mod ask;
mod cli;
mod container;
#[cfg(any(feature = "local", feature = "top"))]
mod http;
mod keys;
mod place;
mod progress;
mod say;
#[cfg(feature = "top")]
mod top;
#[cfg(feature = "local")]
mod up;

use std::process::ExitCode;

use cli::Command;

fn main() -> ExitCode {
    program::start();
    let code = match cli::parse() {
        Ok(command) => run_to_end(command),
        Err(code) => code,
    };
    program::flush();
    code
}

fn run_to_end(command: Command) -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread();
    let outcome = { runtime }
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .map_err(anyhow::Error::from)
        .and_then(|runtime| {
            let outcome = runtime.block_on(run(command));
            // A look-up of a name that is under way would keep the program until the resolver gives up.
            runtime.shutdown_background();
            outcome
        });
    outcome.unwrap_or_else(|error| {
        program::stderr().insist(&format!("error: {error:#}"));
        ExitCode::FAILURE
    })
}

async fn run(command: Command) -> anyhow::Result<ExitCode> {
    match command {
        #[cfg(feature = "local")]
        Command::Up(args) => up::run(args).await?,
        #[cfg(feature = "local")]
        Command::Scale(args) => return up::scale(args).await,
        #[cfg(feature = "local")]
        Command::Node(command) => return up::node(command).await,
        #[cfg(feature = "local")]
        Command::Logs(args) => return up::logs(args).await,
        Command::Sidecar(args) => return sidecar::run(*args).await,
        Command::Proxy(args) => return cli::proxy(*args).await,
        Command::Dns(args) => dns::run(args).await?,
        Command::Front(args) => app::run_front(args).await?,
        Command::App(args) => app::run_app(args).await?,
        Command::Members(args) => ask::members(args).await?,
        Command::Routes(args) => ask::routes(args).await?,
        Command::Tags(args) => ask::tags(args).await?,
        Command::Event(args) => ask::event(args).await?,
        Command::Query(args) => return ask::query(args).await,
        Command::Monitor(args) => ask::monitor(args).await?,
        Command::Wait(args) => return ask::wait(args).await,
        Command::Stats(args) => ask::stats(args).await?,
        Command::Health(args) => return ask::health(args).await,
        Command::Leave(args) => ask::leave(args).await?,
        Command::ForceLeave(args) => ask::force_leave(args).await?,
        Command::Explain(args) => ask::explain(args).await?,
        #[cfg(feature = "top")]
        Command::Top(args) => return top::top(args).await,
        Command::Keys(command) => return keys::keys(command).await,
        Command::Check(args) => return cli::check(args),
        #[cfg(feature = "manual")]
        Command::Completions(args) => cli::completions(&args),
        #[cfg(feature = "manual")]
        Command::Man(args) => cli::man(&args)?,
    }
    Ok(ExitCode::SUCCESS)
}
