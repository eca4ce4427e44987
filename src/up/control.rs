//! The local cluster's control socket: orders in, what happens as lines out.

use std::{
    convert::Infallible,
    path::{Path, PathBuf},
    process::ExitCode,
    rc::Rc,
};

use anyhow::Context;
use feed::{Name, frame::FrameCodec};
use futures_util::{SinkExt, StreamExt};
use serde::{Deserialize, Serialize};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::{Mutex, mpsc},
    task::spawn_local,
};
use tokio_util::codec::Framed;

use super::{Scalable, cluster::Cluster};
use crate::say::say;

/// What a running cluster can be asked to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Order {
    Scale(Vec<(Scalable, u8)>),
    Start(Name),
    Stop(Name),
    Kill(Name),
    Pause(Name),
    Resume(Name),
}

/// What comes of it.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum News {
    Line(String),
    Done {},
    Failed(String),
}

fn socket_path(dir: &Path) -> PathBuf {
    dir.join("control.sock")
}

/// Binds the socket. The directory's lock is held: whatever is there is a leftover.
pub(super) fn listen(dir: &Path) -> anyhow::Result<UnixListener> {
    let path = socket_path(dir);
    let _ = std::fs::remove_file(&path);
    UnixListener::bind(&path).with_context(|| format!("{}: cannot listen there", path.display()))
}

/// Takes orders for ever, one at a time.
pub(super) async fn serve(listener: UnixListener, cluster: Rc<Cluster>) -> anyhow::Result<Infallible> {
    let turn = Rc::new(Mutex::new(()));
    loop {
        let (socket, _) = listener.accept().await.context("control socket")?;
        let (cluster, turn) = (cluster.clone(), turn.clone());
        spawn_local(async move {
            let mut connection = Framed::new(socket, FrameCodec::<Order, News>::default());
            if let Some(Ok(order)) = connection.next().await {
                let _turn = turn.lock().await;
                let (lines, mut heard) = mpsc::unbounded_channel();
                let outcome = async {
                    let outcome =
                        carry_out(&cluster, &order, &|line| drop(lines.send(News::Line(line)))).await;
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

async fn carry_out(cluster: &Cluster, order: &Order, tell: &dyn Fn(String)) -> anyhow::Result<()> {
    match order {
        Order::Scale(targets) => cluster.scale(targets, tell).await,
        Order::Start(name) => cluster.start_node(name, tell).await,
        Order::Stop(name) => cluster.stop_node(name, tell).await,
        Order::Kill(name) => cluster.kill_node(name, tell).await,
        Order::Pause(name) => cluster.pause_node(name, true, tell),
        Order::Resume(name) => cluster.pause_node(name, false, tell),
    }
}

/// Sends an order to the cluster in this directory and prints what comes of it.
pub(super) async fn send(dir: &Path, order: Order) -> anyhow::Result<ExitCode> {
    let socket = UnixStream::connect(socket_path(dir)).await.with_context(|| {
        format!("--dir {}: no cluster is running there; start one with `concertina up`", dir.display())
    })?;
    let mut connection = Framed::new(socket, FrameCodec::<News, Order>::default());
    connection.send(order).await?;
    while let Some(news) = connection.next().await {
        match news? {
            News::Line(line) => say!("{line}"),
            News::Done {} => return Ok(ExitCode::SUCCESS),
            News::Failed(why) => anyhow::bail!(why),
        }
    }
    anyhow::bail!("the cluster ended before the order was carried out")
}
