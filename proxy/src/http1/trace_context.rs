//! W3C Trace Context, levels 1 and 2: `traceparent` as it is read and written, and what becomes of it at this hop. `tracestate` passes
//! with a trace that goes on, and ends where another begins; nobody here reads it.

use std::{fmt, num::NonZeroU64};

use super::{
    Pieces,
    fields::{Field, FieldSet},
    pieces::Full,
};
use crate::limits::TRACEPARENT_BYTES;

/// Whoever has sent it may have recorded a span (Level 2, 3.2.2.5.1).
const IS_SAMPLED: u8 = 1;

/// The lower 56 bits of the trace's id are random (Level 2, 3.2.2.5.2).
const IS_RANDOM: u8 = 2;

/// How many bits these are.
pub(crate) const RANDOM_BITS: u32 = 56;

/// By what the spans of a trace are found together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceId {
    high: u64,
    low: u64,
}

impl TraceId {
    /// None of zeros alone: that is no id.
    pub fn of_bits(high: u64, low: u64) -> Option<Self> {
        (high != 0 || low != 0).then_some(Self { high, low })
    }

    /// The bits that are random if any are: by them every hop samples the same traces.
    pub(crate) fn random_bits(self) -> u64 {
        self.low & ((1 << RANDOM_BITS) - 1)
    }
}

/// What one program did for a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpanId(NonZeroU64);

impl SpanId {
    /// None of zeros alone: that is no id.
    pub fn of_bits(bits: u64) -> Option<Self> {
        NonZeroU64::new(bits).map(Self)
    }
}

/// What a program tells the next one of the trace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Traceparent {
    /// Of which trace the request is a part.
    pub trace_id: TraceId,
    /// The span from which it came.
    pub parent_id: SpanId,
    flags: u8,
}

impl Traceparent {
    /// What was sent, if it is one. Of a later version, what is known of it counts (Level 2, 4.3).
    pub fn parse(sent: &[u8]) -> Option<Self> {
        let (known, rest) = sent.split_at_checked(TRACEPARENT_BYTES)?;
        if [2, 35, 52].iter().any(|&at| known[at] != b'-') {
            return None;
        }
        let is_whole = match hex(&known[..2])? {
            0x00 => rest.is_empty(),
            0xff => false,
            _ => rest.first().is_none_or(|&byte| byte == b'-'),
        };
        let trace_id = TraceId::of_bits(hex(&known[3..19])?, hex(&known[19..35])?)?;
        let parent_id = SpanId::of_bits(hex(&known[36..52])?)?;
        // Flags that nobody knows are not passed on (Level 2, 3.2.2.5.3).
        let flags = u8::try_from(hex(&known[53..])?).ok()? & (IS_SAMPLED | IS_RANDOM);
        is_whole.then_some(Self { trace_id, parent_id, flags })
    }

    /// The only one among these values; of several nobody knows which is meant.
    pub fn of_values<'a>(mut values: impl Iterator<Item = &'a [u8]>) -> Option<Self> {
        let only = values.next()?;
        if values.next().is_some() { None } else { Self::parse(only) }
    }

    /// Whoever has sent it may have recorded a span.
    pub fn is_sampled(&self) -> bool {
        self.flags & IS_SAMPLED != 0
    }

    /// The flags as they are written.
    pub(crate) fn flags(&self) -> u8 {
        self.flags
    }

    /// As it is written.
    pub fn written(&self) -> [u8; TRACEPARENT_BYTES] {
        let mut text = *b"00-00000000000000000000000000000000-0000000000000000-00";
        put_hex(self.trace_id.high, &mut text[3..19]);
        put_hex(self.trace_id.low, &mut text[19..35]);
        put_hex(self.parent_id.0.get(), &mut text[36..52]);
        put_hex(self.flags.into(), &mut text[53..]);
        text
    }
}

/// The trace that a request is a part of, as it goes on from here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Trace {
    /// What the next hop is told.
    pub told: Traceparent,
    /// The span from which the request came; none where the trace begins here.
    pub parent: Option<SpanId>,
    /// The span that the next hop is told of is this hop's own.
    pub is_recorded: bool,
}

