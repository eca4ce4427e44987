//! What of a head passes: the original lines without those that end here, and the few that a proxy must add.

use std::ops::Range;

use super::{
    Fields, Pieces, Reject, Version,
    fields::FieldSet,
    head::{Exchanged, Hop, Layout, ResponseHead, is_authority},
    pieces::Full,
};
use crate::limits::TARGET_BYTES_MAX;

impl From<Full> for Reject {
    fn from(_: Full) -> Self {
        Self::TooManyCuts
    }
}

/// Fills `pieces` with the request's head as an upstream is to see it.
pub(super) fn request(
    layout: &Layout<'_>,
    found: &Fields,
    method: &str,
    target: Range<usize>,
    host: Option<&[u8]>,
    hop: Hop<'_>,
    pieces: &mut Pieces,
) -> Result<(), Reject> {
    pieces.clear();
    let text = &layout.buffer[target.clone()];
    if text.len() > TARGET_BYTES_MAX {
        return Err(Reject::TargetTooLong);
    }
    // Fragments never leave a client (RFC 9112 3.2), and what is not visible ASCII is read differently by everyone.
    if !text.iter().all(|&b| b.is_ascii_graphic() && b != b'#') {
        return Err(Reject::Target);
    }
    let mut authority = None;
    match text.first() {
        Some(b'/') => pieces.push(0..layout.fields_start)?,
        Some(b'*') if text.len() == 1 && method == "OPTIONS" => pieces.push(0..layout.fields_start)?,
        _ => authority = Some(push_absolute(layout, method, target, pieces)?),
    }
    if let (Some(authority), Some(host)) = (authority, host)
        && !authority.eq_ignore_ascii_case(host)
    {
        return Err(Reject::HostMismatch);
    }
    let told = hop.forwarding.map(|forwarding| forwarding.read(layout.fields, found.hop_by_hop));
    let dropped = found.hop_by_hop & !set_of(found.upgrade) | told.map_or(0, |told| told.dropped);
    push_kept(layout, dropped, pieces)?;
    if host.is_none() {
        pieces.add(b"Host: ")?;
        pieces.add(authority.unwrap_or(hop.host.as_bytes()))?;
        pieces.add(b"\r\n")?;
    }
    if found.upgrade.is_some() {
        pieces.add(b"Connection: Upgrade\r\n")?;
    }
    if let (Some(forwarding), Some(told)) = (hop.forwarding, told) {
        let asked = host.or(authority).ok_or(hop.host);
        forwarding.push(layout, told, asked, hop.peer, pieces)?;
    }
    push_via(hop.via, layout.version, pieces)?;
    pieces.push(layout.bytes - 2..layout.bytes)?;
    Ok(())
}

/// RFC 9110 7.6.3: the version is that of the message that came, the name ours. A line of its own continues the list.
fn push_via(name: Option<&str>, version: Version, pieces: &mut Pieces) -> Result<(), Full> {
    let Some(name) = name else { return Ok(()) };
    let minor = u8::from(version == Version::Http11);
    pieces.add_fmt(format_args!("Via: 1.{minor} {name}\r\n"))
}

/// An absolute target becomes what an origin server reads (RFC 9112 3.2.1, 3.2.4); returns its authority.
fn push_absolute<'a>(
    layout: &Layout<'a>,
    method: &str,
    target: Range<usize>,
    pieces: &mut Pieces,
) -> Result<&'a [u8], Reject> {
    const SCHEME: &[u8] = b"http://";
    let text = &layout.buffer[target.clone()];
    if !text.get(..SCHEME.len()).is_some_and(|scheme| scheme.eq_ignore_ascii_case(SCHEME)) {
        return Err(Reject::Target);
    }
    let rest = &text[SCHEME.len()..];
    let path = rest.iter().position(|b| b"/?".contains(b)).unwrap_or(rest.len());
    let (authority, after) = rest.split_at(path);
    if !is_authority(authority) {
        return Err(Reject::Target);
    }
    pieces.push(0..target.start)?;
    match after.first() {
        Some(b'/') => {}
        None if method == "OPTIONS" => pieces.add(b"*")?,
        _ => pieces.add(b"/")?,
    }
    pieces.push(target.start + SCHEME.len() + path..layout.fields_start)?;
    Ok(authority)
}

