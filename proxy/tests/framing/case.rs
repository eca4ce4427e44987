//! A request of HTTP/2 as a client sends it: drawn from a seed, in frames that are cut anywhere.

use rand::{RngExt, SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    frames::{BEGIN, CONTINUATION, DATA, END_HEADERS, END_STREAM, HEADERS, frame},
    oddities::{ODDITIES, Oddity, Verdict},
    strict::{self, Request},
};

/// As HPACK takes it.
type Field = (Vec<u8>, Vec<u8>);

/// What a frame may be padded with, at most, and the flag for that (RFC 9113 6.1).
const PADDING_BYTES_MAX: u8 = 20;
const PADDED: u8 = 8;

pub(crate) struct Case {
    pub(crate) number: usize,
    pub(crate) oddities: Vec<Oddity>,
    pub(crate) verdict: Verdict,
    /// The same without what comes behind the body.
    head_verdict: Verdict,
    /// A block of fields is cut, and may be within a field.
    is_cut: bool,
    pseudo: Vec<Field>,
    fields: Vec<Field>,
    late: Vec<Field>,
    body: Vec<u8>,
    trailers: Option<Vec<Field>>,
    is_open: bool,
    has_data_behind: bool,
    rng: StdRng,
}

impl Case {
    /// Each oddity once, alone; then two at a time, and more often than not such as may pass.
    pub(crate) fn draw(seed: u64, number: usize) -> Self {
        let mut rng = StdRng::seed_from_u64(seed.wrapping_mul(0x1_0000_0001).wrapping_add(number as u64));
        let mut oddities: Vec<(Verdict, Oddity)> = Vec::new();
        if let Some(alone) = ODDITIES.get(number) {
            oddities.push(*alone);
        } else {
            let passes = rng.random_bool(0.6);
            for _ in 0..rng.random_range(1..=3) {
                let drawn = ODDITIES[rng.random_range(0..ODDITIES.len())];
                let is_free = oddities.iter().all(|(_, other)| other.place() != drawn.1.place());
                if is_free && (!passes || drawn.0 != Verdict::Refused) {
                    oddities.push(drawn);
                }
            }
        }
        let text = |text: &str| text.as_bytes().to_vec();
        let pseudo = [(":method", "POST"), (":scheme", "http"), (":path", "/"), (":authority", "a.example")];
        let mut case = Self {
            number,
            oddities: Vec::new(),
            verdict: Verdict::Passes,
            head_verdict: Verdict::Passes,
            is_cut: false,
            pseudo: pseudo.map(|(name, value)| (text(name), text(value))).to_vec(),
            fields: vec![(text("accept"), text("*/*")), (text("x-case"), text(&number.to_string()))],
            late: Vec::new(),
            body: draw_body(&mut rng),
            trailers: None,
            is_open: false,
            has_data_behind: false,
            rng,
        };
        oddities.sort_by_key(|(_, oddity)| oddity.place() == "end");
        for (verdict, oddity) in oddities {
            let mut verdict = case.apply(oddity).max(verdict);
            if oddity.place() == "end" && case.fields.iter().any(|(name, _)| name == b"content-length") {
                // Whose length is known is whole before.
                verdict = verdict.min(Verdict::Either);
            }
            case.verdict = case.verdict.max(verdict);
            if oddity.place() != "end" {
                case.head_verdict = case.head_verdict.max(verdict);
            }
            case.oddities.push(oddity);
        }
        // The last of a name stays behind the first.
        case.pseudo.shuffle(&mut case.rng);
        case
    }

    /// What it does to the verdict where that depends on what is drawn.
    fn apply(&mut self, oddity: Oddity) -> Verdict {
        let owned = |fields: &[(&[u8], &[u8])]| -> Vec<Field> {
            fields.iter().map(|(name, value)| (name.to_vec(), value.to_vec())).collect()
        };
        match oddity {
            Oddity::Pseudo(name, values) => {
                self.pseudo.retain(|(other, _)| other != name.as_bytes());
                self.pseudo.extend(values.iter().map(|value| (name.as_bytes().to_vec(), value.to_vec())));
            }
            Oddity::LatePseudo(name, value) => {
                self.pseudo.retain(|(other, _)| other != name);
                self.late = owned(&[(name, value)]);
            }
            Oddity::HostAlone(host) => {
                self.pseudo.retain(|(name, _)| name != b":authority");
                self.fields.push((b"host".to_vec(), host.to_vec()));
            }
            Oddity::Fields(added) => {
                let at = self.rng.random_range(0..=self.fields.len());
                self.fields.splice(at..at, owned(added));
            }
            Oddity::NameByte => {
                let (name, verdict) = Oddity::draw_name(&mut self.rng);
                self.fields.push((name, b"x".to_vec()));
                return verdict;
            }
            Oddity::ValueByte => {
                let (value, verdict) = Oddity::draw_value(&mut self.rng);
                self.fields.push((b"x-value".to_vec(), value));
                return verdict;
            }
            Oddity::Length(says) => {
                if self.body.len() < 2 {
                    self.body = b"hello".to_vec();
                }
                let says = says(self.body.len());
                self.fields.extend(says.into_iter().map(|it| (b"content-length".to_vec(), it.into_bytes())));
            }
            Oddity::LengthOfNothing(says) => {
                self.body.clear();
                self.fields.push((b"content-length".to_vec(), says.as_bytes().to_vec()));
            }
            Oddity::Trailers(trailers) => self.trailers = Some(owned(trailers)),
            Oddity::OpenTrailers => {
                (self.trailers, self.is_open) = (Some(owned(&[(b"x-sum", b"1")])), true);
            }
            Oddity::DataBehindEnd => self.has_data_behind = true,
        }
        Verdict::Passes
    }

