//! Where a request came from, told to the upstream: X-Forwarded-For, -Proto and -Host, and Forwarded (RFC 7239).
//!
//! What a client says of itself proves nothing: all four fields end here and are set anew. So do their aliases with an
//! underscore, which many applications read as the same name (GHSA-5m6w-wvh7-57vm). Only proxies in front of this one are
//! believed, as many as the operator says: of a list, the elements that they have put in, which are its last; of a field
//! that one of them has set, the last line.

use std::net::IpAddr;

use super::{
    Pieces, Reject,
    body::Quote,
    fields::{Field, FieldSet},
    head::{Layout, offset},
    pieces::Full,
};
use crate::limits::TRUSTED_HOPS_COUNT_MAX;

/// Which fields are set, and who is believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Forwarding {
    /// X-Forwarded-For, -Proto and -Host are set.
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
    /// An X-Forwarded-Proto of a trusted hop passes.
    has_proto: bool,
    has_host: bool,
}

impl Forwarding {
    /// Finds the lines that are about the way here. Those among `ended` are as good as gone: Connection has named them, and
    /// what is named is taken out before ours is put in (CVE-2024-45410).
    pub(super) fn read(&self, fields: &[Field<'_>], ended: FieldSet) -> Told {
        let mut told = Told::default();
        let (mut protos, mut hosts): (FieldSet, FieldSet) = (0, 0);
        for (position, field) in fields.iter().enumerate() {
            let name = field.name.as_bytes();
            let set = match name.len() {
                9 if is_alias(name, b"forwarded") => &mut told.forwarded,
                15 if is_alias(name, b"x-forwarded-for") => &mut told.x_for,
                16 if is_alias(name, b"x-forwarded-host") => &mut hosts,
                17 if is_alias(name, b"x-forwarded-proto") => &mut protos,
                _ => continue,
            };
            told.dropped |= 1 << position;
            if self.trusted_hops > 0 && ended & (1 << position) == 0 && !name.contains(&b'_') {
                *set |= 1 << position;
            }
        }
        if self.x {
            let (proto, host) = (last(protos), last(hosts));
            told.dropped &= !(proto | host);
            (told.has_proto, told.has_host) = (proto != 0, host != 0);
        }
        told
    }

    /// Adds our own fields. `host` is whom the client has asked for, in the buffer or else by default.
    pub(super) fn push(
        &self,
        layout: &Layout<'_>,
        told: Told,
        host: Result<&[u8], &str>,
        peer: IpAddr,
        pieces: &mut Pieces,
    ) -> Result<(), Reject> {
        if self.x {
            pieces.add(b"X-Forwarded-For: ")?;
            self.push_list(layout, told.x_for, Syntax::Plain, pieces)?;
            pieces.add_fmt(format_args!("{peer}\r\n"))?;
            if !told.has_proto {
                pieces.add(b"X-Forwarded-Proto: http\r\n")?;
            }
            if !told.has_host {
                pieces.add(b"X-Forwarded-Host: ")?;
                push_host(layout, host, pieces)?;
                pieces.add(b"\r\n")?;
            }
        }
        if self.rfc7239 {
            pieces.add(b"Forwarded: ")?;
            self.push_list(layout, told.forwarded, Syntax::Quoted, pieces)?;
            match peer {
                IpAddr::V4(peer) => pieces.add_fmt(format_args!("for={peer}"))?,
                // RFC 7239 4 and 6: in brackets, and therefore in quotes.
                IpAddr::V6(peer) => pieces.add_fmt(format_args!("for=\"[{peer}]\""))?,
            }
            // In quotes for its port's colon; a host has no character that would have to be escaped in them.
            pieces.add(b";host=\"")?;
            push_host(layout, host, pieces)?;
            pieces.add(b"\";proto=http\r\n")?;
        }
        Ok(())
    }

    /// Pushes the last elements of a list, as many as there are trusted hops, with a comma behind each. What comes before was
    /// said by somebody who is not trusted.
    fn push_list(
        &self,
        layout: &Layout<'_>,
        lines: FieldSet,
        syntax: Syntax,
        pieces: &mut Pieces,
    ) -> Result<(), Full> {
        if lines == 0 {
            return Ok(());
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
        let mut before = None;
        for nth in count.saturating_sub(count_max)..count {
            let (line, start, end) = newest[nth % count_max];
            match before {
                // The comma that is there makes one piece of all that one line has.
                Some((of_line, before_end)) if of_line == line => pieces.push(before_end..start)?,
                Some(_) => pieces.add(b", ")?,
                None => {}
            }
            pieces.push(start..end)?;
            before = Some((line, end));
        }
        if before.is_some() { pieces.add(b", ") } else { Ok(()) }
    }
}

/// What a comma may hide in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Syntax {
    Plain,
    Quoted,
}

/// The elements of a list. One whose quote never ends has none: it would swallow what trusted hops have put behind it.
fn elements(value: &[u8], syntax: Syntax) -> impl Iterator<Item = &[u8]> {
    let next = move |quote: Quote, byte: u8| match (quote, byte) {
        _ if syntax == Syntax::Plain => Quote::None,
        (Quote::None, b'"') | (Quote::Escaped, _) => Quote::Open,
        (Quote::Open, b'"') => Quote::None,
        (Quote::Open, b'\\') => Quote::Escaped,
        (quote, _) => quote,
    };
    let is_whole = value.iter().fold(Quote::None, |quote, &byte| next(quote, byte)) == Quote::None;
    let mut quote = Quote::None;
    let parts = value.split(move |&byte| {
        quote = next(quote, byte);
        quote == Quote::None && byte == b','
    });
    parts.map(<[u8]>::trim_ascii).filter(move |element| is_whole && !element.is_empty())
}

fn push_host(layout: &Layout<'_>, host: Result<&[u8], &str>, pieces: &mut Pieces) -> Result<(), Full> {
    match host {
        Ok(host) => {
            let start = offset(layout.buffer, host);
            pieces.push(start..start + host.len())
        }
        Err(default) => pieces.add(default.as_bytes()),
    }
}

/// The set of the last line of a set.
fn last(lines: FieldSet) -> FieldSet {
    lines.checked_ilog2().map_or(0, |position| 1 << position)
}

/// Whether it is this name, with an underscore for a hyphen anywhere.
fn is_alias(name: &[u8], of: &[u8]) -> bool {
    name.iter().zip(of).all(|(byte, of)| byte.to_ascii_lowercase() == *of || (*byte == b'_' && *of == b'-'))
}

#[cfg(test)]
mod tests {
    use std::io::IoSlice;