/// Fills `pieces` with the response's head as the client is to see it.
pub(super) fn response(
    layout: &Layout<'_>,
    found: &Fields,
    head: &ResponseHead,
    exchanged: Exchanged<'_>,
    pieces: &mut Pieces,
) -> Result<(), Reject> {
    pieces.push(0..layout.fields_start)?;
    // RFC 9110 7.8: it tells which protocol is spoken (101), or is to be (426); elsewhere it only advertises this hop.
    let upgrade = found.upgrade.filter(|_| matches!(head.status, 101 | 426));
    // RFC 9112 6.1: HTTP/1.0 is not told of transfer codings, not even where no body follows. Chunks are undone for it.
    let coding = found.transfer_encoding.filter(|_| exchanged.client == Version::Http10);
    push_kept(layout, found.hop_by_hop & !set_of(upgrade) | set_of(coding), pieces)?;
    if upgrade.is_some() {
        pieces.add(b"Connection: Upgrade\r\n")?;
    }
    if head.status != 101 && !head.is_interim() {
        match (head.client_keep_alive, exchanged.client) {
            (false, _) => pieces.add(b"Connection: close\r\n")?,
            (true, Version::Http10) => pieces.add(b"Connection: keep-alive\r\n")?,
            (true, Version::Http11) => {}
        }
    }
    push_via(exchanged.via, layout.version, pieces)?;
    pieces.push(layout.bytes - 2..layout.bytes)?;
    Ok(())
}

fn set_of(field: Option<u8>) -> FieldSet {
    field.map_or(0, |index| 1 << index)
}

