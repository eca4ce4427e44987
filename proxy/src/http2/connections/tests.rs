//! Claims about connections whose upstream says nothing.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};

use super::*;
use crate::{
    certificates::seal_by,
    limits::{H2_ORIGIN_PONG_TIMEOUT, H2_ORIGIN_SILENCE},
    stream::Transport,
};

/// How long anything may take before it has failed.
const PATIENCE: Duration = Duration::from_secs(20);

/// SETTINGS, by which it bears a hundred streams.
const SETTINGS: &[u8] = b"\0\0\x06\x04\0\0\0\0\0\0\x03\0\0\0\x64";

/// Types of the frames behind what a client begins with.
fn kinds(told: &[u8]) -> Vec<u8> {
    let (mut rest, mut kinds) = (told.get(24..).unwrap_or_default(), Vec::new());
    while let Some((head, behind)) = rest.split_first_chunk::<9>() {
        kinds.push(head[3]);
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
        rest = behind.get(length..).unwrap_or_default();
    }
    kinds
}

fn origin(listener: &TcpListener, seal: Option<Rc<Seal>>) -> Origin {
    Origin {
        addr: Address::Ip(listener.local_addr().unwrap()),
        seal,
        shelf: Rc::new(Shelves::new(1)),
        patience: PATIENCE,
        now_ms: 0,
        stats: Arc::default(),
    }
}

#[test]
fn an_attempt_that_fails_by_one_trust_says_nothing_of_another() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = Rc::<Connections>::default();
        let pin = data_encoding::BASE64.encode(&[1; 32]);
        let mut sealed = connections.open(origin(&listener, Some(seal_by(&format!("sha256//{pin}")))));
        // Waits for the attempt that is under way.
        let mut plain = connections.open(origin(&listener, None));
        drop(timeout(PATIENCE, listener.accept()).await.unwrap().unwrap());
        let failed = poll_fn(|context| sealed.poll_connected(context)).await.unwrap_err();
        assert!(matches!(failed, AttemptFailure::Tls(_)), "{failed:?}");
        let (mut upstream, _) = timeout(PATIENCE, listener.accept()).await.expect("another attempt").unwrap();
        upstream.write_all(SETTINGS).await.unwrap();
        poll_fn(|context| plain.poll_connected(context)).await.unwrap();
    });
}

#[test]
fn a_stream_at_an_upstream_that_is_frozen_ends_behind_one_ping_and_says_so() {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_all().build_local(tokio::runtime::LocalOptions::default()).unwrap();
    runtime.block_on(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = Rc::<Connections>::default();
        let mut link = connections.open(origin(&listener, None));
        let (mut upstream, _) = listener.accept().await.unwrap();
        upstream.write_all(SETTINGS).await.unwrap();
        poll_fn(|context| link.poll_connected(context)).await.unwrap();
        let request = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n";
        poll_fn(|context| link.poll_send(context, request)).await.unwrap();
        let mut told = Vec::new();
        while !kinds(&told).contains(&1) {
            assert!(upstream.read_buf(&mut told).await.unwrap() > 0);
        }
        // From here on it neither reads nor says anything, and nothing else takes any time.
        tokio::time::pause();
        let started = Instant::now();
        poll_fn(|context| link.poll_recv_ready(context)).await.unwrap();
        assert!(link.is_silent());
        let waited = started.elapsed();
        let limit = H2_ORIGIN_SILENCE + H2_ORIGIN_PONG_TIMEOUT;
        assert!((limit - PATIENCE / 4..=limit + PATIENCE / 4).contains(&waited), "{waited:?}");
        tokio::time::resume();
        upstream.read_to_end(&mut told).await.unwrap();
        assert_eq!(kinds(&told).into_iter().filter(|kind| *kind == 6).count(), 1, "{:?}", kinds(&told));
        assert!(connections.open.borrow().is_empty());
    });
}
