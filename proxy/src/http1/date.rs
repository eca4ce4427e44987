//! Dates as HTTP writes them (RFC 9110 5.6.7).

use std::fmt;

use time::OffsetDateTime;

/// The last second of the year 9999: a year has four digits.
const LAST_SECS: u64 = 253_402_300_799;

/// From Monday on.
const WEEKDAYS: &[u8; 21] = b"MonTueWedThuFriSatSun";

const MONTHS: &[u8; 36] = b"JanFebMarAprMayJunJulAugSepOctNovDec";

/// A second, written as `Sun, 06 Nov 1994 08:49:37 GMT`.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Date([u8; 29]);

impl Date {
    /// The second that is so many behind 1970.
    pub fn from_unix(secs: u64) -> Self {
        let secs = i64::try_from(secs.min(LAST_SECS)).unwrap_or_default();
        let at = OffsetDateTime::from_unix_timestamp(secs).unwrap_or(OffsetDateTime::UNIX_EPOCH);
        let mut text = *b"Thu, 01 Jan 1970 00:00:00 GMT";
        let weekday = 3 * usize::from(at.weekday().number_days_from_monday());
        text[..3].copy_from_slice(&WEEKDAYS[weekday..weekday + 3]);
        let month = 3 * usize::from(u8::from(at.month()) - 1);
        text[8..11].copy_from_slice(&MONTHS[month..month + 3]);
        let year = at.year().unsigned_abs();
        let (century, year) = (year / 100, year % 100);
        let (hour, minute, second) = at.to_hms();
        for (start, number) in [(12, century), (14, year)] {
            (text[start], text[start + 1]) = digits(u8::try_from(number).unwrap_or_default());
        }
        for (start, number) in [(5, at.day()), (17, hour), (20, minute), (23, second)] {
            (text[start], text[start + 1]) = digits(number);
        }
        Self(text)
    }

    /// As it is written.
    pub fn bytes(&self) -> &[u8] {
        &self.0
    }
}

fn digits(number: u8) -> (u8, u8) {
    (b'0' + number / 10 % 10, b'0' + number % 10)
}

impl fmt::Display for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|&byte| fmt::Write::write_char(f, byte.into()))
    }
}

impl fmt::Debug for Date {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_is_written_as_rfc_9110_writes_it() {
        for (secs, text) in [
            (0, "Thu, 01 Jan 1970 00:00:00 GMT"),
            (784_111_777, "Sun, 06 Nov 1994 08:49:37 GMT"),
            (951_782_399, "Mon, 28 Feb 2000 23:59:59 GMT"),
            (951_782_400, "Tue, 29 Feb 2000 00:00:00 GMT"),
            (951_868_800, "Wed, 01 Mar 2000 00:00:00 GMT"),
            (1_763_834_400, "Sat, 22 Nov 2025 18:00:00 GMT"),
            (1_798_761_599, "Thu, 31 Dec 2026 23:59:59 GMT"),
            (4_107_542_400, "Mon, 01 Mar 2100 00:00:00 GMT"),
            (LAST_SECS, "Fri, 31 Dec 9999 23:59:59 GMT"),
            (u64::MAX, "Fri, 31 Dec 9999 23:59:59 GMT"),
        ] {
            assert_eq!(Date::from_unix(secs).to_string(), text);
        }
    }
}
