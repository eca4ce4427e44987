//! A server in this process, the sidecar that it follows, and a client that speaks to it over real sockets.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{
    future,
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    time::Duration,
};

use dns::{Args, Server, upstreams::Upstream};
use feed::{
    Endpoint, EndpointState, FromSidecar, RoleTable, ToSidecar,
    frame::{SidecarCodec, SidecarHello, VERSION},
};
use futures_util::{SinkExt, StreamExt};
use hickory_proto::{
    op::{Edns, Message, Query},
    rr::{Name as DomainName, RData, Record, RecordType},
};
use tempfile::TempDir;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream, UdpSocket, UnixListener, UnixStream},
    time::timeout,
};
use tokio_util::codec::Framed;

/// Nothing on one machine takes this long, unless it never comes.
const DEADLINE: Duration = Duration::from_secs(10);

/// Who may have other names asked for.
const FRIENDS: [&str; 3] = ["127.0.0.0/24", "127.0.53.4/32", "::1/128"];

pub(crate) struct Cluster {
    pub(crate) addr: SocketAddr,
    sidecar: Framed<UnixStream, SidecarCodec>,
    generation: u64,
    _dir: TempDir,
}

impl Cluster {
    /// A server whose sidecar knows the cluster, which is the server.
    pub(crate) async fn start(forward: &[SocketAddr]) -> Self {
        let mut cluster = Self::start_untold(forward).await;
        cluster.say_synced().await;
        cluster
    }

    /// A server whose sidecar has just started, and knows nobody but the server.
    pub(crate) async fn start_untold(forward: &[SocketAddr]) -> Self {
        Self::start_on("127.0.0.1:0", forward).await
    }

    /// The same, listening on this address.
    pub(crate) async fn start_on(listen: &str, forward: &[SocketAddr]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let feed = dir.path().join("feed.sock");
        let listener = UnixListener::bind(&feed).unwrap();
        let args = Args {
            listen: vec![listen.parse().unwrap()],
            zone: "concertina.internal.".parse().unwrap(),
            feed,
            forward: forward.iter().copied().map(Upstream::Server).collect(),
            forward_for: FRIENDS.map(|net| net.parse().unwrap()).into(),
            ttl: 0,
        };
        let server = Server::bind(args).await.unwrap();
        let addr = server.addrs()[0];
        tokio::spawn(server.serve(future::pending()));
        let (socket, _) = timeout(DEADLINE, listener.accept()).await.unwrap().unwrap();
        let mut sidecar = Framed::new(socket, SidecarCodec::default());
        let Some(Ok(ToSidecar::Hello(hello))) = sidecar.next().await else { panic!("a hello comes first") };
        assert_eq!(hello.roles, ["*"]);
        let node = "dnsserver".parse().unwrap();
        let hello = SidecarHello { version: VERSION, node, cluster: "default".into() };
        sidecar.send(FromSidecar::Hello(hello)).await.unwrap();
        let mut cluster = Self { addr, sidecar, generation: 0, _dir: dir };
        cluster.publish("dnsserver", vec![endpoint("dnsserver", "127.0.0.1:53")]).await;
        cluster
    }

    /// Says that this is all, and waits until the server acts on it: until a table that came later is receipted.
    pub(crate) async fn say_synced(&mut self) {
        self.sidecar.send(FromSidecar::Synced { epoch: 1 }).await.unwrap();
        self.publish("dnsserver", vec![endpoint("dnsserver", "127.0.0.1:53")]).await;
    }

    /// Sends a table and waits for its receipt.
    pub(crate) async fn publish(&mut self, role: &str, endpoints: Vec<Endpoint>) {
        self.generation += 1;
        let table = RoleTable::new(role.parse().unwrap(), self.generation, endpoints);
        self.sidecar.send(FromSidecar::Table(table)).await.unwrap();
        loop {
            let frame = timeout(DEADLINE, self.sidecar.next()).await.unwrap().unwrap().unwrap();
            let ToSidecar::Applied(applied) = frame else { panic!("{frame:?}") };
            assert!(applied.draining.iter().all(|draining| draining.in_flight == 0));
            if applied.generation == self.generation {
                return;
            }
        }
    }

    pub(crate) async fn ask(&self, name: &str, record_type: RecordType) -> Message {
        self.ask_over_udp(&question(name, record_type)).await
    }

    pub(crate) async fn ask_over_udp(&self, question: &Message) -> Message {
        let bytes = self.exchange(&question.to_vec().unwrap()).await;
        let reply = Message::from_vec(&bytes).unwrap();
        assert_eq!(reply.metadata.id, question.metadata.id);
        reply
    }

