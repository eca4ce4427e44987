//! Where a request came from, told to the upstream: X-Forwarded-For, -Proto, -Host and -Port, X-Real-IP, and Forwarded
//! (RFC 7239).
//!
//! What a client says of itself proves nothing: all fields that applications read it from end here, and those of them that this
//! proxy can answer for are set anew. So do their aliases with underscores or dots, which many applications read as the same name
//! (GHSA-5m6w-wvh7-57vm). Only proxies in front of this one are believed, as many as the operator says: of a list, the
//! elements that they have put in, which are its last; of a field that one of them has set, the last line.

use std::net::IpAddr;

use super::{
    Pieces, Reject,
    fields::{Field, FieldSet},
    layout::{Hop, Layout, offset},
    pieces::Full,
    quoted::{Syntax, elements},
    way::{WAY, way_of},
};
use crate::limits::TRUSTED_HOPS_COUNT_MAX;

// Positions in WAY of those that this proxy sets. The first two are lists.
const FORWARDED: usize = 0;
const FOR: usize = 1;
const PROTO: usize = 2;
const HOST: usize = 3;
const PORT: usize = 4;
const REAL_IP: usize = 5;

/// Which fields are set, and who is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarding {
    /// X-Forwarded-For, -Proto, -Host and -Port, and X-Real-IP are set.
    pub x: bool,
    /// Forwarded is.
    pub rfc7239: bool,
    /// How many proxies in front of this one are believed, at most [`TRUSTED_HOPS_COUNT_MAX`].
    pub trusted_hops: u8,
}

/// The lines of a head that say where it came from.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Told {
    /// All of them, aliases included, but those that are kept as they are.
    pub(super) dropped: FieldSet,
    x_for: FieldSet,
    forwarded: FieldSet,
    /// Whether a trusted hop has said it, by its position in [`WAY`].
    has: [bool; WAY.len()],
}