impl Trace {
    /// One that only passes.
    pub fn passed(sent: Traceparent) -> Self {
        Self { told: sent, parent: Some(sent.parent_id), is_recorded: false }
    }

    /// One that goes on with a span of this hop.
    pub fn recorded(sent: Traceparent, span: SpanId) -> Self {
        let told = Traceparent { parent_id: span, ..sent };
        Self { told, parent: Some(sent.parent_id), is_recorded: true }
    }

    /// One that begins here, by an id that is random.
    pub fn begun(trace_id: TraceId, span: SpanId, is_sampled: bool, has_spans: bool) -> Self {
        let flags = IS_RANDOM | if is_sampled { IS_SAMPLED } else { 0 };
        let told = Traceparent { trace_id, parent_id: span, flags };
        Self { told, parent: None, is_recorded: is_sampled && has_spans }
    }

    /// The lines that say something else. What others have noted of another trace ends with it (Level 2, 3.2 and 3.3).
    pub(super) fn replaced(&self, fields: &[Field<'_>]) -> FieldSet {
        let is_begun = self.parent.is_none();
        let is_it = |field: &Field<'_>| {
            field.name.eq_ignore_ascii_case("traceparent")
                || is_begun && field.name.eq_ignore_ascii_case("tracestate")
        };
        let positions = fields.iter().enumerate().filter(|(_, field)| is_it(field));
        positions.fold(0, |set, (position, _)| set | 1 << position)
    }

    pub(super) fn push(&self, pieces: &mut Pieces) -> Result<(), Full> {
        pieces.add(b"traceparent: ")?;
        pieces.add(&self.told.written())?;
        pieces.add(b"\r\n")
    }
}

impl fmt::Display for TraceId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}{:016x}", self.high, self.low)
    }
}

impl fmt::Display for SpanId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

/// Hexadecimal digits, lower case alone (Level 2, 3.2).
fn hex(digits: &[u8]) -> Option<u64> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u64::from(value))
    })
}

