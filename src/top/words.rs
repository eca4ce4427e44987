//! Numbers as people read them, and the signs of states.

use feed::frame::MemberState;

/// What is not known.
pub(super) const NOTHING: &str = "–";

/// A count or a rate in at most six characters.
pub(super) fn short(n: f64) -> String {
    match n {
        n if n >= 9_999_500.0 => format!("{:.0}M", n / 1e6),
        n if n >= 999_500.0 => format!("{:.1}M", n / 1e6),
        n if n >= 9_999.5 => format!("{:.0}k", n / 1e3),
        n if n >= 999.5 => format!("{:.1}k", n / 1e3),
        n if (0.05..9.95).contains(&n) => format!("{n:.1}"),
        n => format!("{n:.0}"),
    }
}

/// A time in microseconds, in at most seven characters.
#[expect(clippy::cast_precision_loss, reason = "no time is as long as that")]
pub(super) fn time(us: u64) -> String {
    let us = us as f64;
    match us {
        us if us < 999.5 => format!("{us:.0} µs"),
        us if us < 9_950.0 => format!("{:.1} ms", us / 1e3),
        us if us < 999_500.0 => format!("{:.0} ms", us / 1e3),
        us => format!("{:.1} s", us / 1e6),
    }
}

/// A state as a sign and a word: no colour is needed to tell it.
pub(super) fn state(state: MemberState) -> String {
    let sign = match state {
        MemberState::Ready => '●',
        MemberState::Joining | MemberState::Checking => '◔',
        MemberState::Alone => '◌',
        MemberState::Unhealthy => '◆',
        MemberState::Draining => '▼',
        MemberState::Left => '○',
        MemberState::Failed => '✕',
    };
    format!("{sign} {}", state.as_str())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_short_and_times_have_a_unit() {
        for (n, told) in [
            (0.0, "0"),
            (0.04, "0"),
            (0.05, "0.1"),
            (9.94, "9.9"),
            (9.95, "10"),
            (999.4, "999"),
            (999.5, "1.0k"),
            (9_999.5, "10k"),
            (999_499.0, "999k"),
            (999_500.0, "1.0M"),
            (9_999_500.0, "10M"),
        ] {
            assert_eq!(short(n), told);
        }
        for (us, told) in [
            (0, "0 µs"),
            (999, "999 µs"),
            (1_000, "1.0 ms"),
            (9_949, "9.9 ms"),
            (9_950, "10 ms"),
            (999_499, "999 ms"),
            (999_500, "1.0 s"),
            (30_000_000, "30.0 s"),
        ] {
            assert_eq!(time(us), told);
        }
    }

    #[test]
    fn no_two_states_are_told_alike() {
        let all = [
            MemberState::Joining,
            MemberState::Alone,
            MemberState::Checking,
            MemberState::Unhealthy,
            MemberState::Ready,
            MemberState::Draining,
            MemberState::Left,
            MemberState::Failed,
        ];
        let told: std::collections::BTreeSet<String> = all.into_iter().map(state).collect();
        assert_eq!(told.len(), all.len());
        assert!(told.iter().all(|told| told.chars().count() <= 11), "{told:?}");
    }
}
