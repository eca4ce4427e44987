//! How requests are traced: whose trace goes on, and how many begin.

use std::{fmt, str::FromStr};

use schemars::JsonSchema;
use serde::{Deserialize, Deserializer, de};

use crate::http1::{TraceId, trace_context::RANDOM_BITS};

/// What becomes of the traces that requests are parts of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum TraceMode {
    /// Traceparent and tracestate are fields as any others.
    Off,
    /// That of the client goes on, if it sends one; else one begins.
    Propagate,
    /// One begins with each request.
    Restart,
}

/// Which of the traces that begin here are sampled: those whose random bits are no less than this. Whoever else samples by the same bits
/// (W3C Trace Context Level 2, 3.2.2.5.2) has the same traces, or more of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Sampling {
    least: u64,
}

impl Sampling {
    /// All of them.
    pub const ALL: Self = Self { least: 0 };

    /// So many in a hundred; none if that is no share.
    fn of_percent(percent: f64) -> Option<Self> {
        let is_share = (0.0..=100.0).contains(&percent);
        // Between 0 and 2^56, which a float holds.
        is_share.then(|| Self { least: ((1.0 - percent / 100.0) * (1_u64 << RANDOM_BITS) as f64) as u64 })
    }

    /// Whether this trace is one of them.
    pub(crate) fn takes(self, trace: TraceId) -> bool {
        trace.random_bits() >= self.least
    }
}

fn no_share(text: impl fmt::Display) -> String {
    format!("{text}: expected a number from 0 to 100, such as 5 or 0.1")
}

impl FromStr for Sampling {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        text.parse().ok().and_then(Self::of_percent).ok_or_else(|| no_share(text))
    }
}

impl<'de> Deserialize<'de> for Sampling {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let percent = f64::deserialize(from)?;
        Self::of_percent(percent).ok_or_else(|| de::Error::custom(no_share(percent)))
    }
}

impl JsonSchema for Sampling {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Sampling".into()
    }

    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": "number", "minimum": 0, "maximum": 100 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_number_from_0_to_100_and_takes_as_many_traces() {
        let trace = |low: u64| TraceId::of_bits(1, low).unwrap();
        let (least, most) = (trace(0xff00_0000_0000_0000), trace(0xff_ffff_ffff_ffff));
        for (text, takes_least, takes_most) in
            [("0", false, false), ("0.00001", false, true), ("50", false, true), ("100", true, true)]
        {
            let sampling: Sampling = text.parse().unwrap();
            assert_eq!((sampling.takes(least), sampling.takes(most)), (takes_least, takes_most), "{text}");
        }
        assert_eq!("100".parse(), Ok(Sampling::ALL));
        let half: Sampling = "50".parse().unwrap();
        assert!(half.takes(trace(1 << 55)) && !half.takes(trace((1 << 55) - 1)));
        for bad in ["-1", "100.1", "NaN", "inf", "5%", ""] {
            assert!(bad.parse::<Sampling>().is_err_and(|error| error.contains("from 0 to 100")), "{bad}");
        }
    }
}