    /// It must not be seen by the origin.
    pub(crate) fn must_be_refused(&self) -> bool {
        self.verdict == Verdict::Refused || self.verdict == Verdict::Forgotten && !self.is_cut
    }

    /// What the client sends, from its first byte on; and what it sends when the origin has seen some of it, if there is any of that.
    pub(crate) fn frames(&mut self) -> [Vec<u8>; 2] {
        let rng = &mut self.rng;
        let (mut bytes, mut behind) = (BEGIN.to_vec(), Vec::new());
        let has_data = !self.body.is_empty() || self.trailers.is_none() && rng.random_bool(0.3);
        let ends = |is_last: bool| if is_last { END_STREAM } else { 0 };
        let head = [&self.pseudo[..], &self.fields, &self.late].concat();
        let is_whole = !has_data && self.trailers.is_none();
        bytes.extend(block(&head, ends(is_whole), rng, &mut self.is_cut));
        if has_data {
            let mut rest = &self.body[..];
            loop {
                let (piece, behind) = rest.split_at(rng.random_range(0..=rest.len()));
                rest = behind;
                let is_last = rest.is_empty() && self.trailers.is_none();
                bytes.extend(data(piece, ends(is_last), rng));
                if rest.is_empty() {
                    break;
                }
            }
        }
        if let Some(trailers) = &self.trailers {
            behind.extend(block(trailers, ends(!self.is_open), rng, &mut self.is_cut));
        }
        if self.has_data_behind {
            behind.extend(frame(DATA, 0, 1, b"GET /smuggled HTTP/1.1\r\nHost: a\r\nx-case: 0\r\n\r\n"));
        }
        if self.head_verdict != Verdict::Passes || rng.random_bool(0.5) {
            bytes.append(&mut behind);
        }
        [bytes, behind]
    }

    /// Whether this is what was sent, to whoever reads it in HTTP/1.1.
    ///
    /// # Errors
    /// What is not.
    pub(crate) fn compare(&self, seen: &Request) -> Result<(), String> {
        let pseudo = |name: &str| {
            let mut named = self.pseudo.iter().filter(|(other, _)| other == name.as_bytes());
            named.next().map(|(_, value)| value.as_slice())
        };
        let same = |what: &str, seen: &[u8], sent: &[u8]| {
            let text = |bytes: &[u8]| bytes.escape_ascii().to_string();
            (seen == sent).then_some(()).ok_or_else(|| format!("{what}: {} for {}", text(seen), text(sent)))
        };
        let path = pseudo(":path").unwrap_or_default();
        // A fragment is skipped.
        let path = path.split(|byte| *byte == b'#').next().unwrap_or_default();
        same("method", seen.method.as_bytes(), pseudo(":method").unwrap_or_default())?;
        same("target", seen.target.as_bytes(), path)?;
        let host = self.fields.iter().find(|(name, _)| name == b"host").map(|(_, value)| value.as_slice());
        same("host", &seen.values("host").join(&b','), pseudo(":authority").or(host).unwrap_or_default())?;
        same("body", &seen.body, &self.body)?;
        let fields = comparable(&self.fields, &seen.fields);
        same("fields", format!("{:?}", fields.1).as_bytes(), format!("{:?}", fields.0).as_bytes())?;
        let sent = self.trailers.iter().flatten().filter(|(name, _)| name.starts_with(b"x-"));
        let sent: Vec<_> = sent.filter(|_| seen.is_chunked).cloned().collect();
        let trailers: Vec<_> =
            seen.trailers.iter().map(|(n, v)| (n.clone().into_bytes(), v.clone())).collect();
        same("trailers", format!("{trailers:?}").as_bytes(), format!("{sent:?}").as_bytes())
    }
}

