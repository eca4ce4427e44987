//! gRPC's health protocol (`grpc.health.v1.Health/Check`), over cleartext HTTP/2 with prior knowledge.
//!
//! Its two messages have one field each, which does not make a protobuf library worth its while.

use std::{io, net::SocketAddr, time::Duration};

use bytes::{BufMut, Bytes, BytesMut};
use h2::client;
use tokio::{net::TcpStream, time::timeout};

use crate::cluster::trouble::Trouble;

/// Longest answer that is read: the message has two bytes.
const ANSWER_BYTES_MAX: usize = 1024;
/// A message's flags and length before it.
const PREFIX_BYTES: usize = 5;

/// How long a connection may take to end in order after its answer.
pub(super) const REST_TIMEOUT: Duration = Duration::from_millis(200);

/// Asks whether a service serves; an empty name is the server as a whole.
pub(super) async fn probe(addr: SocketAddr, service: &str) -> io::Result<Result<(), Trouble>> {
    let stream = TcpStream::connect(addr).await?;
    let (sender, connection) = match client::handshake(stream).await {
        Ok(handshaken) => handshaken,
        Err(error) => return failed(error),
    };
    let mut connection = std::pin::pin!(connection);
    let asked = tokio::select! {
        asked = ask(sender, addr, service) => asked,
        ended = &mut connection => return ended.map_or_else(failed, |()| Ok(Err(Trouble::Closed))),
    };
    // The connection ends in order when nobody uses it any more.
    let _ = timeout(REST_TIMEOUT, connection).await;
    asked.map_or_else(failed, Ok)
}

fn failed(error: h2::Error) -> io::Result<Result<(), Trouble>> {
    if error.is_io() {
        return Err(error.into_io().unwrap_or_else(|| io::ErrorKind::ConnectionReset.into()));
    }
    Ok(Err(Trouble::Garbled))
}

async fn ask(
    sender: client::SendRequest<Bytes>,
    addr: SocketAddr,
    service: &str,
) -> Result<Result<(), Trouble>, h2::Error> {
    let mut sender = sender.ready().await?;
    let request = http::Request::post(format!("http://{addr}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("user-agent", "concertina-check")
        .body(())
        .expect("constant fields, and a target of an address");
    let (response, mut body) = sender.send_request(request, false)?;
    body.send_data(encode_request(service), true)?;
    let (head, mut body) = response.await?.into_parts();
    if head.status != http::StatusCode::OK {
        return Ok(Err(Trouble::Http(head.status.as_u16())));
    }
    let mut said = BytesMut::new();
    while let Some(data) = body.data().await {
        let data = data?;
        body.flow_control().release_capacity(data.len())?;
        if said.len() + data.len() > ANSWER_BYTES_MAX {
            return Ok(Err(Trouble::Garbled));
        }
        said.put(data);
    }
    // An answer that is nothing but a failure has its status in the head.
    let trailers = body.trailers().await?.unwrap_or(head.headers);
    let status = trailers.get("grpc-status").and_then(|status| status.to_str().ok()?.parse().ok());
    Ok(match (status, parse_answer(&said)) {
        (Some(0), Some(true)) => Ok(()),
        (Some(0), Some(false)) => Err(Trouble::NotServing),
        (Some(0) | None, _) => Err(Trouble::Garbled),
        (Some(status), _) => Err(Trouble::Grpc(status)),
    })
}

/// A `HealthCheckRequest`: field 1, the service's name. Names have at most 127 bytes: see the command line.
fn encode_request(service: &str) -> Bytes {
    let length = u8::try_from(service.len()).unwrap_or_default();
    let message_length = if length == 0 { 0 } else { 2 + u32::from(length) };
    let mut request = BytesMut::new();
    request.put_u8(0);
    request.put_u32(message_length);
    if length > 0 {
        request.put_slice(&[0x0a, length]);
        request.put_slice(service.as_bytes());
    }
    request.freeze()
}

/// Whether a `HealthCheckResponse` says that it serves: field 1 is 1. None: it is no such message.
fn parse_answer(said: &[u8]) -> Option<bool> {
    let (prefix, message) = said.split_at_checked(PREFIX_BYTES)?;
    let is_whole = prefix[0] == 0 && prefix[1..] == u32::try_from(message.len()).ok()?.to_be_bytes();
    match message {
        _ if !is_whole => None,
        // A zero is left out.
        [] => Some(false),
        [0x08, status @ 0..=0x7f] => Some(*status == 1),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use h2::server;
    use tokio::net::TcpListener;

    use super::*;

    /// Answers one call with these bytes and this status.
    async fn serve(listener: TcpListener, answer: &'static [u8], status: &'static str) -> Vec<u8> {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = server::handshake(stream).await.unwrap();
        let mut asked = Vec::new();
        while let Some(call) = connection.accept().await {
            let (request, mut respond) = call.unwrap();
            assert_eq!(request.uri().path(), "/grpc.health.v1.Health/Check");
            let response = http::Response::builder().header("content-type", "application/grpc");
            if answer.is_empty() {
                let response = response.header("grpc-status", status);
                respond.send_response(response.body(()).unwrap(), true).unwrap();
                continue;
            }
            let mut body = respond.send_response(response.body(()).unwrap(), false).unwrap();
            body.send_data(Bytes::from_static(answer), false).unwrap();
            let trailers =
                http::HeaderMap::from_iter([("grpc-status".parse().unwrap(), status.parse().unwrap())]);
            body.send_trailers(trailers).unwrap();
            tokio::task::spawn_local(async move {
                let mut body = request.into_body();
                while body.data().await.is_some() {}
            });
            asked = answer.to_vec();
        }
        asked
    }

    #[tokio::test(flavor = "current_thread")]
    async fn a_service_serves_if_it_says_so_with_status_zero() {
        const SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 1];
        const NOT_SERVING: &[u8] = &[0, 0, 0, 0, 2, 8, 2];
        for (answer, status, expected) in [
            (SERVING, "0", Ok(())),
            (NOT_SERVING, "0", Err(Trouble::NotServing)),
            (&[0, 0, 0, 0, 0], "0", Err(Trouble::NotServing)),
            (SERVING, "13", Err(Trouble::Grpc(13))),
            (&[], "5", Err(Trouble::Grpc(5))),
            (&[1, 2, 3], "0", Err(Trouble::Garbled)),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let addr = listener.local_addr().unwrap();
            let both = async { tokio::join!(probe(addr, "billing"), serve(listener, answer, status)) };
            let (found, _) = tokio::task::LocalSet::new().run_until(both).await;
            assert_eq!(found.unwrap(), expected, "{answer:?} {status}");
        }
    }

    #[test]
    fn the_messages_are_those_of_the_protocol() {
        assert_eq!(encode_request("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(encode_request("a.B")[..], *b"\0\0\0\0\x05\x0a\x03a.B");
        assert_eq!(encode_request(&"s".repeat(127)).len(), PREFIX_BYTES + 2 + 127);
        for bad in [&b""[..], b"\0\0\0\0", b"\x01\0\0\0\0", b"\0\0\0\0\x02\x08", b"\0\0\0\0\x02\x10\x01"] {
            assert_eq!(parse_answer(bad), None, "{bad:?}");
        }
    }
}
