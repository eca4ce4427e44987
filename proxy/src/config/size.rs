//! Sizes as people write them.

use std::str::FromStr;

use super::text::read_as_text;

/// A number of bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub u64);

read_as_text!(Size, "a number of bytes, or of kibi-, mebi- or gibibytes: 4096, 512k, 10m, 1g");

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = match text.to_ascii_lowercase().pop() {
            Some('k') => (&text[..text.len() - 1], 1 << 10),
            Some('m') => (&text[..text.len() - 1], 1 << 20),
            Some('g') => (&text[..text.len() - 1], 1 << 30),
            _ => (text, 1),
        };
        // `parse` alone would take a plus sign.
        let digits = Some(number).filter(|number| number.bytes().all(|b| b.is_ascii_digit()));
        let bytes = digits.and_then(|digits| digits.parse::<u64>().ok()?.checked_mul(unit));
        bytes.map(Self).ok_or_else(|| {
            format!("{text:?} is not a size: expected a number of bytes, such as 4096, 512k, 10m or 1g")
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_numbers_with_or_without_a_unit() {
        for (text, bytes) in
            [("0", 0), ("4096", 4096), ("512k", 512 << 10), ("10M", 10 << 20), ("1g", 1 << 30)]
        {
            assert_eq!(text.parse(), Ok(Size(bytes)));
        }
        for bad in
            ["", "k", "-1", "+1", "1.5m", "10 m", "10mb", "1\u{e4}", "18446744073709551616", "17179869184g"]
        {
            assert!(bad.parse::<Size>().is_err_and(|error| error.contains("is not a size")), "{bad}");
        }
    }
}