impl Forwarding {
    /// Finds the lines that are about the way here. Those among `ended` are as good as gone: Connection has named them, and
    /// what is named is taken out before ours is put in (CVE-2024-45410).
    pub(super) fn read(&self, fields: &[Field<'_>], ended: FieldSet) -> Told {
        let mut told = Told::default();
        let mut kept: [FieldSet; WAY.len()] = [0; WAY.len()];
        for (position, field) in fields.iter().enumerate() {
            let name = field.name.as_bytes();
            let Some(way) = way_of(name) else { continue };
            let bit = 1 << position;
            told.dropped |= bit;
            if self.trusted_hops == 0 || ended & bit != 0 || name.iter().any(|byte| b"_.".contains(byte)) {
                continue;
            }
            match way {
                FORWARDED => told.forwarded |= bit,
                FOR => told.x_for |= bit,
                _ if self.x => (kept[way], told.has[way]) = (bit, true),
                _ => {}
            }
        }
        told.dropped &= !kept.iter().fold(0, |all, line| all | line);
        told
    }

    /// Adds our own fields. `host` is whom the client has asked for, in the buffer or else by default.
    pub(super) fn push(
        &self,
        layout: &Layout<'_>,
        told: Told,
        host: Result<&[u8], &str>,
        hop: &Hop<'_>,
        pieces: &mut Pieces,
    ) -> Result<(), Reject> {
        let (peer, scheme) = (hop.peer, hop.scheme);
        if self.x {
            let client = self.push_list(b"X-Forwarded-For: ", layout, (told.x_for, Syntax::Plain), pieces)?;
            // Of whom nothing is known, nothing is said.
            match (client, peer) {
                (Some(_), Some(peer)) => pieces.add_fmt(format_args!(", {peer}\r\n"))?,
                (None, Some(peer)) => pieces.add_fmt(format_args!("X-Forwarded-For: {peer}\r\n"))?,
                (Some(_), None) => pieces.add(b"\r\n")?,
                (None, None) => {}
            }
            if !told.has[PROTO] {
                pieces.add(b"X-Forwarded-Proto: ")?;
                pieces.add(scheme.name().as_bytes())?;
                pieces.add(b"\r\n")?;
            }
            if !told.has[HOST] {
                pieces.add(b"X-Forwarded-Host: ")?;
                push_host(layout, host, pieces)?;
                pieces.add(b"\r\n")?;
            }
            // The one that the client has asked for, which need not be ours. Where a trusted hop has said what was asked for,
            // and not at which port, nobody here knows it.
            if !(told.has[PROTO] || told.has[HOST] || told.has[PORT]) {
                pieces.add(b"X-Forwarded-Port: ")?;
                pieces.add(port_of(host).unwrap_or(scheme.default_port().as_bytes()))?;
                pieces.add(b"\r\n")?;
            }
            match (client, peer) {
                _ if told.has[REAL_IP] => {}
                (Some((start, end)), _) => {
                    pieces.add(b"X-Real-IP: ")?;
                    pieces.push(start..end)?;
                    pieces.add(b"\r\n")?;
                }
                (None, Some(peer)) => pieces.add_fmt(format_args!("X-Real-IP: {peer}\r\n"))?,
                (None, None) => {}
            }
        }
        if self.rfc7239 {
            let before = self.push_list(b"Forwarded: ", layout, (told.forwarded, Syntax::Quoted), pieces)?;
            pieces.add(if before.is_some() { &b", "[..] } else { b"Forwarded: " })?;
            match peer {
                Some(IpAddr::V4(peer)) => pieces.add_fmt(format_args!("for={peer}"))?,
                // RFC 7239 4 and 6: in brackets, and therefore in quotes.
                Some(IpAddr::V6(peer)) => pieces.add_fmt(format_args!("for=\"[{peer}]\""))?,
                // RFC 7239 6.2.
                None => pieces.add(b"for=unknown")?,
            }
            // In quotes for its port's colon; a host has no character that would have to be escaped in them.
            pieces.add(b";host=\"")?;
            push_host(layout, host, pieces)?;
            pieces.add(b"\";proto=")?;
            pieces.add(scheme.name().as_bytes())?;
            pieces.add(b"\r\n")?;
        }
        Ok(())
    }

    /// Pushes the last elements of a list, as many as there are trusted hops, and before them how their line begins. What comes before
    /// was said by somebody who is not trusted. Returns where the first of them is; without any, nothing is pushed.
    fn push_list(
        &self,
        beginning: &[u8],
        layout: &Layout<'_>,
        (lines, syntax): (FieldSet, Syntax),
        pieces: &mut Pieces,
    ) -> Result<Option<(usize, usize)>, Full> {
        if lines == 0 {
            return Ok(None);
        }
        let count_max = usize::from(self.trusted_hops).min(TRUSTED_HOPS_COUNT_MAX);
        let (mut newest, mut count) = ([(0, 0, 0); TRUSTED_HOPS_COUNT_MAX], 0);
        for (line, field) in layout.fields.iter().enumerate().filter(|(i, _)| lines & (1 << i) != 0) {
            for element in elements(field.value, syntax) {
                let start = offset(layout.buffer, element);
                newest[count % count_max] = (line, start, start + element.len());
                count += 1;
            }
        }
        let (mut first, mut before) = (None, None);
        for nth in count.saturating_sub(count_max)..count {
            let (line, start, end) = newest[nth % count_max];
            match before {
                // The comma that is there makes one piece of all that one line has.
                Some((of_line, before_end)) if of_line == line => pieces.push(before_end..start)?,
                Some(_) => pieces.add(b", ")?,
                None => pieces.add(beginning)?,
            }
            pieces.push(start..end)?;
            first = first.or(Some((start, end)));
            before = Some((line, end));
        }
        Ok(first)
    }
}

/// The port of whom the client has asked for. It has only digits, and few of them.
fn port_of<'a>(host: Result<&'a [u8], &str>) -> Option<&'a [u8]> {
    let port = host
        .ok()
        .and_then(|host| host.rsplit(|&byte| byte == b':').next().filter(|port| port.len() < host.len()));
    port.filter(|port| !port.is_empty() && port.iter().all(u8::is_ascii_digit))
}

