//! How long each phase may take.

use std::{str::FromStr, time::Duration};

use super::text::read_as_text;

/// A time with its unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Span(pub Duration);

read_as_text!(Span, "a number and a unit: 250ms, 5s, 2m, 1h");

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        feed::time::parse_duration(text).map(Self)
    }
}

macro_rules! phases {
    ($($(#[$doc:meta])* $phase:ident = $secs:literal;)*) => {
        /// The longest that each phase may take.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub struct Timeouts {
            $($(#[$doc])* pub $phase: Duration,)*
        }

        impl Default for Timeouts {
            fn default() -> Self {
                Self { $($phase: Duration::from_secs($secs),)* }
            }
        }

        /// The phases that something was said of.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Deserialize, schemars::JsonSchema)]
        #[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
        pub struct GivenTimeouts {
            $($(#[$doc])* pub $phase: Option<Span>,)*
        }

        impl GivenTimeouts {
            /// What is said here, and of other phases what is said there.
            #[must_use]
            pub fn over(self, under: Self) -> Self {
                Self { $($phase: self.$phase.or(under.$phase),)* }
            }

            /// What is said here, and the others as they are there.
            pub fn over_all(self, under: Timeouts) -> Timeouts {
                Timeouts { $($phase: self.$phase.map_or(under.$phase, |span| span.0),)* }
            }

            fn slot(&mut self, phase: &str) -> Option<&mut Option<Span>> {
                match phase {
                    $(stringify!($phase) => Some(&mut self.$phase),)*
                    _ => None,
                }
            }
        }

        const PHASES: &[&str] = &[$(stringify!($phase)),*];
    };
}

phases! {
    /// From the first byte of a head to its last, however the bytes trickle.
    header = 5;
    /// Between two bytes that a client sends of a body, the first included, and between two that either side takes of one.
    body = 30;
    /// Between two requests of a client. Idle upstream connections are kept for a quarter of it: an upstream must not be
    /// the one that closes first.
    idle = 60;
    /// In wait for an upstream, where all are at their limit.
    queue = 1;
    /// To connect to an upstream.
    connect = 1;
    /// From the request to the response's head.
    response = 60;
    /// Between two bytes that an upstream sends of a response under way: event streams are silent for long.
    stream = 3600;
    /// Between two bytes of a tunnel, either way.
    tunnel = 3600;
    /// Between two datagrams of a flow, either way.
    flow = 30;
    /// From the request to stop to the end of the last exchange.
    drain = 2;
}

impl FromStr for GivenTimeouts {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut given = Self::default();
        for item in text.split(',').map(str::trim).filter(|item| !item.is_empty()) {
            let (phase, time) =
                item.split_once('=').ok_or_else(|| format!("{item:?}: expected PHASE=TIME"))?;
            let slot = given
                .slot(phase)
                .ok_or_else(|| format!("{phase:?} is not a phase: expected one of {}", PHASES.join(", ")))?;
            *slot = Some(time.parse()?);
        }
        Ok(given)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_change_only_the_phases_that_are_named() {
        let given: GivenTimeouts = "connect=250ms,tunnel=2h".parse().unwrap();
        let timeouts = given.over_all(Timeouts::default());
        assert_eq!(timeouts.connect, Duration::from_millis(250));
        assert_eq!(timeouts.tunnel, Duration::from_secs(7200));
        assert_eq!(timeouts.idle, Timeouts::default().idle);
        let under: GivenTimeouts = "connect=1h,idle=1h".parse().unwrap();
        let both = given.over(under).over_all(Timeouts::default());
        assert_eq!((both.connect, both.idle), (Duration::from_millis(250), Duration::from_secs(3600)));
        assert!("warp=1s".parse::<GivenTimeouts>().unwrap_err().contains("not a phase"));
        assert!("idle=1".parse::<GivenTimeouts>().unwrap_err().contains("not a time"));
        assert!("idle".parse::<GivenTimeouts>().unwrap_err().contains("PHASE=TIME"));
    }
}
