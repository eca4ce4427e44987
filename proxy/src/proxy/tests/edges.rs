//! Claims about what comes before a protocol.

use super::*;
use crate::listen::{
    client_hello::{
        DECODE_ERROR, UNRECOGNIZED_NAME,
        tests::{hello, server_name},
    },
    proxy_header::encode_v2,
};

/// An upstream that answers, and says what it was sent.
pub(super) fn start_echo_of_head() -> (SocketAddr, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let (addr, (heard, heads)) = (listener.local_addr().unwrap(), mpsc::channel());
    thread::spawn(move || {
        for mut stream in listener.incoming().map_while(Result::ok) {
            let heard = heard.clone();
            thread::spawn(move || {
                let mut head = Vec::new();
                while read_head(&mut stream, &mut head) {
                    let _ = heard.send(String::from_utf8_lossy(&head).into_owned());
                    let _ = stream.write_all(b"HTTP/1.1 204 No Content\r\n\r\n");
                }
            });
        }
    });
    (addr, heads)
}

#[test]
fn a_client_is_who_the_proxy_in_front_says_and_without_that_word_it_is_nobody() {
    let (origin, requests) = start_echo_of_head();
    let proxy = start(&[origin], "--workers=1 --proxy-protocol=127.0.0.0/8 --forwarded=x");
    for header in [
        &b"PROXY TCP4 192.0.2.7 192.0.2.8 7 8\r\n"[..],
        &encode_v2("192.0.2.7:7".parse().unwrap(), "192.0.2.8:8".parse().unwrap()),
    ] {
        let mut client = connect(&proxy);
        client.write_all(&[header, REQUEST].concat()).unwrap();
        assert_eq!(read_status(&mut client), 204);
        assert!(requests.recv_timeout(PATIENCE).unwrap().contains("X-Forwarded-For: 192.0.2.7\r\n"));
    }
    let mut client = connect(&proxy);
    client.write_all(b"PROXY UNKNOWN\r\n").unwrap();
    client.write_all(REQUEST).unwrap();
    assert_eq!(read_status(&mut client), 204);
    assert!(requests.recv_timeout(PATIENCE).unwrap().contains("X-Forwarded-For: 127.0.0.1\r\n"));
    let mut client = connect(&proxy);
    client.write_all(REQUEST).unwrap();
    assert!(!matches!(client.read(&mut [0; 1]), Ok(1..)), "no answer to whoever hides behind the proxy");
    // It is counted behind its close.
    let until = std::time::Instant::now() + PATIENCE;
    while sum(&proxy, |s| &s.clients_unheard) != 1 {
        assert!(std::time::Instant::now() < until, "it is counted");
        thread::sleep(Duration::from_millis(10));
    }
    proxy.stop();
}

#[test]
fn an_endpoint_is_told_whose_tcp_connection_it_is_before_its_first_byte() {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap();
    let flags = format!("--workers=1 --listen=tcp://127.0.0.1:0=db --upstream=db={addr} --send-proxy=db=v1");
    let proxy = start(&[addr], &flags);
    let mut client = TcpStream::connect(proxy.addrs()[1]).unwrap();
    let (own, to) = (client.local_addr().unwrap(), client.peer_addr().unwrap());
    let expected = format!("PROXY TCP4 127.0.0.1 127.0.0.1 {} {}\r\n", own.port(), to.port());
    let mut seen = vec![0; expected.len()];
    let mut at_upstream = listener.accept().unwrap().0;
    at_upstream.read_exact(&mut seen).unwrap();
    assert_eq!(String::from_utf8(seen).unwrap(), expected, "though the client has said nothing");
    client.write_all(b"hello").unwrap();
    let mut rest = [0; 5];
    at_upstream.read_exact(&mut rest).unwrap();
    assert_eq!(&rest, b"hello");
    proxy.stop();
}

#[test]
fn a_tls_client_goes_where_the_host_leads_that_it_asks_for() {
    let listeners = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
    let [web, other] = [0, 1].map(|i: usize| listeners[i].local_addr().unwrap());
    let flags = format!(
        "--workers=1 --listen=tls://127.0.0.1:0,tls://127.0.0.1:0=other --upstream=web={web} --upstream=other={other} \
         --sni=*.web.example=web"
    );
    let proxy = start(&[web], &flags);
    let say = |listener: usize, bytes: &[u8]| {
        let mut client = TcpStream::connect(proxy.addrs()[listener]).unwrap();
        client.set_read_timeout(Some(PATIENCE)).unwrap();
        client.write_all(bytes).unwrap();
        client
    };
    let named = |name: &str| hello(&server_name(name.as_bytes()), 16_000);
    let arrives = |listener: usize, bytes: &[u8], at: usize| {
        let _client = say(listener, bytes);
        let mut seen = vec![0; bytes.len()];
        listeners[at].accept().unwrap().0.read_exact(&mut seen).unwrap();
        assert_eq!(seen, bytes, "as it came");
    };
    arrives(1, &named("a.web.example"), 0);
    arrives(2, &named("a.web.example"), 0);
    arrives(2, &named("elsewhere.example"), 1);
    arrives(2, &hello(&[], 16_000), 1);
    for (bytes, alert) in [(&named("elsewhere.example")[..], UNRECOGNIZED_NAME), (REQUEST, DECODE_ERROR)] {
        let mut seen = [0; 7];
        say(1, bytes).read_exact(&mut seen).unwrap();
        assert_eq!(seen, alert);
    }
    proxy.stop();
}