/// Pushes a host that is in the buffer, or else adds the default.
pub(super) fn push_host(
    layout: &Layout<'_>,
    host: Result<&[u8], &str>,
    pieces: &mut Pieces,
) -> Result<(), Full> {
    match host {
        Ok(host) => {
            let start = offset(layout.buffer, host);
            pieces.push(start..start + host.len())
        }
        Err(default) => pieces.add(default.as_bytes()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::{super::way::is_way, *};
    use crate::{
        http1::{
            Parse, Scheme,
            head::{Hop, parse_request},
        },
        limits::PIECES_COUNT_MAX,
    };

    const BOTH: Forwarding = Forwarding { x: true, rfc7239: true, trusted_hops: 0 };

    /// What is forwarded of a request's fields behind its Host.
    fn fields(forwarding: Forwarding, peer: &str, fields: &str) -> Result<String, Reject> {
        let hop = Hop { peer: peer.parse().ok(), forwarding: Some(forwarding), ..Hop::plain("role") };
        let mut buffer = format!("GET / HTTP/1.1\r\nHost: a:80\r\n{fields}\r\n").into_bytes();
        let mut pieces = Pieces::default();
        assert!(matches!(parse_request(&mut buffer, hop, &mut pieces)?, Parse::Done(_)));
        let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
        let count = pieces.slices(&buffer, &mut slices);
        let text: String = slices[..count].iter().map(|slice| String::from_utf8_lossy(slice)).collect();
        let fields = text.strip_prefix("GET / HTTP/1.1\r\nHost: a:80\r\n").unwrap();
        Ok(fields.strip_suffix("\r\n").unwrap().to_owned())
    }

    /// The value of the first line of this name.
    fn value(of: &str, fields: &str) -> String {
        let line = fields.lines().find_map(|line| line.strip_prefix(of)?.strip_prefix(": "));
        line.unwrap_or_else(|| panic!("no {of} in {fields}")).to_owned()
    }

    #[test]
    fn nobody_is_named_where_nobody_knows_who_has_sent_it() {
        let claimed = "X-Forwarded-For: 192.0.2.1\r\nForwarded: for=192.0.2.1\r\nX-Real-IP: 192.0.2.1\r\n";
        let rest = "X-Forwarded-Proto: http\r\nX-Forwarded-Host: a:80\r\nX-Forwarded-Port: 80\r\n";
        assert_eq!(
            fields(BOTH, "", claimed).unwrap(),
            format!("{rest}Forwarded: for=unknown;host=\"a:80\";proto=http\r\n")
        );
        let one_hop = Forwarding { trusted_hops: 1, ..BOTH };
        let told = fields(one_hop, "", "X-Forwarded-For: 192.0.2.66, 192.0.2.1\r\n").unwrap();
        assert_eq!(value("X-Forwarded-For", &told), "192.0.2.1");
        assert_eq!(value("X-Real-IP", &told), "192.0.2.1");
        let told = fields(one_hop, "", "X-Forwarded-For: \r\n").unwrap();
        assert!(!told.contains("X-Forwarded-For") && !told.contains("X-Real-IP"), "{told}");
    }

    #[test]
    fn addresses_of_version_6_are_bare_in_one_and_quoted_in_the_other() {
        let forwarded = fields(BOTH, "2001:db8::1", "").unwrap();
        assert_eq!(
            forwarded,
            "X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:80\r\n\
             X-Forwarded-Port: 80\r\nX-Real-IP: 2001:db8::1\r\n\
             Forwarded: for=\"[2001:db8::1]\";host=\"a:80\";proto=http\r\n"
        );
    }

    #[test]
    fn what_came_sealed_is_told_so() {
        let hop = Hop { scheme: Scheme::Https, forwarding: Some(BOTH), ..Hop::plain("role") };
        let mut buffer = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n".to_vec();
        let mut pieces = Pieces::default();
        assert!(matches!(parse_request(&mut buffer, hop, &mut pieces), Ok(Parse::Done(_))));
        let mut slices = [IoSlice::new(&[]); PIECES_COUNT_MAX];
        let count = pieces.slices(&buffer, &mut slices);
        let text: String = slices[..count].iter().map(|slice| String::from_utf8_lossy(slice)).collect();
        for told in ["X-Forwarded-Proto: https\r\n", "X-Forwarded-Port: 443\r\n", ";proto=https\r\n"] {
            assert!(text.contains(told), "{text}");
        }
    }

    #[test]
    fn only_what_is_chosen_is_set_and_the_others_end_here_nevertheless() {
        let sent = "X-Forwarded-For: 6.6.6.6\r\nForwarded: for=6.6.6.6\r\n";
        let x = fields(Forwarding { rfc7239: false, trusted_hops: 1, ..BOTH }, "1.1.1.1", sent).unwrap();
        assert!(
            x.starts_with("X-Forwarded-For: 6.6.6.6, 1.1.1.1\r\n") && !x.contains("\r\nForwarded"),
            "{x}"
        );
        let rfc7239 = fields(Forwarding { x: false, trusted_hops: 1, ..BOTH }, "1.1.1.1", sent).unwrap();
        assert_eq!(rfc7239, "Forwarded: for=6.6.6.6, for=1.1.1.1;host=\"a:80\";proto=http\r\n");
    }

    #[test]
    fn of_a_list_as_many_elements_stay_as_hops_are_trusted() {
        for (hops, sent, kept) in [
            (0, "X-Forwarded-For: 6.6.6.6, 2.2.2.2\r\n", "9.9.9.9"),
            (1, "", "9.9.9.9"),
            (1, "X-Forwarded-For: 6.6.6.6, 2.2.2.2\r\n", "2.2.2.2, 9.9.9.9"),
            (2, "X-Forwarded-For: 6.6.6.6, 2.2.2.2,3.3.3.3 ,\r\n", "2.2.2.2,3.3.3.3, 9.9.9.9"),
            (
                2,
                "X-Forwarded-For: 2.2.2.2\r\nX: y\r\nx-forwarded-FOR: 3.3.3.3\r\n",
                "2.2.2.2, 3.3.3.3, 9.9.9.9",
            ),
            (
                2,
                "X-Forwarded-For: 6.6.6.6\r\nX-Forwarded-For: ,2.2.2.2,,3.3.3.3\r\n",
                "2.2.2.2,,3.3.3.3, 9.9.9.9",
            ),
            (3, "X-Forwarded-For: 2.2.2.2\r\n", "2.2.2.2, 9.9.9.9"),
            (1, "X-Forwarded-For: , ,\r\n", "9.9.9.9"),
            (1, "X_Forwarded_For: 6.6.6.6\r\n", "9.9.9.9"),
            (1, "Connection: X-Forwarded-For\r\nX-Forwarded-For: 6.6.6.6\r\n", "9.9.9.9"),
        ] {
            let forwarded = fields(Forwarding { trusted_hops: hops, ..BOTH }, "9.9.9.9", sent).unwrap();
            assert_eq!(value("X-Forwarded-For", &forwarded), kept, "{hops} of {sent:?}");
            assert_eq!(forwarded.matches("orwarded").count(), 5, "{forwarded}");
            let client = kept.split([',', ' ']).next().unwrap();
            assert_eq!(value("X-Real-IP", &forwarded), client, "the first that is believed");
        }
    }

    #[test]
    fn a_comma_in_quotes_parts_nothing_and_a_quote_without_end_hides_nothing() {
        for (hops, sent, kept) in [
            (1, "Forwarded: for=6.6.6.6, for=\"a, b\"\r\n", "for=\"a, b\", "),
            (1, "Forwarded: for=\"a\\\", b\"\r\n", "for=\"a\\\", b\", "),
            (2, "Forwarded: for=\"6.6.6.6\r\nForwarded: for=2.2.2.2\r\n", "for=2.2.2.2, "),
            (2, "Forwarded: for=\"6.6.6.6, for=2.2.2.2\r\n", ""),
            (2, "Forwarded: for=\"6.6.6.6\\\", for=2.2.2.2\r\n", ""),
        ] {
            let forwarded = fields(Forwarding { trusted_hops: hops, ..BOTH }, "::1", sent).unwrap();
            let own = "for=\"[::1]\";host=\"a:80\";proto=http";
            assert_eq!(value("Forwarded", &forwarded), format!("{kept}{own}"), "{sent:?}");
        }
    }

    #[test]
    fn a_trusted_hop_says_how_and_whom_the_client_has_asked() {
        let sent = "X-Forwarded-Proto: gopher\r\nX-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX_Forwarded-Host: c\r\n";
        let forwarded = fields(Forwarding { trusted_hops: 1, ..BOTH }, "1.1.1.1", sent).unwrap();
        assert!(
            forwarded.starts_with(
                "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX-Forwarded-For: 1.1.1.1\r\nX-Real-IP: 1.1.1.1\r\n"
            ),
            "and which port, nobody knows: {forwarded}"
        );
        let forwarded = fields(BOTH, "1.1.1.1", sent).unwrap();
        assert_eq!(value("X-Forwarded-Proto", &forwarded), "http");
        assert_eq!(value("X-Forwarded-Host", &forwarded), "a:80");
        assert_eq!(forwarded.matches("X").count(), 5, "{forwarded}");
    }

    #[test]
    fn every_field_that_tells_the_way_ends_here_by_whatever_alias() {
        for name in WAY.iter().map(|name| str::from_utf8(name).unwrap()) {
            for alias in [name.to_uppercase(), name.replace('-', "_"), name.replacen('-', ".", 1)] {
                let forwarded = fields(BOTH, "1.1.1.1", &format!("{alias}: 6.6.6.6\r\n")).unwrap();
                assert!(!forwarded.contains("6.6.6.6"), "{alias}");
            }
            let trusted =
                fields(Forwarding { trusted_hops: 1, ..BOTH }, "1.1.1.1", &format!("{name}: 2.2.2.2\r\n"));
            assert!(trusted.unwrap().contains("2.2.2.2"), "{name}");
        }
        for other in ["x-forwarded-fox", "x-forwardedfor", "forwarder", "xx-real-ip", "f"] {
            assert!(!is_way(other.as_bytes()), "{other}");
        }
    }

    #[test]
    fn the_port_is_that_of_the_host() {
        for (host, port) in
            [("a", None), ("a:81", Some("81")), ("a:", None), ("[::1]", None), ("[::1]:8080", Some("8080"))]
        {
            assert_eq!(port_of(Ok(host.as_bytes())), port.map(str::as_bytes), "{host}");
        }
        assert_eq!(port_of(Err("role")), None);
    }

    #[test]
    fn there_is_room_for_everything_at_once_with_the_longest_names() {
        let longest = "x".repeat(feed::name::NAME_BYTES_MAX);
        let trusted_hops = u8::try_from(TRUSTED_HOPS_COUNT_MAX).unwrap();
        let id = crate::http1::RequestId::parse(&[b'x'; crate::limits::REQUEST_ID_BYTES_MAX]);
        let sent = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
        let trace = crate::http1::Traceparent::parse(sent).map(crate::http1::Trace::passed);
        let hop = Hop {
            request_id: id.as_ref(),
            trace: trace.as_ref(),
            peer: "1111:2222:3333:4444:5555:6666:7777:8888".parse().ok(),
            forwarding: Some(Forwarding { trusted_hops, ..BOTH }),
            via: Some(&longest),
            ..Hop::plain(&longest)
        };
        let each = "X-Forwarded-For: 1.1.1.1\r\nForwarded: for=1.1.1.1\r\n".repeat(TRUSTED_HOPS_COUNT_MAX);
        let parse = |start: &str| {
            let mut buffer = format!("{start}{each}Connection: Upgrade\r\nUpgrade: x\r\n\r\n").into_bytes();
            parse_request(&mut buffer, hop, &mut Pieces::default())
        };
        assert!(matches!(parse("GET / HTTP/1.0\r\n"), Ok(Parse::Done(_))));
        let te = "TE: trailers\r\nMax-Forwards: 99999999999";
        assert!(matches!(
            parse(&format!("OPTIONS http://a HTTP/1.1\r\nHost: b\r\n{te}\r\n")),
            Ok(Parse::Done(_))
        ));
        assert!(matches!(parse("GET http://a HTTP/1.1\r\nHost: a\r\n"), Ok(Parse::Done(_))));
    }
}
