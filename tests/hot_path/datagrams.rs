//! What datagrams cost: a question and its answer a handful of calls, a flow under load less than one a datagram.
//!
//! Counted by `strace`.

use std::{
    net::{SocketAddr, UdpSocket},
    thread,
    time::{Duration, Instant},
};

use crate::{
    running::Running,
    stage,
    system_calls::{Calls, WAIT_CALLS, count_calls},
};

const QUESTIONS_COUNT: usize = 1000;

const BURSTS_COUNT: usize = 200;

/// Datagrams that are under way together, as at a QUIC sender.
const BURST_COUNT: usize = 32;

/// What may come on top of all datagrams together.
const CONSTANT_CALLS: u64 = 32;

/// How long an answer may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// Sends back what it is sent, until the process ends.
fn start_echo() -> SocketAddr {
    let socket = bind();
    socket.set_read_timeout(None).unwrap();
    let addr = socket.local_addr().unwrap();
    thread::spawn(move || {
        let mut room = [0; 2048];
        while let Ok((count, from)) = socket.recv_from(&mut room) {
            let _ = socket.send_to(&room[..count], from);
        }
    });
    addr
}

fn bind() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket2::SockRef::from(&socket).set_recv_buffer_size(4 << 20).unwrap();
    socket.set_read_timeout(Some(PATIENCE)).unwrap();
    socket
}

fn connect(addr: SocketAddr) -> UdpSocket {
    let socket = bind();
    socket.connect(addr).unwrap();
    socket
}

/// The calls without those that wait, and the time.
fn sum(calls: &Calls, began: Instant) -> u64 {
    let waits = calls.iter().filter(|(name, _)| WAIT_CALLS.contains(&name.as_str()));
    let waits: u64 = waits.map(|(_, count)| *count).sum();
    // The ticks.
    let ticks = u64::try_from(began.elapsed().as_millis()).unwrap() / 80;
    calls.values().sum::<u64>().saturating_sub(waits + ticks + CONSTANT_CALLS)
}

#[test]
fn a_question_from_a_port_of_its_own_costs_ten_calls_with_its_answer() {
    let _stage = stage();
    let proxy = Running::start_at("udp://127.0.0.1:0=origin", start_echo());
    let began = Instant::now();
    let calls = count_calls(&proxy, || {
        for number in 0..QUESTIONS_COUNT {
            let (client, mut room) = (connect(proxy.addr), [0; 64]);
            client.send(&number.to_be_bytes()).unwrap();
            assert_eq!(client.recv(&mut room).unwrap(), 8);
            assert_eq!(room[..8], number.to_be_bytes());
        }
    });
    let Some(calls) = calls else { return };
    let cost = sum(&calls, began) as f64 / QUESTIONS_COUNT as f64;
    eprintln!("{cost:.3} calls a question, beside waits: {calls:?}");
    assert!(cost <= 10.0, "{cost}: {calls:?}");
}

#[test]
fn a_flow_under_load_costs_less_than_a_call_a_datagram() {
    let _stage = stage();
    let proxy = Running::start_at("udp://127.0.0.1:0=origin", start_echo());
    for length in [64, 1200] {
        let (client, mut room) = (connect(proxy.addr), [0; 2048]);
        let mut burst = |number: usize| {
            let datagram = vec![number as u8; length];
            (0..BURST_COUNT).for_each(|_| assert_eq!(client.send(&datagram).unwrap(), length));
            for _ in 0..BURST_COUNT {
                assert_eq!(client.recv(&mut room).unwrap(), length);
                assert!(room[..length] == datagram[..]);
            }
        };
        (0..4).for_each(&mut burst);
        let began = Instant::now();
        let Some(calls) = count_calls(&proxy, || (0..BURSTS_COUNT).for_each(&mut burst)) else { return };
        // Each way.
        let count = 2 * BURSTS_COUNT * BURST_COUNT;
        let cost = sum(&calls, began) as f64 / count as f64;
        eprintln!("{length} B: {cost:.3} calls a datagram, beside waits: {calls:?}");
        assert!(cost < 1.0, "{cost}: {calls:?}");
    }
}
