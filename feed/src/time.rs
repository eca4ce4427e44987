//! Times as people write them on command lines.

use std::time::Duration;

/// Reads a time with its unit: `250ms`, `5s`, `2m`, `1h`.
///
/// # Errors
/// What was wrong, and what would be right.
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let refused =
        || format!("{text:?} is not a time: expected a number and a unit, such as 250ms, 5s, 2m or 1h");
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| refused())?;
    let unit_ms = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(refused()),
    };
    number.checked_mul(unit_ms).map(Duration::from_millis).ok_or_else(refused)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_need_a_number_and_a_unit() {
        assert_eq!(parse_duration("250ms"), Ok(Duration::from_millis(250)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "5", "s", "-1s", "5 s", "99999999999999999999h", "18446744073709551615h"] {
            assert!(parse_duration(bad).unwrap_err().contains("is not a time"), "{bad}");
        }
    }
}
