//! What must be true of a played script.

use proxy::http1::{
    Body, BodyKind, Parse, Pieces,
    head::{Hop, is_head_line, parse_request},
};
use proxy_fuzz::{
    peer::{Ending, Side},
    strict::{End, Extensions, Read, Request, Response, read_request, read_response},
};

use crate::Played;

/// Checks it.
///
/// # Panics
/// Something is not true.
pub fn check(played: &Played) {
    let said: Vec<Response> = played.upstreams.iter().flat_map(said_by).collect();
    check_client(&played.client, &said);
}

/// The whole responses of an upstream's connection. What it received must be requests, one after the other, of which the last
/// may be incomplete.
fn said_by(upstream: &Side) -> Vec<Response> {
    let (mut received, mut sent) = (&upstream.received[..], &upstream.sent[..]);
    let mut said = Vec::new();
    // Until the upstream has said something that nobody can read: then the proxy may not use the connection again.
    let mut is_over = false;
    loop {
        let request = match read_request(received) {
            Read::Message(request) => request,
            Read::Partial => break,
            Read::Malformed(why) => panic!("the upstream received: {why}"),
        };
        assert!(!is_over, "a request after the end of all responses");
        // A tunnel that nobody asked for, or before the end of its request, is no answer.
        let may_tunnel = request.wants_upgrade && request.end != End::Cut;
        let answered = take_response(&mut sent, &request, upstream.ended)
            .filter(|response| response.status != 101 || may_tunnel);
        is_over = answered.is_none();
        let is_tunnel = answered.as_ref().is_some_and(|response| response.status == 101);
        said.extend(answered);
        match request.end {
            End::Whole(length) if !is_tunnel => received = &received[length..],
            _ => break,
        }
    }
    said
}

/// Takes the whole response to this request off what was sent.
fn take_response(sent: &mut &[u8], request: &Request, ended: Option<Ending>) -> Option<Response> {
    let (skipped, read) = read_response(sent, &request.method, Extensions::Skipped);
    let Read::Message(response) = read else { return None };
    match response.end {
        End::Whole(length) => *sent = &sent[skipped + length..],
        End::AtClose if ended == Some(Ending::Closed) => *sent = &[],
        End::AtClose | End::Cut => return None,
    }
    Some(response)
}

/// The methods of the requests that the client sent, as far as the proxy reads them; whether another one is incomplete or
/// refused.
fn asked(client: &Side) -> (Vec<String>, bool) {
    let (mut methods, mut rest) = (Vec::new(), &client.sent[..]);
    loop {
        while let Some(after) = rest.strip_prefix(b"\r\n") {
            rest = after;
        }
        let mut pieces = Pieces::default();
        let Ok(Parse::Done(head)) = parse_request(&mut rest.to_vec(), Hop::plain("role"), &mut pieces) else {
            if is_head_line(rest) {
                methods.push("HEAD".to_owned());
            }
            return (methods, !rest.is_empty());
        };
        let method = rest.split(|&byte| byte == b' ').next().unwrap_or_default();
        methods.push(String::from_utf8_lossy(method).into_owned());
        let (mut body, mut at) = (Body::new(head.framing, true), head.bytes);
        while !body.is_done() && at < rest.len() {
            let Ok(next) = body.scan(rest, at, &mut Pieces::default()) else { return (methods, true) };
            at = next;
        }
        debug_assert!(body.kind() != BodyKind::UntilClose);
        if !body.is_done() || !head.keep_alive {
            return (methods, true);
        }
        rest = &rest[at..];
    }
}

fn check_client(client: &Side, said: &[Response]) {
    let (methods, has_more) = asked(client);
    let mut rest = &client.received[..];
    let mut answered = 0;
    while !rest.is_empty() {
        let method = methods.get(answered).map_or("GET", |method| method);
        assert!(answered < methods.len() + usize::from(has_more), "an answer without a request");
        answered += 1;
        let (skipped, read) = read_response(rest, method, Extensions::Malformed);
        let response = match read {
            Read::Message(response) => response,
            Read::Partial => return,
            Read::Malformed(why) => panic!("the client received: {why}"),
        };
        let length = match response.end {
            End::Whole(length) => skipped + length,
            End::AtClose if client.seen == Some(Ending::Closed) => rest.len(),
            End::AtClose | End::Cut => return,
        };
        rest = &rest[length..];
        let is_same = |other: &Response| (other.status, &other.body) == (response.status, &response.body);
        if response.status == 101 {
            assert!(said.iter().any(|other| other.status == 101), "a tunnel to nobody");
            return;
        }
        if is_refusal(&response, method) {
            assert!(rest.is_empty(), "bytes after a refusal");
            return;
        }
        assert!(said.iter().any(is_same), "no upstream said this to the end: {response:?}, but {said:?}");
    }
}

/// An answer of the proxy's own.
fn is_refusal(response: &Response, method: &str) -> bool {
    // 200 to OPTIONS that may go no further.
    let is_status = matches!(response.status, 200 | 400 | 405 | 408 | 413 | 414 | 431 | 501..=505);
    let is_body = method == "HEAD" || response.body.ends_with(b"\n");
    let is_own = response.status != 200 || method == "OPTIONS";
    is_status && is_own && response.closes && response.is_plain_text && is_body
}