    /// One datagram there, one back.
    pub(crate) async fn exchange(&self, bytes: &[u8]) -> Vec<u8> {
        let any: IpAddr =
            if self.addr.is_ipv4() { Ipv4Addr::UNSPECIFIED.into() } else { Ipv6Addr::UNSPECIFIED.into() };
        let socket = UdpSocket::bind((any, 0)).await.unwrap();
        socket.connect(self.addr).await.unwrap();
        socket.send(bytes).await.unwrap();
        let mut reply = vec![0; 1 << 16];
        let length = timeout(DEADLINE, socket.recv(&mut reply)).await.unwrap().unwrap();
        reply.truncate(length);
        reply
    }

    pub(crate) async fn ask_over_tcp(&self, question: &Message) -> Message {
        let mut stream = TcpStream::connect(self.addr).await.unwrap();
        write_message(&mut stream, question).await;
        timeout(DEADLINE, read_message(&mut stream)).await.unwrap()
    }
}

pub(crate) async fn write_message(stream: &mut TcpStream, message: &Message) {
    let bytes = message.to_vec().unwrap();
    stream.write_u16(bytes.len().try_into().unwrap()).await.unwrap();
    stream.write_all(&bytes).await.unwrap();
}

pub(crate) async fn read_message(stream: &mut TcpStream) -> Message {
    let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
    stream.read_exact(&mut bytes).await.unwrap();
    Message::from_vec(&bytes).unwrap()
}

pub(crate) fn question(name: &str, record_type: RecordType) -> Message {
    let mut question = Message::query();
    question.metadata.recursion_desired = true;
    question.add_query(Query::query(DomainName::from_ascii(name).unwrap(), record_type));
    question
}

pub(crate) fn question_with_edns(name: &str, record_type: RecordType, max_payload: u16) -> Message {
    let mut edns = Edns::new();
    edns.set_max_payload(max_payload);
    let mut question = question(name, record_type);
    question.set_edns(edns);
    question
}

pub(crate) fn endpoint(node: &str, addr: &str) -> Endpoint {
    Endpoint {
        node: node.parse().unwrap(),
        instance: 1,
        addr: addr.parse().unwrap(),
        state: EndpointState::Ready,
        weight: 100,
        since: 1.5,
        gossip_port: 7946,
        tags: feed::Tags::default(),
        routes: feed::Routes::default(),
        protocol: None,
    }
}

/// A name server for everything: one address over UDP and a hundred over TCP, so that it shows which was asked.
pub(crate) async fn upstream() -> SocketAddr {
    let (addr, udp, tcp) = loop {
        let tcp = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = tcp.local_addr().unwrap();
        if let Ok(udp) = UdpSocket::bind(addr).await {
            break (addr, udp, tcp);
        }
    };
    let reply_to = |asked: &Message, count: u8| {
        let mut reply = asked.clone().into_response();
        reply.metadata.truncation = count == 1 && asked.queries[0].query_type() == RecordType::TXT;
        let name = DomainName::clone(asked.queries[0].name());
        let data = |i| RData::A(Ipv4Addr::new(192, 0, 2, i).into());
        reply.add_answers((0..count).map(|i| Record::from_rdata(name.clone(), 300, data(i))));
        reply
    };
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        loop {
            let (length, from) = udp.recv_from(&mut bytes).await.unwrap();
            let reply = reply_to(&Message::from_vec(&bytes[..length]).unwrap(), 1);
            udp.send_to(&reply.to_vec().unwrap(), from).await.unwrap();
        }
    });
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = tcp.accept().await.unwrap();
            let asked = read_message(&mut stream).await;
            write_message(&mut stream, &reply_to(&asked, 100)).await;
        }
    });
    addr
}

/// A name server that answers each datagram with what `reply` makes of it.
pub(crate) async fn raw_upstream(reply: impl Fn(Vec<u8>) -> Vec<u8> + Send + 'static) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addr = socket.local_addr().unwrap();
    tokio::spawn(async move {
        let mut bytes = [0; 1500];
        loop {
            let (length, from) = socket.recv_from(&mut bytes).await.unwrap();
            socket.send_to(&reply(bytes[..length].to_vec()), from).await.unwrap();
        }
    });
    addr
}

/// The records' data, sorted.
pub(crate) fn data(records: &[Record]) -> Vec<String> {
    let mut data: Vec<String> = records.iter().map(|record| record.data.to_string()).collect();
    data.sort();
    data
}
