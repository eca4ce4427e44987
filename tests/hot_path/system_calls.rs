//! A keep-alive request costs four data system calls: one read and one write on either side.
//!
//! Counted by `strace`.

use std::{
    collections::BTreeMap,
    io::{BufRead, BufReader},
    process::{Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use rustix::process::{Pid, Signal, kill_process};

use crate::{
    origin::{self, Client},
    running::Running,
    skip, stage,
};

const REQUESTS_COUNT: u64 = 2000;

/// What may come on top of all requests together: what happens once, at the begin and the end of the count.
const CONSTANT_CALLS: u64 = 16;

/// Reads from and writes to sockets, by whatever name. A plain write is none: it wakes the event loop by its eventfd, when a
/// timer of the loop's own comes due.
const DATA_CALLS: [&str; 8] = ["readv", "recv", "recvfrom", "recvmsg", "writev", "send", "sendto", "sendmsg"];

pub(crate) const WAIT_CALLS: [&str; 3] = ["epoll_wait", "epoll_pwait", "epoll_pwait2"];

/// The ticks in this time, whatever the requests do: the deadlines', every 100 ms, and the pools', every second. Each is a wait,
/// and a write that ends it.
fn ticks_at_most(time: Duration) -> u64 {
    u64::try_from(time.as_millis()).unwrap() / 80
}

/// How often each system call was made.
pub(crate) type Calls = BTreeMap<String, u64>;

/// Counts the calls that a proxy makes during `act`; none: there is no `strace`.
pub(crate) fn count_calls(proxy: &Running, act: impl FnOnce()) -> Option<Calls> {
    let counts = tempfile::NamedTempFile::new().unwrap();
    let mut strace = Command::new("strace");
    strace.args(["-f", "-c", "-p", &proxy.id().to_string(), "-o"]).arg(counts.path());
    let mut strace = match strace.env("LC_ALL", "C").stderr(Stdio::piped()).spawn() {
        Ok(strace) => strace,
        Err(error) => {
            skip::part(&format!("strace, so that system calls are not counted ({error})"));
            return None;
        }
    };
    let mut lines = BufReader::new(strace.stderr.take().unwrap()).lines().map_while(Result::ok);
    let attached = lines.find(|line| line.contains(" attached"));
    assert!(attached.is_some(), "strace may not trace the proxy");
    act();
    // It detaches, and says what it counted.
    kill_process(Pid::from_child(&strace), Signal::INT).unwrap();
    lines.for_each(drop);
    strace.wait().unwrap();
    Some(parse_counts(&std::fs::read_to_string(counts.path()).unwrap()))
}

/// The columns are: share, seconds, time for a call, calls, perhaps errors, name.
fn parse_counts(table: &str) -> Calls {
    let of_line = |line: &str| {
        let columns: Vec<&str> = line.split_whitespace().collect();
        let name = *columns.last()?;
        (name != "total").then_some((name.to_owned(), columns.get(3)?.parse().ok()?))
    };
    table.lines().filter_map(of_line).collect()
}

/// Sends [`REQUESTS_COUNT`] over so many connections at a time, and checks what they cost.
fn check_cost(connections: usize) {
    let _stage = stage();
    let proxy = Running::start(origin::start(connections));
    let mut clients: Vec<Client> = (0..connections).map(|_| Client::connect(proxy.addr)).collect();
    let everybody = |clients: &mut Vec<Client>, act: fn(&mut Client)| {
        thread::scope(|scope| clients.iter_mut().for_each(|client| drop(scope.spawn(move || act(client)))));
    };
    // Everything is connected, on both sides, and was used.
    everybody(&mut clients, Client::get_together);
    everybody(&mut clients, |client| (0..10).for_each(|_| client.get()));
    let mut time = Duration::ZERO;
    let calls = count_calls(&proxy, || {
        let started = Instant::now();
        thread::scope(|scope| {
            for client in &mut clients {
                scope.spawn(|| (0..REQUESTS_COUNT / connections as u64).for_each(|_| client.get()));
            }
        });
        time = started.elapsed();
    });
    let Some(calls) = calls else { return };
    let sum = |names: &[&str]| names.iter().filter_map(|name| calls.get(*name)).sum::<u64>();
    let (data, waits) = (sum(&DATA_CALLS), sum(&WAIT_CALLS));
    let others = calls.values().sum::<u64>() - data - waits;
    let of_request = |count: u64| f64::from(u32::try_from(count).unwrap()) / REQUESTS_COUNT as f64;
    eprintln!(
        "{connections} connections: {:.3} data calls and {:.3} waits a request, {others} others in all, {time:.0?}: {calls:?}",
        of_request(data),
        of_request(waits),
    );
    let expected = 4 * REQUESTS_COUNT;
    let once = CONSTANT_CALLS + ticks_at_most(time);
    assert!((expected..=expected + CONSTANT_CALLS).contains(&data), "{data} data calls: {calls:?}");
    assert!(waits <= 2 * REQUESTS_COUNT + once, "{waits} waits: {calls:?}");
    assert!(others <= once, "{others} other calls: {calls:?}");
}

#[test]
fn a_keep_alive_request_costs_four_data_system_calls_and_two_waits() {
    check_cost(1);
}

#[test]
fn requests_side_by_side_cost_no_more_than_one_after_another() {
    check_cost(8);
}

#[test]
fn a_table_of_counts_is_read_whether_or_not_calls_failed() {
    let table = "% time     seconds  usecs/call     calls    errors syscall\n\
                 ------ ----------- ----------- --------- --------- ----------------\n \
                 60.00    0.000300           3       100           sendto\n \
                 40.00    0.000200           2       101         1 recvfrom\n\
                 ------ ----------- ----------- --------- --------- ----------------\n\
                 100.00    0.000500           2       201         1 total\n";
    assert_eq!(parse_counts(table), Calls::from([("sendto".into(), 100), ("recvfrom".into(), 101)]));
}