    use super::*;
    use crate::{
        http1::{
            Parse,
            head::{Hop, parse_request},
        },
        limits::PIECES_COUNT_MAX,
    };

    const BOTH: Forwarding = Forwarding { x: true, rfc7239: true, trusted_hops: 0 };

    /// What is forwarded of a request's fields behind its Host.
    fn fields(forwarding: Forwarding, peer: &str, fields: &str) -> Result<String, Reject> {
        let hop = Hop { peer: peer.parse().unwrap(), forwarding: Some(forwarding), ..Hop::plain("role") };
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
    fn addresses_of_version_6_are_bare_in_one_and_quoted_in_the_other() {
        let forwarded = fields(BOTH, "2001:db8::1", "").unwrap();
        assert_eq!(
            forwarded,
            "X-Forwarded-For: 2001:db8::1\r\nX-Forwarded-Proto: http\r\nX-Forwarded-Host: a:80\r\n\
             Forwarded: for=\"[2001:db8::1]\";host=\"a:80\";proto=http\r\n"
        );
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
            assert_eq!(forwarded.matches("orwarded").count(), 4, "{forwarded}");
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
                "X-Forwarded-Proto: https\r\nX-Forwarded-Host: b\r\nX-Forwarded-For: 1.1.1.1\r\n"
            )
        );
        let forwarded = fields(BOTH, "1.1.1.1", sent).unwrap();
        assert_eq!(value("X-Forwarded-Proto", &forwarded), "http");
        assert_eq!(value("X-Forwarded-Host", &forwarded), "a:80");
        assert_eq!(forwarded.matches("X").count(), 3, "{forwarded}");
    }

    #[test]
    fn there_is_room_for_everything_at_once_with_the_longest_names() {
        let longest = "x".repeat(feed::name::NAME_BYTES_MAX);
        let trusted_hops = u8::try_from(TRUSTED_HOPS_COUNT_MAX).unwrap();
        let hop = Hop {
            peer: "1111:2222:3333:4444:5555:6666:7777:8888".parse().unwrap(),
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
        assert!(matches!(parse("GET http://a HTTP/1.1\r\nHost: a\r\n"), Ok(Parse::Done(_))));
    }
}
