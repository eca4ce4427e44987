//! The local cluster's control socket: orders in, what happens as lines out.

use std::{
    convert::Infallible,
    io,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
    time::Duration,
};

use anyhow::Context;
use feed::{
    Name,
    frame::FrameCodec,
    socket::{self, Served},
};
use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::{
    net::UnixStream,
    sync::{Mutex, mpsc},
    task::spawn_local,
    time::sleep,
};
use tokio_util::codec::Framed;

use super::{
    cluster::Cluster,
    told::{Tell, Told},
};
use crate::{progress::Progress, say::say};

/// Pause where no order can be accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a running cluster can be asked to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Scale(Vec<(Name, u8)>),
    Start(Name),
    Stop(Name),
    Restart(Name),
    Kill(Name),
    Pause(Name),
    Resume(Name),
}

/// What comes of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum News {
    Line(String),
    /// What is waited for from now on.
    Awaited(String),
    Done {},
    Failed(String),
}

fn socket_path(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// Listens for orders.
pub(super) async fn listen(dir: &Path) -> anyhow::Result<Served> {
    let path = socket_path(dir);
    socket::listen(&path, 0o600).await.with_context(|| path.display().to_string())
}

/// Takes orders for ever, one at a time.
pub(super) async fn serve(control: &Served, cluster: Rc<Cluster>) -> Infallible {
    let turn = Rc::new(Mutex::new(()));
    loop {
        let Ok((socket, _)) = control.listener.accept().await else {
            // Out of descriptors: no reason to end a cluster that runs.
            sleep(ACCEPT_PAUSE).await;
            continue;
        };
        let (cluster, turn) = (cluster.clone(), turn.clone());
        spawn_local(async move {
            let mut connection = Framed::new(socket, FrameCodec::<Order, News>::default());
            if let Some(Ok(order)) = connection.next().await {
                let _turn = turn.lock().await;
                let (lines, mut heard) = mpsc::unbounded_channel();
                let outcome = async {
                    let tell = |told| {
                        let news = match told {
                            Told::Line(line) => News::Line(line),
                            Told::Awaited(awaited) => News::Awaited(awaited),
                        };
                        drop(lines.send(news));
                    };
                    let outcome = carry_out(&cluster, &order, &tell).await;
                    let last = match outcome {
                        Ok(()) => News::Done {},
                        Err(error) => News::Failed(format!("{error:#}")),
                    };
                    let _ = lines.send(last);
                    drop(lines);
                };
                let forward = async {
                    while let Some(news) = heard.recv().await {
                        // Who gave the order may have gone; it is carried out all the same.
                        let _ = connection.send(news).await;
                    }
                };
                tokio::join!(outcome, forward);
            }
        });
    }
}

async fn carry_out(cluster: &Cluster, order: &Order, tell: Tell<'_>) -> anyhow::Result<()> {
    match order {
        Order::Scale(targets) => cluster.scale(targets, tell).await,
        Order::Start(name) => cluster.start_node(name, tell).await,
        Order::Stop(name) => cluster.stop_node(name, tell).await,
        Order::Restart(name) => cluster.restart_node(name, tell).await,
        Order::Kill(name) => cluster.kill_node(name, tell).await,
        Order::Pause(name) => cluster.pause_node(name, true, tell),
        Order::Resume(name) => cluster.pause_node(name, false, tell),
    }
}

/// Sends an order to the cluster in this directory and prints what comes of it.
pub(super) async fn send(dir: &Path, order: Order) -> anyhow::Result<ExitCode> {
    let socket = UnixStream::connect(socket_path(dir)).await.map_err(|error| {
        let dir = dir.display();
        if error.kind() == io::ErrorKind::PermissionDenied {
            anyhow::anyhow!("--dir {dir}: the cluster there is another user's: {error}")
        } else {
            anyhow::anyhow!(
                "--dir {dir}: no cluster is running there; start one with `concertina up`: {error}"
            )
        }
    })?;
    let mut connection = Framed::new(socket, FrameCodec::<News, Order>::default());
    connection.send(order).await?;
    let progress = Progress::waiting("the cluster");
    while let Some(news) = progress.during(connection.next()).await {
        match news? {
            News::Line(line) => say!("{line}"),
            News::Awaited(awaited) => progress.now_for(awaited),
            News::Done {} => return Ok(ExitCode::SUCCESS),
            News::Failed(why) => anyhow::bail!(why),
        }
    }
    anyhow::bail!("the cluster ended before the order was carried out")
}
