//! Requests of HTTP/1.1 read as narrowly as can be: whatever is not written in the plainest way is an error, so that nothing hides in
//! what others would skip or mend.

/// Names and values, as they are written.
pub(crate) type Fields = Vec<(String, Vec<u8>)>;

/// A whole request.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) fields: Fields,
    pub(crate) body: Vec<u8>,
    pub(crate) trailers: Fields,
    /// Bytes of its head, and of all of it.
    pub(crate) head_bytes: usize,
    pub(crate) bytes: usize,
    pub(crate) is_chunked: bool,
}

impl Request {
    /// The values of a field.
    pub(crate) fn values(&self, name: &str) -> Vec<&[u8]> {
        values(&self.fields, name)
    }
}

pub(crate) fn values<'a>(fields: &'a Fields, name: &str) -> Vec<&'a [u8]> {
    let named = fields.iter().filter(|(other, _)| other.eq_ignore_ascii_case(name));
    named.map(|(_, value)| value.as_slice()).collect()
}

/// The first request; none if it is not whole.
///
/// # Errors
/// What is not as it should be.
pub(crate) fn read(bytes: &[u8]) -> Result<Option<Request>, String> {
    let mut lines = Lines { bytes, at: 0 };
    let Some(line) = lines.next()? else { return Ok(None) };
    let line = String::from_utf8(line.to_vec()).map_err(|_| format!("a line of no text: {line:?}"))?;
    let words: Vec<&str> = line.split(' ').collect();
    let [method, target, "HTTP/1.1"] = words[..] else { return Err(format!("no request: {line:?}")) };
    if method.is_empty() || !method.bytes().all(is_of_name) || !target.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(format!("no request: {line:?}"));
    }
    let Some(fields) = lines.fields()? else { return Ok(None) };
    let head_bytes = lines.at;
    let (lengths, codings) = (values(&fields, "content-length"), values(&fields, "transfer-encoding"));
    let (body, trailers) = match (&lengths[..], &codings[..]) {
        ([], []) => (Vec::new(), Fields::new()),
        ([length], []) => match lines.take(number(length, 10)?) {
            Some(body) => (body.to_vec(), Fields::new()),
            None => return Ok(None),
        },
        ([], [b"chunked"]) => match lines.chunks()? {
            Some(read) => read,
            None => return Ok(None),
        },
        _ => return Err(format!("more than one framing: {fields:?}")),
    };
    let (method, target, is_chunked) = (method.to_owned(), target.to_owned(), !codings.is_empty());
    Ok(Some(Request { method, target, fields, body, trailers, head_bytes, bytes: lines.at, is_chunked }))
}

/// What may be in a method, and in the name of a field (RFC 9110 5.6.2).
pub(crate) fn is_of_name(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn number(digits: &[u8], base: u32) -> Result<usize, String> {
    let text = std::str::from_utf8(digits).ok().filter(|text| text.bytes().all(|b| b.is_ascii_hexdigit()));
    let number = text.and_then(|text| usize::from_str_radix(text, base).ok());
    number.ok_or_else(|| format!("no number: {:?}", String::from_utf8_lossy(digits)))
}

/// What is read, line by line.
struct Lines<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Lines<'a> {
    /// Without its end; none if that has not come.
    fn next(&mut self) -> Result<Option<&'a [u8]>, String> {
        let rest = &self.bytes[self.at..];
        let Some(end) = rest.windows(2).position(|two| two == b"\r\n") else { return Ok(None) };
        let line = &rest[..end];
        if line.iter().any(|byte| b"\r\n\0".contains(byte)) {
            return Err(format!("within a line: {:?}", String::from_utf8_lossy(line)));
        }
        self.at += end + 2;
        Ok(Some(line))
    }

    /// To the empty line behind them.
    fn fields(&mut self) -> Result<Option<Fields>, String> {
        let mut fields = Fields::new();
        while let Some(line) = self.next()? {
            if line.is_empty() {
                return Ok(Some(fields));
            }
            let wrong = || format!("no field: {:?}", String::from_utf8_lossy(line));
            let colon = line.iter().position(|byte| *byte == b':').ok_or_else(wrong)?;
            let (name, value) = (&line[..colon], &line[colon + 1..]);
            if name.is_empty() || !name.iter().copied().all(is_of_name) || !value.starts_with(b" ") {
                return Err(wrong());
            }
            fields.push((String::from_utf8_lossy(name).into_owned(), value[1..].to_vec()));
        }
        Ok(None)
    }

    fn take(&mut self, count: usize) -> Option<&'a [u8]> {
        let taken = self.bytes[self.at..].get(..count)?;
        self.at += count;
        Some(taken)
    }

    fn chunks(&mut self) -> Result<Option<(Vec<u8>, Fields)>, String> {
        let mut body = Vec::new();
        loop {
            let Some(size) = self.next()? else { return Ok(None) };
            let size = number(size, 16)?;
            if size == 0 {
                return Ok(self.fields()?.map(|trailers| (body, trailers)));
            }
            let Some(chunk) = self.take(size) else { return Ok(None) };
            body.extend_from_slice(chunk);
            match self.next()? {
                Some(b"") => {}
                Some(line) => return Err(format!("behind a chunk: {line:?}")),
                None => return Ok(None),
            }
        }
    }
}