/// Both as they compare: what is sent without the host, with cookies as one; and what is seen without what HTTP/1.1 says of itself.
fn comparable(sent: &[Field], seen: &strict::Fields) -> (Vec<Field>, Vec<Field>) {
    let values = |name: &[u8]| -> Vec<&[u8]> {
        sent.iter().filter(|(other, _)| other == name).map(|(_, value)| value.as_slice()).collect()
    };
    let cookies = values(b"cookie");
    let cookie = (!cookies.is_empty()).then(|| (b"cookie".to_vec(), cookies.join(&b"; "[..])));
    let sent_length = !values(b"content-length").is_empty();
    let is_passed = |name: &[u8], value: &[u8]| match name {
        b"host" | b"cookie" | b"" => false,
        // What may be skipped.
        b"connection" | b"keep-alive" | b"proxy-connection" | b"transfer-encoding" | b"upgrade" => false,
        b"te" => value == b"trailers",
        _ => true,
    };
    let passed = sent.iter().filter(|(name, value)| is_passed(name, value));
    let mut sent: Vec<Field> = passed.cloned().chain(cookie).collect();
    let is_own = |name: &str, value: &[u8]| match name {
        "Host" => true,
        "Transfer-Encoding" => value == b"chunked",
        "Connection" => value == b"TE",
        "Content-Length" => value == b"0" && !sent_length,
        _ => false,
    };
    let seen = seen.iter().filter(|(name, value)| !is_own(name, value));
    // What names are written with here is ours where they are those above, and TE.
    let name = |name: &str| if name == "TE" { b"te".to_vec() } else { name.as_bytes().to_vec() };
    let mut seen: Vec<Field> = seen.map(|(of, value)| (name(of), value.clone())).collect();
    // The order among those of one name stays.
    sent.sort_by(|(a, _), (b, _)| a.cmp(b));
    seen.sort_by(|(a, _), (b, _)| a.cmp(b));
    (sent, seen)
}

/// Nothing, noise, and what would be a request or an end, if it was read as something else than a body.
fn draw_body(rng: &mut StdRng) -> Vec<u8> {
    match rng.random_range(0..5) {
        0 => Vec::new(),
        1 => (0..rng.random_range(1..300)).map(|_| rng.random()).collect(),
        2 => vec![b'x'; rng.random_range(10_000..40_000)],
        3 => b"GET /smuggled HTTP/1.1\r\nHost: a\r\nx-case: 0\r\n\r\n".to_vec(),
        _ => b"0\r\n\r\nGET /smuggled HTTP/1.1\r\nHost: a\r\nx-case: 0\r\n\r\n".to_vec(),
    }
}

/// A block of fields in up to three frames.
fn block(fields: &[Field], flags: u8, rng: &mut StdRng, is_cut: &mut bool) -> Vec<u8> {
    let packed: Vec<u8> = fields.iter().flat_map(|(name, value)| literal(name, value)).collect();
    let mut cuts: Vec<usize> =
        (0..rng.random_range(0..3)).map(|_| rng.random_range(0..=packed.len())).collect();
    cuts.sort_unstable();
    *is_cut |= !cuts.is_empty();
    let ends = cuts.iter().copied().chain([packed.len()]);
    let mut bytes = Vec::new();
    for (position, (start, end)) in [0].into_iter().chain(cuts.iter().copied()).zip(ends).enumerate() {
        let last = if position == cuts.len() { END_HEADERS } else { 0 };
        let (kind, flags) = if position == 0 { (HEADERS, flags | last) } else { (CONTINUATION, last) };
        bytes.extend(frame(kind, flags, 1, &packed[start..end]));
    }
    bytes
}

fn data(piece: &[u8], flags: u8, rng: &mut StdRng) -> Vec<u8> {
    // A frame bears 16 KiB (RFC 9113 4.2).
    let mut frames = Vec::new();
    let mut pieces: Vec<&[u8]> = piece.chunks(16_000).collect();
    let last = pieces.pop().unwrap_or_default();
    for piece in pieces {
        frames.extend(frame(DATA, 0, 1, piece));
    }
    if rng.random_bool(0.7) {
        frames.extend(frame(DATA, flags, 1, last));
    } else {
        let padding = rng.random_range(0..=PADDING_BYTES_MAX);
        let padded = [&[padding], last, &vec![0; padding.into()]].concat();
        frames.extend(frame(DATA, flags | PADDED, 1, &padded));
    }
    frames
}

/// A literal without indexing, by a new name, without Huffman's code (RFC 7541 6.2.2): bytes stand for themselves.
pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], &length(name.len())[..], name, &length(value.len()), value].concat()
}

/// A number in a prefix of seven bits (RFC 7541 5.1).
fn length(bytes: usize) -> Vec<u8> {
    if bytes < 127 {
        return vec![bytes as u8];
    }
    let (mut rest, mut number) = (bytes - 127, vec![127]);
    while rest >= 128 {
        number.push((rest % 128 + 128) as u8);
        rest /= 128;
    }
    number.push(rest as u8);
    number
}
