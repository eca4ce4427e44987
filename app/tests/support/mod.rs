//! What the tests put around a front: a sidecar, apps and a client.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use app::{serve_app_until, serve_front_until};
use feed::{
    Endpoint, EndpointState, FromSidecar, RoleTable, ToSidecar,
    frame::{Applied, SidecarCodec, SidecarHello, VERSION},
};
use futures_util::{SinkExt as _, StreamExt as _};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UnixListener, UnixStream},
    sync::oneshot,
    task::{JoinHandle, spawn_local},
};
use tokio_util::codec::Framed;

/// A service under test, and the way to stop it.
pub(crate) struct Running {
    pub(crate) addr: SocketAddr,
    pub(crate) stop: oneshot::Sender<()>,
    pub(crate) ended: JoinHandle<()>,
}

impl Running {
    pub(crate) async fn stopped(self) {
        self.stop.send(()).unwrap();
        self.ended.await.unwrap();
    }
}

/// Fails a test that would hang.
async fn soon<T>(what: &str, event: impl Future<Output = T>) -> T {
    match tokio::time::timeout(Duration::from_secs(20), event).await {
        Ok(value) => value,
        Err(_) => panic!("waited in vain for {what}"),
    }
}

pub(crate) async fn accept(listener: &TcpListener) -> TcpStream {
    soon("a connection", listener.accept()).await.unwrap().0
}

pub(crate) async fn bind(addr: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(addr).await.unwrap();
    let addr = listener.local_addr().unwrap();
    (listener, addr)
}

pub(crate) async fn start_app_at(addr: &str, node: &str) -> Running {
    let (listener, addr) = bind(addr).await;
    let (stop, stopped) = oneshot::channel::<()>();
    let node = node.parse().unwrap();
    let ended = spawn_local(serve_app_until(listener, node, "/nonexistent/feed.sock".into(), async {
        stopped.await.unwrap_or_default();
    }));
    Running { addr, stop, ended }
}

pub(crate) async fn start_app(node: &str) -> Running {
    start_app_at("127.0.0.1:0", node).await
}

/// The front `frontserver1` and the sidecar's end of its feed, which has said nothing but hello.
pub(crate) async fn start_front() -> (Running, Sidecar) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("feed.sock");
    let feed = UnixListener::bind(&path).unwrap();
    let front = start_front_beside(path).await;
    let mut sidecar = Sidecar {
        socket: Framed::new(feed.accept().await.unwrap().0, SidecarCodec::default()),
        generation: 0,
    };
    let Some(Ok(ToSidecar::Hello(hello))) = sidecar.socket.next().await else { panic!("no hello") };
    assert_eq!(hello.roles, ["appserver"]);
    let answer =
        SidecarHello { version: VERSION, node: "frontserver1".parse().unwrap(), cluster: "default".into() };
    sidecar.socket.send(FromSidecar::Hello(answer)).await.unwrap();
    sidecar.socket.send(FromSidecar::Synced { epoch: 0 }).await.unwrap();
    (front, sidecar)
}

pub(crate) async fn start_front_beside(feed: PathBuf) -> Running {
    let (listener, addr) = bind("127.0.0.1:0").await;
    let (stop, stopped) = oneshot::channel::<()>();
    let ended = spawn_local(async move {
        let node = "frontserver1".parse().unwrap();
        let role = "appserver".parse().unwrap();
        serve_front_until(listener, &node, feed, role, async { stopped.await.unwrap_or_default() }).await;
    });
    Running { addr, stop, ended }
}

/// The sidecar's end of a feed.
pub(crate) struct Sidecar {
    socket: Framed<UnixStream, SidecarCodec>,
    generation: u64,
}

impl Sidecar {
    /// Sends a table of the apps and waits until the front has applied it.
    pub(crate) async fn tell(&mut self, apps: Vec<Endpoint>) -> Applied {
        self.generation += 1;
        let table = RoleTable::new("appserver".parse().unwrap(), self.generation, apps);
        self.socket.send(FromSidecar::Table(table)).await.unwrap();
        loop {
            let applied = self.applied().await;
            if applied.generation == self.generation {
                return applied;
            }
        }
    }

    /// The next receipt.
    pub(crate) async fn applied(&mut self) -> Applied {
        match soon("a receipt", self.socket.next()).await {
            Some(Ok(ToSidecar::Applied(applied))) => applied,
            other => panic!("expected a receipt, got {other:?}"),
        }
    }
}

/// An app as the sidecar tells of it.
pub(crate) fn ready(instance: u64, addr: SocketAddr) -> Endpoint {
    Endpoint {
        node: format!("appserver{instance}").parse().unwrap(),
        instance,
        addr,
        state: EndpointState::Ready,
        weight: 100,
        since: 0.0,
        gossip_port: 0,
        tags: feed::Tags::default(),
        routes: feed::Routes::default(),
        protocol: None,
    }
}

pub(crate) fn draining(instance: u64, addr: SocketAddr) -> Endpoint {
    Endpoint { state: EndpointState::Draining, ..ready(instance, addr) }
}

pub(crate) fn suspect(instance: u64, addr: SocketAddr) -> Endpoint {
    Endpoint { state: EndpointState::Suspect, ..ready(instance, addr) }
}

/// Reads up to the blank line that ends a head.
pub(crate) async fn read_head(socket: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(soon("a head", socket.read_u8()).await.unwrap());
    }
    String::from_utf8(head).unwrap()
}

/// An answer as it came over the wire.
#[derive(Debug, PartialEq)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    pub(crate) head: String,
    pub(crate) body: String,
}

/// One request on a connection of its own.
pub(crate) async fn ask(addr: SocketAddr, method: &str, path: &str) -> Answer {
    let mut socket = TcpStream::connect(addr).await.unwrap();
    let request = format!("{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    socket.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").expect("an answer has a head");
    let status = head[9..12].parse().unwrap();
    Answer { status, head: head.to_ascii_lowercase(), body: body.to_owned() }
}

/// `GET /hello` that has to succeed.
pub(crate) async fn hello(front: SocketAddr) -> String {
    let answer = ask(front, "GET", "/hello").await;
    assert_eq!(answer.status, 200, "{answer:?}");
    answer.body
}