fn push_kept(layout: &Layout<'_>, dropped: FieldSet, pieces: &mut Pieces) -> Result<(), Full> {
    let end = layout.bytes - 2;
    if dropped == 0 {
        return pieces.push(layout.fields_start..end);
    }
    for position in 0..layout.fields.len() {
        if dropped & (1 << position) == 0 {
            pieces.push(layout.line_start(position)..layout.line_start(position + 1))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use crate::{
        http1::{
            Parse, Pieces, Reject,
            Version::*,
            head::{Exchanged, Hop, parse_request, parse_response},
        },
        limits::PIECES_COUNT_MAX,
    };

    fn passed<T>(
        input: &str,
        parse: impl Fn(&mut [u8], &mut Pieces) -> Result<Parse<T>, Reject>,
    ) -> Result<String, Reject> {
        let (mut buffer, mut pieces) = (input.as_bytes().to_vec(), Pieces::default());
        assert!(matches!(parse(&mut buffer, &mut pieces)?, Parse::Done(_)), "incomplete");
        let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
        let count = pieces.slices(&buffer, &mut slices);
        Ok(slices[..count].iter().map(|slice| String::from_utf8_lossy(slice)).collect())
    }

    fn request(input: &str) -> Result<String, Reject> {
        passed(input, |buffer, pieces| parse_request(buffer, Hop::plain("role"), pieces))
    }

    fn response(input: &str, exchanged: Exchanged<'_>) -> Result<String, Reject> {
        passed(input, |buffer, pieces| parse_response(buffer, exchanged, pieces))
    }

    const GET: Exchanged<'_> =
        Exchanged { to_head: false, client: Http11, upgrade: false, keep_alive: true, via: None };

    #[test]
    fn a_request_without_anything_to_cut_is_one_piece_of_the_bytes_that_came() {
        let input = b"POST /a?b HTTP/1.1\r\nhOST: a\r\nX:  y \r\nX: z\r\nContent-Length: 0\r\n\r\n";
        let mut pieces = Pieces::default();
        parse_request(&mut input.to_vec(), Hop::plain("role"), &mut pieces).unwrap();
        assert_eq!(pieces.single(input), Some(&input[..]));
    }

    #[test]
    fn the_version_is_the_proxys_own() {
        let old = "GET / HTTP/1.0\r\nHost: a\r\n\r\n";
        assert_eq!(request(old).unwrap(), old.replace("1.0", "1.1"));
        let old = "HTTP/1.0 204 No Content\r\n\r\n";
        assert_eq!(response(old, GET).unwrap(), old.replace("1.0", "1.1"));
    }

    #[test]
    fn absolute_targets_become_origin_targets() {
        for (method, target, after) in [
            ("GET", "http://a/b?c", "/b?c"),
            ("GET", "HTTP://A", "/"),
            ("GET", "http://a?c", "/?c"),
            ("OPTIONS", "http://a", "*"),
            ("OPTIONS", "http://a/", "/"),
            ("OPTIONS", "*", "*"),
        ] {
            let input = format!("{method} {target} HTTP/1.1\r\nHost: a\r\n\r\n");
            assert_eq!(request(&input).unwrap(), input.replace(target, after), "{target}");
        }
    }

    #[test]
    fn a_request_without_host_gets_its_targets_or_the_roles() {
        assert_eq!(
            request("GET http://a:1/b HTTP/1.0\r\n\r\n").unwrap(),
            "GET /b HTTP/1.1\r\nHost: a:1\r\n\r\n"
        );
        assert_eq!(
            request("GET /b HTTP/1.0\r\nX: y\r\n\r\n").unwrap(),
            "GET /b HTTP/1.1\r\nX: y\r\nHost: role\r\n\r\n"
        );
    }

    #[test]
    fn what_ends_here_is_cut_out_before_anything_is_put_in() {
        let input = "GET / HTTP/1.1\r\nConnection: Upgrade, X\r\nX: 1\r\nHost: a\r\nUpgrade: x\r\nTE: y\r\nY: 2\r\n\r\n";
        let output = "GET / HTTP/1.1\r\nHost: a\r\nUpgrade: x\r\nY: 2\r\nConnection: Upgrade\r\n\r\n";
        assert_eq!(request(input).unwrap(), output);
        let old = input.replace("HTTP/1.1", "HTTP/1.0");
        assert_eq!(request(&old).unwrap(), "GET / HTTP/1.1\r\nHost: a\r\nY: 2\r\n\r\n");
    }

    #[test]
    fn as_many_cuts_as_a_write_has_slices_are_made_and_no_more() {
        let cuts = |count: usize| {
            format!("GET / HTTP/1.1\r\nHost: a\r\nConnection: x\r\n{}\r\n", "x: 1\r\ny: 2\r\n".repeat(count))
        };
        let fits = PIECES_COUNT_MAX - 1;
        assert_eq!(request(&cuts(fits)).unwrap().matches("y: 2").count(), fits);
        assert_eq!(request(&cuts(fits + 1)), Err(Reject::TooManyCuts));
    }

    #[test]
    fn a_client_is_told_what_becomes_of_its_connection() {
        let ok = "HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 0\r\n\r\n";
        let with = |field: &str| format!("HTTP/1.1 200 OK\r\nContent-Length: 0\r\n{field}\r\n");
        assert_eq!(response(ok, GET).unwrap(), with(""));
        assert_eq!(
            response(ok, Exchanged { keep_alive: false, ..GET }).unwrap(),
            with("Connection: close\r\n")
        );
        let old = Exchanged { client: Http10, ..GET };
        assert_eq!(response(ok, old).unwrap(), with("Connection: keep-alive\r\n"));
        assert_eq!(
            response(ok, Exchanged { keep_alive: false, ..old }).unwrap(),
            with("Connection: close\r\n")
        );
        let early = "HTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n";
        assert_eq!(response(early, Exchanged { keep_alive: false, ..GET }).unwrap(), early);
    }

    #[test]
    fn via_names_this_hop_and_the_version_that_came_to_it() {
        let hop = Hop { via: Some("p"), ..Hop::plain("role") };
        let asked = |version: &str| {
            let input = format!(
                "GET / HTTP/{version}\r\nHost: a\r\nVia: 1.1 x\r\nConnection: Via\r\nVia: 1.1 y\r\n\r\n"
            );
            passed(&input, |buffer, pieces| parse_request(buffer, hop, pieces))
        };
        for version in ["1.0", "1.1"] {
            let expected = format!("GET / HTTP/1.1\r\nHost: a\r\nVia: {version} p\r\n\r\n");
            assert_eq!(asked(version), Ok(expected), "what Connection names goes first");
            let input =
                format!("HTTP/{version} 204 No Content\r\nVia: 1.1 x\r\nConnection: keep-alive\r\n\r\n");
            let output = response(&input, Exchanged { via: Some("p"), ..GET });
            assert_eq!(
                output,
                Ok(format!("HTTP/1.1 204 No Content\r\nVia: 1.1 x\r\nVia: {version} p\r\n\r\n"))
            );
        }
    }

    #[test]
    fn http_1_0_is_never_told_of_a_transfer_coding() {
        for status in ["200 OK", "304 Not Modified"] {
            let input = format!("HTTP/1.1 {status}\r\nTransfer-Encoding: chunked\r\nX: y\r\n\r\n");
            let output = response(&input, Exchanged { client: Http10, ..GET }).unwrap();
            assert!(!output.contains("chunked") && output.contains("X: y"), "{output}");
            assert_eq!(response(&input, GET).unwrap(), input);
        }
    }

    #[test]
    fn upgrade_passes_only_where_it_says_what_is_spoken_or_to_be_spoken() {
        let input = |status: &str| {
            format!("HTTP/1.1 {status}\r\nConnection: Upgrade\r\nUpgrade: x\r\nContent-Length: 0\r\n\r\n")
        };
        let asked = Exchanged { upgrade: true, ..GET };
        for (status, passes) in
            [("101 Switching Protocols", true), ("426 Upgrade Required", true), ("200 OK", false)]
        {
            let output = response(&input(status), asked).unwrap();
            let expected = if passes {
                "Upgrade: x\r\nContent-Length: 0\r\nConnection: Upgrade\r\n\r\n"
            } else {
                "Content-Length: 0\r\n\r\n"
            };
            assert_eq!(output, format!("HTTP/1.1 {status}\r\n{expected}"));
        }
    }
}
