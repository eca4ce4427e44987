//! A second, slower and simpler reader of HTTP/1 messages, which shares nothing with the proxy but `httparse`.

/// Most fields that it reads.
const FIELDS_COUNT_MAX: usize = 128;

/// What a peer makes of the bytes that it has.
#[derive(Debug, PartialEq, Eq)]
pub enum Read<T> {
    /// A message whose head is whole.
    Message(T),
    /// Too few for a head.
    Partial,
    /// No message, for this reason.
    Malformed(String),
}

/// How far a message's body came.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum End {
    /// It is whole; the next message begins after so many bytes.
    Whole(usize),
    /// Bytes are missing.
    Cut,
    /// The end of the connection is its end.
    AtClose,
}

/// A request.
#[derive(Debug)]
pub struct Request {
    pub method: String,
    pub wants_upgrade: bool,
    pub end: End,
}

/// A response that is not interim.
#[derive(Debug, PartialEq, Eq)]
pub struct Response {
    pub status: u16,
    /// Without chunks.
    pub body: Vec<u8>,
    pub end: End,
    pub closes: bool,
    pub is_plain_text: bool,
}

/// Whether what a proxy takes out of a message is read over, or malformed: chunk extensions, blanks behind a chunk's size, and
/// equal lengths.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Extensions {
    Skipped,
    Malformed,
}

enum Length {
    Bytes(usize),
    Chunked,
    None,
}

fn length(fields: &[httparse::Header<'_>], extensions: Extensions) -> Result<Length, String> {
    let all = |name: &str| -> Vec<&[u8]> {
        fields.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).map(|f| f.value).collect()
    };
    let mut lengths = all("content-length");
    if extensions == Extensions::Skipped {
        let number = |text: &[u8]| std::str::from_utf8(text).ok()?.parse::<u64>().ok();
        lengths =
            lengths.iter().flat_map(|value| value.split(|&b| b == b',')).map(<[u8]>::trim_ascii).collect();
        lengths.dedup_by(|a, b| number(a).is_some() && number(a) == number(b));
    }
    match (&lengths[..], &all("transfer-encoding")[..]) {
        ([], []) => Ok(Length::None),
        ([], [coding]) if coding.eq_ignore_ascii_case(b"chunked") => Ok(Length::Chunked),
        ([value], []) if !value.is_empty() && value.iter().all(u8::is_ascii_digit) => {
            let digits = std::str::from_utf8(value).map_err(|error| error.to_string())?;
            Ok(Length::Bytes(digits.parse().map_err(|error| format!("{digits}: {error}"))?))
        }
        other => Err(format!("ambiguous length: {other:?}")),
    }
}

/// Reads the request at the start of `bytes`, as an origin server does that refuses whatever is doubtful.
pub fn read_request(bytes: &[u8]) -> Read<Request> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_COUNT_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let head = match request.parse(bytes) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Read::Partial,
        Err(error) => return Read::Malformed(error.to_string()),
    };
    let count = |name: &str| request.headers.iter().filter(|f| f.name.eq_ignore_ascii_case(name)).count();
    if bytes[..head].windows(2).any(|pair| pair[1] == b'\n' && pair[0] != b'\r') {
        return Read::Malformed("bare LF".into());
    }
    if request.version != Some(1) || count("host") != 1 {
        return Read::Malformed(format!("version {:?}, {} hosts", request.version, count("host")));
    }
    let end = match length(request.headers, Extensions::Malformed) {
        Ok(Length::None) => End::Whole(head),
        Ok(Length::Bytes(length)) if length <= bytes.len() - head => End::Whole(head + length),
        Ok(Length::Bytes(_)) => End::Cut,
        Ok(Length::Chunked) => match unchunk(&bytes[head..], Extensions::Malformed) {
            Ok((_, Some(length))) => End::Whole(head + length),
            Ok((_, None)) => End::Cut,
            Err(why) => return Read::Malformed(why),
        },
        Err(why) => return Read::Malformed(why),
    };
    let method = request.method.unwrap_or_default().to_owned();
    Read::Message(Request { method, wants_upgrade: count("upgrade") > 0, end })
}

