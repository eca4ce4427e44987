//! ClientHellos: the verdict does not depend on how the bytes come, and a host that is found is the one that rustls finds.
//!
//! The first byte says how the rest becomes a message, the second where it is cut; each message is cut into records of one length.

#![no_main]

use std::ops::ControlFlow;

use libfuzzer_sys::fuzz_target;
use proxy::{
    http1::Parse,
    listen::client_hello::{ClientHello, HELLO_BYTES_MAX, NotAHello, parse},
};
use rustls::server::Acceptor;

type Verdict = Result<Parse<ClientHello>, NotAHello>;

/// The bytes of a connection that an input stands for.
fn connection(kind: u8, rest: &[u8]) -> Vec<u8> {
    let record_bytes = usize::from(kind >> 2) * 8 + 1;
    match kind & 3 {
        0 => rest.to_vec(),
        1 => records(rest, record_bytes),
        2 => records(&message(rest), record_bytes),
        _ => {
            // All before the extensions is well-formed.
            let mut body = vec![3, 3];
            body.extend([7; 32]);
            body.extend([0, 0, 2, 0x13, 1, 1, 0]);
            body.extend(u16::try_from(rest.len()).unwrap_or(u16::MAX).to_be_bytes());
            body.extend(rest);
            records(&message(&body), record_bytes)
        }
    }
}

fn message(body: &[u8]) -> Vec<u8> {
    let length = u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes();
    [&[1], &length[1..], body].concat()
}

fn records(message: &[u8], record_bytes: usize) -> Vec<u8> {
    let record = |part: &[u8]| {
        let length = u16::try_from(part.len()).unwrap_or(u16::MAX).to_be_bytes();
        [&[22, 3, 1], &length[..], part].concat()
    };
    message.chunks(record_bytes).flat_map(record).collect()
}

/// The verdict of whoever looks each time that more has come.
fn verdict(bytes: &[u8], lengths: impl Iterator<Item = usize>) -> Verdict {
    let looked = lengths.chain([bytes.len()]).try_for_each(|length| match parse(&bytes[..length]) {
        Ok(Parse::NeedMore) => ControlFlow::Continue(()),
        verdict => ControlFlow::Break(verdict),
    });
    match looked {
        ControlFlow::Break(verdict) => verdict,
        ControlFlow::Continue(()) => Ok(Parse::NeedMore),
    }
}

/// The host that rustls finds; none if it accepts nothing.
fn accepted(mut bytes: &[u8]) -> Option<Option<String>> {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        if acceptor.read_tls(&mut bytes).ok()? == 0 {
            return None;
        }
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => return Some(accepted.client_hello().server_name().map(str::to_owned)),
            Err(_) => return None,
        }
    }
    None
}

fuzz_target!(|input: &[u8]| {
    let [kind, cut, rest @ ..] = input else { return };
    let mut bytes = connection(*kind, rest);
    bytes.truncate(HELLO_BYTES_MAX);
    let whole = parse(&bytes);
    let step = usize::from(*cut) + 1;
    assert_eq!(verdict(&bytes, (0..bytes.len()).step_by(step)), whole);
    // What comes behind a verdict changes nothing about it.
    if whole != Ok(Parse::NeedMore) && bytes.len() < HELLO_BYTES_MAX {
        assert_eq!(parse(&[&bytes[..], &[*cut]].concat()), whole);
    }
    match (whole, accepted(&bytes)) {
        (Ok(Parse::Done(ours)), Some(theirs)) => {
            let is_ip = |name: &String| name.parse::<std::net::IpAddr>().is_ok();
            // Addresses are no hosts (RFC 6066 3): nobody has such a role, and rustls tells of none.
            let ours = ours.server_name.filter(|name| !is_ip(name));
            let plain = |name: String| name.strip_suffix('.').unwrap_or(&name).to_ascii_lowercase();
            assert_eq!(ours, theirs.map(plain));
        }
        // A client that rustls would serve by a name is not sent away.
        (ours, Some(Some(theirs))) => panic!("{ours:?}, but rustls reads {theirs}"),
        _ => {}
    }
});
