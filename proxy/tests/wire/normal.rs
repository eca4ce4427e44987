//! Messages of HTTP/1 in parts, and those parts as text that is the same whatever carries them: names in lower case and in order, no field of
//! one hop, no chunks. What a script says is compared with what is seen so, where HTTP/2 is in between.

use std::collections::VecDeque;

use crate::peer::text;

/// What stands behind each message that has ended.
pub(crate) const END: &[u8] = b"\n<end>\n";

/// Fields of one connection (RFC 9113 8.2.2), and those that an upgrade is asked for with.
const OF_ONE_HOP: [&str; 8] = [
    "connection",
    "keep-alive",
    "proxy-connection",
    "transfer-encoding",
    "upgrade",
    "http2-settings",
    "sec-websocket-key",
    "sec-websocket-accept",
];

/// Fields that `Connection` cannot name away; of TE the trailers pass.
const NEVER_OF_ONE_HOP: [&str; 3] = ["host", "content-length", "te"];

/// Name in lower case, and value.
pub(crate) type Field = (String, Vec<u8>);

/// A part of a message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Part {
    Head(Head),
    Data(Vec<u8>),
    /// With trailers.
    End(Vec<Field>),
}

/// A head without the fields that end at this hop.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Head {
    /// Method and target, or status.
    pub(crate) line: String,
    pub(crate) fields: Vec<Field>,
    /// Of a request: a switch of protocols is asked for.
    pub(crate) is_upgrade: bool,
    /// Nothing follows.
    pub(crate) is_whole: bool,
}

impl Part {
    /// As text.
    pub(crate) fn render(&self) -> Vec<u8> {
        match self {
            Self::Data(bytes) => bytes.clone(),
            Self::End(trailers) if trailers.is_empty() => END.to_vec(),
            Self::End(trailers) => [b"\n<trailers>\n", &lines(trailers)[..], END].concat(),
            Self::Head(head) => {
                let upgrade = if head.is_upgrade { " upgrade" } else { "" };
                let start = format!("{}{upgrade}\n", head.line);
                [start.as_bytes(), &lines(&head.fields), b"\n"].concat()
            }
        }
    }
}

