//! How many requests are served in a time.

use std::{num::NonZeroU32, str::FromStr, time::Duration};

use serde::{Deserialize, Deserializer};

use super::text::read_as_text;
use crate::http1::fields::is_token;

/// A limit for each client, or for each value of a field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rate {
    /// So many
    pub count: NonZeroU32,
    /// in this time.
    pub period: Duration,
    /// So many at once, after a pause.
    pub burst: NonZeroU32,
    /// Who is counted.
    pub by: RateKey,
}

/// By what requests are counted together.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RateKey {
    /// The client's address; of version 6 the network of 64 bits, which one customer has.
    Client,
    /// A field; requests without it are counted together.
    Field(Box<str>),
}

read_as_text!(RateKey, "client, or header:NAME");

impl FromStr for RateKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_name = |name: &&str| !name.is_empty() && name.bytes().all(is_token);
        match text.strip_prefix("header:").filter(is_name) {
            Some(name) => Ok(Self::Field(name.into())),
            None if text == "client" => Ok(Self::Client),
            None => Err(format!("{text:?}: expected client or header:NAME")),
        }
    }
}

/// So many in a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct PerTime {
    count: NonZeroU32,
    period: Duration,
}

read_as_text!(PerTime, "COUNT/s, COUNT/m or COUNT/h");

impl FromStr for PerTime {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parsed = text.split_once('/').and_then(|(count, unit)| {
            let secs = match unit {
                "s" => 1,
                "m" => 60,
                "h" => 3600,
                _ => return None,
            };
            Some(Self { count: count.parse().ok()?, period: Duration::from_secs(secs) })
        });
        parsed.ok_or_else(|| {
            format!("{text:?} is not a rate: expected COUNT/s, COUNT/m or COUNT/h, such as 100/s")
        })
    }
}

/// As it is written: a rate alone, or with more.
#[derive(Deserialize, schemars::JsonSchema)]
#[serde(untagged)]
#[expect(dead_code, reason = "for the schema alone: errors of an untagged enum name no place")]
pub(super) enum WrittenRate {
    Alone(PerTime),
    Whole(WholeRate),
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct WholeRate {
    /// COUNT/s, COUNT/m or COUNT/h
    rate: PerTime,
    /// So many at once, after a pause
    burst: Option<NonZeroU32>,
    /// client, or header:NAME
    by: Option<RateKey>,
}

impl<'de> Deserialize<'de> for Rate {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct Visitor;

        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = WholeRate;

            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a rate such as \"100/s\", or { rate = \"100/s\", burst = 200, by = \"client\" }")
            }

            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<WholeRate, E> {
                Ok(WholeRate { rate: text.parse().map_err(E::custom)?, burst: None, by: None })
            }

            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<WholeRate, A::Error> {
                WholeRate::deserialize(serde::de::value::MapAccessDeserializer::new(map))
            }
        }

        let WholeRate { rate, burst, by } = from.deserialize_any(Visitor)?;
        let (burst, by) = (burst.unwrap_or(rate.count), by.unwrap_or(RateKey::Client));
        Ok(Self { count: rate.count, period: rate.period, burst, by })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Holder {
        rate: Rate,
    }

    fn rate(text: &str) -> Result<Rate, String> {
        let holder: Result<Holder, _> = program::file::parse("a.toml", &format!("rate = {text}"));
        holder.map(|holder| holder.rate).map_err(|error| error.to_string())
    }

    #[test]
    fn a_rate_is_a_count_and_a_time_or_says_more() {
        let alone = rate("'100/s'").unwrap();
        assert_eq!((alone.count.get(), alone.burst.get(), alone.by), (100, 100, RateKey::Client));
        let whole = rate("{ rate = '6/m', burst = 3, by = 'header:X-Key' }").unwrap();
        assert_eq!((whole.period.as_secs(), whole.burst.get()), (60, 3));
        assert_eq!(whole.by, RateKey::Field("X-Key".into()));
        for (bad, why) in [
            ("'0/s'", "is not a rate"),
            ("'5/d'", "is not a rate"),
            ("5", "expected a rate such as"),
            ("{ rate = '5/s', by = 'cookie' }", "expected client or header:NAME"),
            ("{ rate = '5/s', bust = 3 }", "did you mean `burst`?"),
        ] {
            let told = rate(bad).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }
}
