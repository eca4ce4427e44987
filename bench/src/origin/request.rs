//! As much of a request as decides its response.

/// Bytes of a request's head. Larger than what any proxy forwards.
const HEAD_BYTES_MAX: usize = 64 * 1024;

/// What is served.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Page {
    /// Every path but the others.
    Hello,
    /// `/64k`
    Kib64,
    /// `/1m`
    Mib1,
}

/// The response that a request is due.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Answer {
    pub(super) page: Page,
    pub(super) close: bool,
}

/// What the bytes at hand are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Parsed {
    NeedMore,
    /// Nothing that this server is for.
    Refused,
    Request {
        head_bytes: usize,
        body_bytes: u64,
        answer: Answer,
    },
}

/// Reads the head at the start of `input`, in one pass.
pub(super) fn parse_request(input: &[u8]) -> Parsed {
    let mut at = 0;
    let mut next_line = || {
        let line = &input[at..at + memchr::memchr(b'\n', &input[at..])?];
        at += line.len() + 1;
        Some(line.strip_suffix(b"\r").unwrap_or(line))
    };
    let more = if input.len() < HEAD_BYTES_MAX { Parsed::NeedMore } else { Parsed::Refused };
    let Some(request_line) = next_line() else { return more };
    let page = match request_line.split(|&b| b == b' ').nth(1) {
        Some(b"/64k") => Page::Kib64,
        Some(b"/1m") => Page::Mib1,
        Some(_) => Page::Hello,
        None => return Parsed::Refused,
    };
    let (mut body_bytes, mut close) = (0, false);
    loop {
        let Some(line) = next_line() else { return more };
        // Of each line only the first letter is looked at, unless it may be one of the three that matter.
        match line.first().map(u8::to_ascii_lowercase) {
            None => return Parsed::Request { head_bytes: at, body_bytes, answer: Answer { page, close } },
            Some(b'c') => {
                if let Some(value) = value_of(b"content-length:", line) {
                    let Some(bytes) = parse_length(value) else { return Parsed::Refused };
                    body_bytes = bytes;
                } else if let Some(value) = value_of(b"connection:", line) {
                    close |= value.eq_ignore_ascii_case(b"close");
                }
            }
            Some(b't') if value_of(b"transfer-encoding:", line).is_some() => return Parsed::Refused,
            Some(_) => {}
        }
    }
}

fn value_of<'a>(name: &[u8], line: &'a [u8]) -> Option<&'a [u8]> {
    let (start, value) = line.split_at_checked(name.len())?;
    start.eq_ignore_ascii_case(name).then(|| value.trim_ascii())
}

fn parse_length(value: &[u8]) -> Option<u64> {
    std::str::from_utf8(value).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_found_whatever_their_case_and_place() {
        let request =
            b"POST /1m HTTP/1.1\r\nHost: a\r\nCookie: b\r\ncontent-LENGTH:  12\r\nConnection: Close\r\n\r\n";
        let answer = Answer { page: Page::Mib1, close: true };
        let expected = Parsed::Request { head_bytes: request.len(), body_bytes: 12, answer };
        assert_eq!(parse_request(request), expected);
        for end in 0..request.len() {
            assert_eq!(parse_request(&request[..end]), Parsed::NeedMore);
        }
        assert_eq!(parse_request(b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"), Parsed::Refused);
    }
}