/// Sorted by name; those of one name stay in their order.
fn lines(fields: &[Field]) -> Vec<u8> {
    let mut fields: Vec<_> = fields.iter().collect();
    fields.sort_by(|(one, _), (other, _)| one.cmp(other));
    fields.iter().flat_map(|(name, value)| [name.as_bytes(), b": ", value, b"\n"].concat()).collect()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Next {
    Head,
    Length(usize),
    Size,
    Chunk(usize),
    ChunkEnd,
    Trailers,
    UntilEnd,
}

/// Reads the messages of one way of a connection.
#[derive(Debug)]
pub(crate) struct Normal {
    is_request: bool,
    next: Next,
    bytes: Vec<u8>,
    /// Of requests whose responses are read.
    pub(crate) methods: VecDeque<String>,
}

impl Normal {
    pub(crate) fn of_requests() -> Self {
        Self { is_request: true, next: Next::Head, bytes: Vec::new(), methods: VecDeque::new() }
    }

    pub(crate) fn of_responses() -> Self {
        Self { is_request: false, ..Self::of_requests() }
    }

    /// The parts that these bytes make with those before.
    ///
    /// # Errors
    /// They make none.
    pub(crate) fn push(&mut self, bytes: &[u8]) -> Result<Vec<Part>, String> {
        self.bytes.extend_from_slice(bytes);
        let mut parts = Vec::new();
        while self.step(&mut parts)? {}
        Ok(parts)
    }

    /// The end of a message that ends with its connection, if this is one.
    pub(crate) fn end(&mut self) -> Option<Part> {
        (self.next == Next::UntilEnd).then(|| {
            self.next = Next::Head;
            Part::End(Vec::new())
        })
    }

    fn step(&mut self, parts: &mut Vec<Part>) -> Result<bool, String> {
        match self.next {
            Next::Head => {
                if self.is_request && self.bytes.starts_with(b"\r\n") {
                    self.bytes.drain(..2);
                    return Ok(true);
                }
                let Some(end) = find(&self.bytes, b"\r\n\r\n") else { return Ok(false) };
                let head: Vec<u8> = self.bytes.drain(..end + 4).collect();
                self.head(&head[..end], parts)?;
            }
            Next::Length(0) => self.finish(Vec::new(), parts),
            Next::Length(left) => match self.take(left) {
                0 => return Ok(false),
                count => {
                    parts.push(Part::Data(self.bytes.drain(..count).collect()));
                    self.next = Next::Length(left - count);
                }
            },
            Next::Chunk(0) => self.next = Next::ChunkEnd,
            Next::Chunk(left) => match self.take(left) {
                0 => return Ok(false),
                count => {
                    parts.push(Part::Data(self.bytes.drain(..count).collect()));
                    self.next = Next::Chunk(left - count);
                }
            },
            Next::UntilEnd => match self.bytes.len() {
                0 => return Ok(false),
                _ => parts.push(Part::Data(std::mem::take(&mut self.bytes))),
            },
            Next::Size | Next::ChunkEnd | Next::Trailers => return self.line(parts),
        }
        Ok(true)
    }

    fn take(&self, left: usize) -> usize {
        self.bytes.len().min(left)
    }

    fn finish(&mut self, trailers: Vec<Field>, parts: &mut Vec<Part>) {
        self.next = Next::Head;
        parts.push(Part::End(trailers));
    }

    /// What is not data of a chunked body.
    fn line(&mut self, parts: &mut Vec<Part>) -> Result<bool, String> {
        if self.next == Next::Trailers {
            let end = if self.bytes.starts_with(b"\r\n") { Some(0) } else { find(&self.bytes, b"\r\n\r\n") };
            let Some(end) = end else { return Ok(false) };
            let section: Vec<u8> = self.bytes.drain(..end + if end == 0 { 2 } else { 4 }).collect();
            let trailers = fields(&section[..end])?;
            self.finish(trailers, parts);
            return Ok(true);
        }
        let Some(end) = find(&self.bytes, b"\r\n") else { return Ok(false) };
        let line: Vec<u8> = self.bytes.drain(..end + 2).collect();
        let line = &line[..end];
        self.next = if self.next == Next::ChunkEnd && line.is_empty() {
            Next::Size
        } else {
            let digits = line.split(|byte| *byte == b';').next().unwrap_or_default();
            let digits = std::str::from_utf8(digits).ok().map(|digits| digits.trim_end_matches([' ', '\t']));
            let is_size = self.next == Next::Size
                && digits.is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
            let size = digits.filter(|_| is_size).and_then(|digits| usize::from_str_radix(digits, 16).ok());
            match size.ok_or_else(|| format!("no chunk: {:?}", text(line)))? {
                0 => Next::Trailers,
                size => Next::Chunk(size),
            }
        };
        Ok(true)
    }

    fn head(&mut self, head: &[u8], parts: &mut Vec<Part>) -> Result<(), String> {
        let end = find(head, b"\r\n").unwrap_or(head.len());
        let start = String::from_utf8_lossy(&head[..end]).into_owned();
        let all = fields(head.get(end + 2..).unwrap_or_default())?;
        let line = if self.is_request { request_line(&start)? } else { status(&start)? };
        let is_interim = !self.is_request && line.starts_with('1') && line != "101";
        let named = named_by_connection(&all);
        let has = |wanted: &str| all.iter().any(|(name, _)| name == wanted);
        let is_upgrade = self.is_request && has("upgrade") && named.iter().any(|name| name == "upgrade");
        let has_none = !self.is_request && !is_interim && {
            let method = self.methods.pop_front();
            method.as_deref() == Some("HEAD") || ["204", "304"].contains(&line.as_str())
        };
        self.next = if is_interim || has_none {
            Next::Head
        } else if is_upgrade || line == "101" {
            Next::UntilEnd
        } else {
            body_of(&all, self.is_request)?
        };
        let is_whole = !is_interim && matches!(self.next, Next::Head | Next::Length(0));
        // RFC 8441 5: what HTTP/1 calls a switch is a success.
        let line = if line == "101" { "200".to_owned() } else { line };
        let is_request = self.is_request;
        let fields = all.into_iter().filter(|(name, value)| {
            // Whether a body without bytes is announced is up to who writes it.
            let is_of_one_hop =
                OF_ONE_HOP.contains(&&**name) || named.contains(name) && !NEVER_OF_ONE_HOP.contains(&&**name);
            let is_no_body = is_request && name == "content-length" && value == b"0";
            !(is_of_one_hop || is_no_body)
        });
        parts.push(Part::Head(Head { line, fields: fields.collect(), is_upgrade, is_whole }));
        if is_whole {
            self.finish(Vec::new(), parts);
        }
        Ok(())
    }
}

fn named_by_connection(fields: &[Field]) -> Vec<String> {
    let lists = fields.iter().filter(|(name, _)| name == "connection");
    let named = lists.flat_map(|(_, value)| value.split(|byte| *byte == b','));
    named.map(|name| String::from_utf8_lossy(trimmed(name)).to_ascii_lowercase()).collect()
}

/// The method and target of a request, if it is one that HTTP/2 has, too.
fn request_line(start: &str) -> Result<String, String> {
    match start.split(' ').collect::<Vec<_>>()[..] {
        [method, target, "HTTP/1.1"] if !method.is_empty() && !target.is_empty() => {
            Ok(format!("{method} {target}"))
        }
        _ => Err(format!("no request: {:?}", text(start.as_bytes()))),
    }
}

fn status(start: &str) -> Result<String, String> {
    let status = start.strip_prefix("HTTP/1.1 ").and_then(|rest| rest.get(..3));
    status.map(str::to_owned).ok_or_else(|| format!("no response: {:?}", text(start.as_bytes())))
}

/// What follows a head that may have a body.
fn body_of(fields: &[Field], is_request: bool) -> Result<Next, String> {
    let all = |wanted: &str| fields.iter().filter(|(name, _)| name == wanted).collect::<Vec<_>>();
    match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) if is_request => Ok(Next::Length(0)),
        ([], []) => Ok(Next::UntilEnd),
        ([], [(_, coding)]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Next::Size),
        ([(_, length)], []) if !length.is_empty() && length.len() < 19 => std::str::from_utf8(length)
            .ok()
            .filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))
            .and_then(|digits| digits.parse().ok())
            .map(Next::Length)
            .ok_or_else(|| format!("no length: {:?}", text(length))),
        _ => Err("no framing".to_owned()),
    }
}

