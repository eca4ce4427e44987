//! Quoted strings (RFC 9110 5.6.4): what a separator may hide in.

/// Where in a value a byte is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Quote {
    /// Outside quotes.
    None,
    /// Inside.
    Open,
    /// Behind a backslash inside.
    Escaped,
}

impl Quote {
    /// Where the byte behind this one is.
    pub fn next(self, byte: u8) -> Self {
        match (self, byte) {
            (Self::None, b'"') | (Self::Escaped, _) => Self::Open,
            (Self::Open, b'"') | (Self::None, _) => Self::None,
            (Self::Open, b'\\') => Self::Escaped,
            (Self::Open, _) => Self::Open,
        }
    }
}

/// What a comma may hide in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Syntax {
    Plain,
    Quoted,
}

/// The elements of a list. One whose quote never ends has none: it would swallow what others have put behind it.
pub(super) fn elements(value: &[u8], syntax: Syntax) -> impl Iterator<Item = &[u8]> {
    let next = move |quote: Quote, byte: u8| match syntax {
        Syntax::Plain => Quote::None,
        Syntax::Quoted => quote.next(byte),
    };
    let is_whole = value.iter().fold(Quote::None, |quote, &byte| next(quote, byte)) == Quote::None;
    let mut quote = Quote::None;
    let parts = value.split(move |&byte| {
        quote = next(quote, byte);
        quote == Quote::None && byte == b','
    });
    parts.map(<[u8]>::trim_ascii).filter(move |element| is_whole && !element.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comma_parts_only_outside_of_quotes_and_a_quote_without_end_hides_everything() {
        let quoted =
            |value: &'static str| -> Vec<&[u8]> { elements(value.as_bytes(), Syntax::Quoted).collect() };
        assert_eq!(quoted(r#" a="1,2" ,, b "#), [&br#"a="1,2""#[..], b"b"]);
        assert_eq!(quoted(r#""\",", c"#), [&br#""\",""#[..], b"c"]);
        assert!(quoted(r#"a, "b"#).is_empty() && quoted(r#"a, "b\""#).is_empty());
        let plain: Vec<&[u8]> = elements(b"\"a, b\"", Syntax::Plain).collect();
        assert_eq!(plain, [&b"\"a"[..], b"b\""]);
    }
}