/// Reads the response at the start of `bytes` to a request with this method, over interim ones; also how long those were.
pub fn read_response(bytes: &[u8], method: &str, extensions: Extensions) -> (usize, Read<Response>) {
    let mut skipped = 0;
    loop {
        let rest = &bytes[skipped..];
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_COUNT_MAX];
        let mut response = httparse::Response::new(&mut fields);
        let head = match response.parse(rest) {
            Ok(httparse::Status::Complete(head)) => head,
            Ok(httparse::Status::Partial) => return (skipped, Read::Partial),
            Err(error) => return (skipped, Read::Malformed(error.to_string())),
        };
        let status = response.code.unwrap_or_default();
        if (100..200).contains(&status) && status != 101 {
            skipped += head;
            continue;
        }
        return (skipped, read_final(&rest[head..], head, status, method, response.headers, extensions));
    }
}

fn read_final(
    rest: &[u8],
    head: usize,
    status: u16,
    method: &str,
    fields: &[httparse::Header<'_>],
    extensions: Extensions,
) -> Read<Response> {
    let is_bodyless = method == "HEAD" || matches!(status, 101 | 204 | 304);
    let (body, end) = match length(fields, extensions) {
        Err(why) => return Read::Malformed(why),
        Ok(_) if is_bodyless => (Vec::new(), End::Whole(head)),
        Ok(Length::Bytes(length)) => match rest.get(..length) {
            Some(body) => (body.to_vec(), End::Whole(head + length)),
            None => (rest.to_vec(), End::Cut),
        },
        Ok(Length::Chunked) => match unchunk(rest, extensions) {
            Ok((body, Some(length))) => (body, End::Whole(head + length)),
            Ok((body, None)) => (body, End::Cut),
            Err(why) => return Read::Malformed(why),
        },
        Ok(Length::None) => (rest.to_vec(), End::AtClose),
    };
    let has = |name: &str, value: &[u8]| {
        fields.iter().any(|f| f.name.eq_ignore_ascii_case(name) && f.value.eq_ignore_ascii_case(value))
    };
    let (closes, is_plain_text) = (has("connection", b"close"), has("content-type", b"text/plain"));
    Read::Message(Response { status, body, end, closes, is_plain_text })
}

/// Undoes chunks; also how many bytes they took, if their end is there.
pub fn unchunk(bytes: &[u8], extensions: Extensions) -> Result<(Vec<u8>, Option<usize>), String> {
    let (mut data, mut at) = (Vec::new(), 0);
    loop {
        let Some(line) = line(&bytes[at..]) else { return Ok((data, None)) };
        let size = match line.iter().position(|&byte| byte == b';') {
            Some(end) if extensions == Extensions::Skipped => &line[..end],
            _ => line,
        };
        let size = if extensions == Extensions::Skipped { trim_blanks(size) } else { size };
        let text = std::str::from_utf8(size).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
        let size = text.and_then(|text| usize::from_str_radix(text, 16).ok());
        let size = size.ok_or_else(|| format!("chunk size {:?}", String::from_utf8_lossy(line)))?;
        at += line.len() + 2;
        if size == 0 {
            break;
        }
        let rest = &bytes[at..];
        data.extend_from_slice(&rest[..size.min(rest.len())]);
        match rest.get(size..).map(|after| after.get(..2)) {
            Some(Some(b"\r\n")) => at += size + 2,
            Some(Some(other)) => return Err(format!("{other:?} after a chunk")),
            Some(None) | None => return Ok((data, None)),
        }
    }
    loop {
        let Some(line) = line(&bytes[at..]) else { return Ok((data, None)) };
        at += line.len() + 2;
        match line {
            [] => return Ok((data, Some(at))),
            _ if line.contains(&b':') && !line.starts_with(b":") => {}
            _ => return Err(format!("trailer {:?}", String::from_utf8_lossy(line))),
        }
    }
}

fn trim_blanks(size: &[u8]) -> &[u8] {
    let end = size.iter().rposition(|byte| !b" \t".contains(byte)).map_or(0, |last| last + 1);
    &size[..end]
}

fn line(bytes: &[u8]) -> Option<&[u8]> {
    bytes.windows(2).position(|pair| pair == b"\r\n").map(|end| &bytes[..end])
}