/// The fields of these lines, each with its name in lower case and its value without blanks around it.
fn fields(section: &[u8]) -> Result<Vec<Field>, String> {
    let mut fields = Vec::new();
    let mut rest = section;
    while !rest.is_empty() {
        let end = find(rest, b"\r\n").unwrap_or(rest.len());
        let line = &rest[..end];
        rest = rest.get(end + 2..).unwrap_or_default();
        let colon = line.iter().position(|byte| *byte == b':');
        let is_name = |byte: &u8| byte.is_ascii_graphic() && !b"(),/:;<=>?@[\\]{}\"".contains(byte);
        let colon = colon
            .filter(|at| *at > 0 && line[..*at].iter().all(is_name))
            .ok_or_else(|| format!("no field: {:?}", text(line)))?;
        let name = String::from_utf8_lossy(&line[..colon]).to_ascii_lowercase();
        fields.push((name, trimmed(&line[colon + 1..]).to_vec()));
    }
    Ok(fields)
}

/// Without blanks and tabs.
fn trimmed(mut value: &[u8]) -> &[u8] {
    while let [b' ' | b'\t', rest @ ..] | [rest @ .., b' ' | b'\t'] = value {
        value = rest;
    }
    value
}

fn find(bytes: &[u8], wanted: &[u8]) -> Option<usize> {
    bytes.windows(wanted.len()).position(|window| window == wanted)
}
