//! Claims about listeners with little room.

use std::sync::Arc;

use tokio::{net::UdpSocket, sync::oneshot, time::timeout};

use super::*;
use crate::{
    certificates::Store,
    config::{FixedTable, Given, Plan, Protocol},
    listen::target::Target,
    udp::{bind, serve},
    upstream::{directory::Directory, follow::publish_fixed},
    worker::{Room, Settings},
};

/// How long anything may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

async fn ask(client: &UdpSocket) {
    client.send(b"?").await.unwrap();
    let mut room = [0; 9];
    let count = timeout(PATIENCE, client.recv(&mut room)).await.expect("an answer").unwrap();
    assert_eq!(&room[..count], b"?");
}

/// A worker that may have so many flows, in front of one server that sends back what it is sent.
async fn start(flows_max: usize) -> Rc<Worker> {
    let server = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let addrs = vec![server.local_addr().unwrap().into()];
    spawn_local(async move {
        let mut room = [0; 9];
        while let Ok((count, from)) = server.recv_from(&mut room).await {
            let _ = server.send_to(&room[..count], from).await;
        }
    });
    let role: feed::Name = "app".parse().unwrap();
    let directory = Directory::new(std::slice::from_ref(&role), 1, |_| true);
    publish_fixed(&directory, &[FixedTable { role, addrs }]);
    let certificates = Arc::new(Store::open(&Default::default()).unwrap());
    let settings =
        Settings::of(&Plan::new(Given::default()).unwrap(), &directory, certificates, Arc::default());
    let room = Room { clients_max: 1, pipes_max: 1, flows_max };
    let worker = Worker::new(settings, room, 0, &directory, Arc::default(), None, 1);
    worker.start_tasks(0, &directory);
    directory.role("app").unwrap().first_table(0).await;
    worker
}

/// A listener of the worker; it closes when the sender is dropped.
fn listen(worker: &Rc<Worker>) -> (SocketAddr, oneshot::Sender<()>) {
    let socket = bind("127.0.0.1:0".parse().unwrap(), 1, true).unwrap().remove(0);
    let addr = socket.local_addr().unwrap();
    let service = Service { protocol: Protocol::Udp, target: Target::only(0, "app".into()) };
    let (open, closed) = oneshot::channel();
    let closing = async move {
        let _ = closed.await;
    };
    spawn_local(serve(worker.clone(), socket, Rc::new(RefCell::new(service)), closing));
    (addr, open)
}

async fn connect(addr: SocketAddr) -> UdpSocket {
    let client = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    client.connect(addr).await.unwrap();
    client
}

fn run(test: impl Future<Output = ()>) {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()).unwrap();
    runtime.block_on(test);
}

#[test]
fn beyond_the_limit_a_flow_ends_for_a_new_one_and_one_that_had_its_answer_first() {
    run(async {
        let worker = start(2).await;
        let (addr, _open) = listen(&worker);
        let counts = || (worker.flows.get(), worker.stats.flows.read(), worker.stats.flows_evicted.read());
        let (answered, living) = (connect(addr).await, connect(addr).await);
        ask(&living).await;
        ask(&living).await;
        ask(&answered).await;
        assert_eq!(counts(), (2, 2, 0), "at the limit");
        let third = connect(addr).await;
        ask(&third).await;
        assert_eq!(counts(), (2, 3, 0), "nothing is lost with a question that was answered");
        ask(&third).await;
        ask(&connect(addr).await).await;
        assert_eq!(counts(), (2, 4, 1), "all others were under way");
        ask(&living).await;
        assert_eq!(counts().1, 5, "it begins anew");
    });
}

#[test]
fn listeners_of_a_worker_share_its_room_and_each_may_have_a_flow() {
    run(async {
        let worker = start(2).await;
        let (first, _open) = listen(&worker);
        let (second, second_open) = listen(&worker);
        let clients = [connect(first).await, connect(first).await, connect(first).await];
        for client in &clients {
            ask(client).await;
        }
        assert_eq!(worker.flows.get(), 2);
        for _ in 0..3 {
            ask(&connect(second).await).await;
        }
        assert_eq!(worker.flows.get(), 3);
        ask(&connect(first).await).await;
        assert_eq!(worker.flows.get(), 3);
        drop(second_open);
        let until = tokio::time::Instant::now() + PATIENCE;
        while worker.flows.get() != 2 {
            assert!(tokio::time::Instant::now() < until, "the flows of a closed listener end");
            sleep(Duration::from_millis(5)).await;
        }
    });
}

#[test]
fn a_worker_has_its_share_of_the_flows_or_of_the_descriptors() {
    assert_eq!(flows_count_max(usize::MAX, 1), FLOWS_COUNT_MAX);
    assert_eq!(flows_count_max(usize::MAX, 4), FLOWS_COUNT_MAX / 4);
    assert_eq!(flows_count_max(100, 4), 100);
}
