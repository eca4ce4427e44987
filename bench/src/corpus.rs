//! What the benches measure with: messages as clients and servers send them, tables as a cluster has them.

use std::fmt::Write as _;

use feed::{Endpoint, EndpointState, RoleTable};

/// What `wrk` sends.
pub const GET_SMALL: &[u8] = b"GET /hello HTTP/1.1\r\nHost: 127.0.0.1:8080\r\n\r\n";

/// What a browser sends: 15 fields, and a cookie that is longer than the others together.
pub const GET_BROWSER: &[u8] = b"GET /articles/2025/11/a-front-door?page=2&sort=new HTTP/1.1\r\n\
    Host: www.example.org\r\n\
    Connection: keep-alive\r\n\
    Cache-Control: max-age=0\r\n\
    sec-ch-ua: \"Chromium\";v=\"142\", \"Not_A Brand\";v=\"99\"\r\n\
    sec-ch-ua-mobile: ?0\r\n\
    sec-ch-ua-platform: \"Linux\"\r\n\
    Upgrade-Insecure-Requests: 1\r\n\
    User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n\
    Accept: text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8\r\n\
    Sec-Fetch-Site: same-origin\r\n\
    Sec-Fetch-Mode: navigate\r\n\
    Referer: https://www.example.org/articles/2025/11/\r\n\
    Accept-Encoding: gzip, deflate, br, zstd\r\n\
    Accept-Language: en-GB,en;q=0.9,de;q=0.8\r\n\
    Cookie: session=7f3c1d90a5b24e6d8f01; theme=dark; consent=eyJhbmFseXRpY3MiOmZhbHNlLCJhZHMiOmZhbHNlfQ; \
    _ga=GA1.1.1203498571.1763800000; _ga_X1Y2Z3=GS2.1.s1763820000$o7$g1$t1763820123$j60$l0$h0\r\n\r\n";

/// A request with a body of known length.
pub const POST_JSON: &[u8] = b"POST /orders HTTP/1.1\r\n\
    Host: api.example.org\r\n\
    Content-Type: application/json\r\n\
    Accept: application/json\r\n\
    Authorization: Bearer 0b8f6a2d9c3e47f1a5d0\r\n\
    Content-Length: 16384\r\n\r\n";

/// A request with a body in chunks.
pub const POST_CHUNKED: &[u8] = b"POST /upload HTTP/1.1\r\n\
    Host: api.example.org\r\n\
    Content-Type: application/octet-stream\r\n\
    Transfer-Encoding: chunked\r\n\r\n";

/// What the origin of the load tests answers.
pub const RESPONSE_SMALL: &[u8] =
    b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 35\r\n\r\n";

/// What an application behind a web framework answers.
pub const RESPONSE_APPLICATION: &[u8] = b"HTTP/1.1 200 OK\r\n\
    Date: Sat, 22 Nov 2025 18:00:00 GMT\r\n\
    Server: gunicorn\r\n\
    Connection: keep-alive\r\n\
    Content-Type: text/html; charset=utf-8\r\n\
    Transfer-Encoding: chunked\r\n\
    Vary: Accept-Encoding, Cookie\r\n\
    X-Frame-Options: DENY\r\n\
    X-Content-Type-Options: nosniff\r\n\
    Referrer-Policy: same-origin\r\n\
    Set-Cookie: session=7f3c1d90a5b24e6d8f01; HttpOnly; Path=/; SameSite=Lax; Secure\r\n\r\n";

/// `count` chunks of `chunk_bytes` each, and the last one.
pub fn chunked(count: usize, chunk_bytes: usize) -> Vec<u8> {
    let chunk = format!("{chunk_bytes:x}\r\n{}\r\n", "x".repeat(chunk_bytes));
    (chunk.repeat(count) + "0\r\n\r\n").into_bytes()
}

/// The table of a role with so many ready endpoints.
pub fn table(generation: u64, count: u32) -> RoleTable {
    let mut node = String::new();
    let endpoint = |i: u32| {
        node.clear();
        write!(node, "appserver{i}").expect("a string takes every write");
        Endpoint {
            node: node.parse().expect("letters and digits make a name"),
            instance: 1_763_820_000_000 + u64::from(i),
            addr: (std::net::Ipv4Addr::from(0xac11_0000 + i), 8080).into(),
            state: EndpointState::Ready,
            weight: 100,
            since: 1_763_820_000.125 + f64::from(i),
            gossip_port: 7946,
            tags: feed::Tags::default(),
            routes: feed::Routes::default(),
            protocol: None,
        }
    };
    let role = "appserver".parse().expect("letters make a name");
    RoleTable::new(role, generation, (1..=count).map(endpoint).collect())
}

#[cfg(test)]
mod tests {
    use proxy::http1::{
        Body, Framing, Parse, Pieces, Version,
        head::{Exchanged, Hop, parse_request, parse_response},
    };

    use super::*;

    #[test]
    fn every_head_is_whole_and_accepted() {
        let framings = [GET_SMALL, GET_BROWSER, POST_JSON, POST_CHUNKED].map(|head| {
            let parsed = parse_request(&mut head.to_vec(), Hop::plain("default"), &mut Pieces::default());
            let Ok(Parse::Done(parsed)) = parsed else { panic!("{parsed:?}") };
            assert_eq!(parsed.bytes, head.len());
            parsed.framing
        });
        assert_eq!(framings, [Framing::Empty, Framing::Empty, Framing::Length(16384), Framing::Chunked]);
        assert_eq!(GET_BROWSER.iter().filter(|&&b| b == b'\n').count(), 1 + 15 + 1);
        for head in [RESPONSE_SMALL, RESPONSE_APPLICATION] {
            let exchanged = Exchanged {
                to_head: false,
                client: Version::Http11,
                upgrade: false,
                keep_alive: true,
                is_rest_long: false,
                is_http2: false,
                via: None,
                date: None,
                fields: None,
                cookie: None,
                request_id: None,
            };
            let parsed = parse_response(&mut head.to_vec(), exchanged, &mut Pieces::default());
            let Ok(Parse::Done(parsed)) = parsed else { panic!("{parsed:?}") };
            assert!(parsed.bytes == head.len() && parsed.client_keep_alive);
        }
    }

    #[test]
    fn chunks_end_where_they_should() {
        let bytes = chunked(3, 1000);
        let mut body = Body::new(Framing::Chunked, true);
        assert_eq!(body.scan(&bytes, 0, &mut Pieces::default()), Ok(bytes.len()));
        assert!(body.is_done());
    }

    #[test]
    fn a_table_has_as_many_endpoints_as_asked_for() {
        assert_eq!(table(1, 1000).endpoints().len(), 1000);
    }
}
