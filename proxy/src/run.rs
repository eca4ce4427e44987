//! The program: signals, and whoever asks it to read its file again.

use tokio::signal::unix::{SignalKind, signal};

use crate::{Proxy, config::Args, control, held::Held};

/// Runs a proxy until it is asked to stop, then lets exchanges under way end.
///
/// # Errors
/// An address that cannot be listened on, a file that cannot be read, or settings that contradict each other; the message says which.
pub async fn run(args: Args) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut report = signal(SignalKind::user_defined1())?;
    // With nothing to read or open anew, the signal keeps its meaning.
    let hears_hangup = args.config.is_some() || args.given.access_log_file.is_some();
    let mut hangup = hears_hangup.then(|| signal(SignalKind::hangup())).transpose()?;
    let proxy = Proxy::start_with(&args, Held::from_env()?)?;
    let mut hung_up = async || match &mut hangup {
        Some(hangup) => hangup.recv().await,
        None => std::future::pending().await,
    };
    tokio::select! {
        () = proxy.follow() => {}
        () = async {
            proxy.serves().await;
            proxy.held().tell_ready();
            std::future::pending::<()>().await;
        } => {}
        () = proxy.keep_certificates() => {}
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = control::serve(&proxy, &args) => {}
        () = async {
            loop {
                tokio::select! {
                    _ = report.recv() => tracing::info!("{}", proxy.summary()),
                    _ = hung_up() => {
                        proxy.reopen_log();
                        let _ = proxy.reload(&args).await;
                    }
                }
            }
        } => {}
    }
    let summary = proxy.summary();
    proxy.stop();
    tracing::info!("stopped, {summary}");
    Ok(())
}