/// Writes the lowest digits of a number, as many as there is room for.
pub(super) fn put_hex(number: u64, text: &mut [u8]) {
    for (position, byte) in text.iter_mut().rev().enumerate() {
        *byte = b"0123456789abcdef"[(number >> (4 * position) & 15) as usize];
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn parse(text: &str) -> Option<String> {
        Traceparent::parse(text.as_bytes()).map(|it| String::from_utf8(it.written().to_vec()).unwrap())
    }

    #[test]
    fn what_version_00_says_is_read_and_written_alike() {
        for flags in ["00", "01", "02", "03"] {
            let text = format!("00-{TRACE}-{SPAN}-{flags}");
            assert_eq!(parse(&text).as_deref(), Some(text.as_str()));
        }
        let read = Traceparent::parse(format!("00-{TRACE}-{SPAN}-01").as_bytes()).unwrap();
        assert_eq!((read.trace_id.to_string(), read.parent_id.to_string()), (TRACE.into(), SPAN.into()));
        assert!(read.is_sampled());
    }

    /// The cases of the specification, and of its test suite.
    #[test]
    fn what_is_no_traceparent_is_none() {
        let zeros = "0".repeat(32);
        for bad in [
            String::new(),
            "00".into(),
            format!("00-{TRACE}-{SPAN}"),
            format!("00-{TRACE}-{SPAN}-"),
            format!("00-{TRACE}-{SPAN}-0"),
            format!("00-{TRACE}-{SPAN}-1"),
            format!("00-{TRACE}-{SPAN}-0x"),
            format!("00-{TRACE}-{SPAN}-0A"),
            format!("00-{TRACE}-{SPAN}-.0"),
            format!("00-{TRACE}-{SPAN}-011"),
            format!("00-{TRACE}-{SPAN}-01-"),
            format!("00-{TRACE}-{SPAN}-01-what-the-future-will-be-like"),
            format!("00-{TRACE}-{SPAN}-01."),
            format!("00-{zeros}-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &zeros[..16]),
            format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            format!("00-{TRACE}-{}-01", SPAN.to_uppercase()),
            format!("00-{}.-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}-{}.-01", &SPAN[1..]),
            format!("00-{}-{SPAN}-01", &TRACE[1..]),
            format!("00-{TRACE}0-{SPAN}-01"),
            format!("00-{TRACE}-{}-01", &SPAN[1..]),
            format!("00_{TRACE}_{SPAN}_01"),
            format!("0-{TRACE}-{SPAN}-001"),
            format!("0X-{TRACE}-{SPAN}-01"),
            format!("0A-{TRACE}-{SPAN}-01"),
            format!("..-{TRACE}-{SPAN}-01"),
            format!("000-{TRACE}-{SPAN}-1"),
            format!("ff-{TRACE}-{SPAN}-01"),
            format!("ff-{TRACE}-{SPAN}-01-what-the-future-will-be-like"),
            format!(" 00-{TRACE}-{SPAN}-01"),
            format!("\u{e4}0-{TRACE}-{SPAN}-01"),
        ] {
            assert_eq!(parse(&bad), None, "{bad}");
        }
    }

    #[test]
    fn what_is_known_of_a_later_version_counts_and_is_said_in_ours() {
        let ours = format!("00-{TRACE}-{SPAN}-01");
        for version in ["01", "cc", "fe"] {
            for rest in ["", "-", "-what-the-future-will-be-like"] {
                assert_eq!(
                    parse(&format!("{version}-{TRACE}-{SPAN}-01{rest}")),
                    Some(ours.clone()),
                    "{rest}"
                );
            }
            for rest in [".", "0", ".what-the-future-will-be-like"] {
                assert_eq!(parse(&format!("{version}-{TRACE}-{SPAN}-01{rest}")), None, "{rest}");
            }
            assert_eq!(parse(&format!("{version}-{TRACE}-{SPAN}-0")), None);
        }
    }

    #[test]
    fn flags_that_nobody_knows_are_not_passed_on() {
        for (sent, kept) in [("ff", "03"), ("fe", "02"), ("f1", "01"), ("04", "00"), ("80", "00")] {
            assert_eq!(
                parse(&format!("00-{TRACE}-{SPAN}-{sent}")),
                Some(format!("00-{TRACE}-{SPAN}-{kept}"))
            );
        }
    }

    #[test]
    fn of_several_there_is_none() {
        let text = format!("00-{TRACE}-{SPAN}-01");
        let of = |count: usize| Traceparent::of_values([text.as_bytes(); 2].into_iter().take(count));
        assert!(of(1).is_some());
        assert_eq!((of(0), of(2)), (None, None));
    }

    #[test]
    fn a_trace_that_goes_on_keeps_its_state_and_one_that_begins_has_none() {
        let sent = Traceparent::parse(format!("00-{TRACE}-{SPAN}-01").as_bytes()).unwrap();
        let span = SpanId::of_bits(0x17).unwrap();
        let field = |name: &'static str| Field { name, value: b"" };
        let fields = ["Host", "TraceParent", "tracestate", "TRACESTATE", "tracestates", "trace-parent"];
        let fields = fields.map(field);
        for (trace, written, replaced, is_recorded) in [
            (Trace::passed(sent), format!("00-{TRACE}-{SPAN}-01"), 0b00_0010, false),
            (Trace::recorded(sent, span), format!("00-{TRACE}-0000000000000017-01"), 0b00_0010, true),
            (
                Trace::begun(sent.trace_id, span, true, true),
                format!("00-{TRACE}-0000000000000017-03"),
                0b00_1110,
                true,
            ),
            (
                Trace::begun(sent.trace_id, span, false, true),
                format!("00-{TRACE}-0000000000000017-02"),
                0b00_1110,
                false,
            ),
        ] {
            assert_eq!(str::from_utf8(&trace.told.written()).unwrap(), written);
            assert_eq!((trace.replaced(&fields), trace.is_recorded), (replaced, is_recorded), "{written}");
        }
        assert!(!Trace::begun(sent.trace_id, span, true, false).is_recorded, "nobody takes spans");
    }
}
