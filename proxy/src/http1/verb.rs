//! The method as a client wrote it, as far as it is counted: those of RFC 9110 and PATCH, and all others together.

/// A method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[expect(missing_docs, reason = "each is called what it is")]
pub enum Verb {
    Get,
    Head,
    Post,
    Put,
    Delete,
    Options,
    Patch,
    /// Whatever else a client may say, and what was not understood. CONNECT and TRACE are among them: they are refused.
    Other,
}

impl Verb {
    /// Every one, in the order of their positions in a table.
    pub const ALL: [Self; 8] =
        [Self::Get, Self::Head, Self::Post, Self::Put, Self::Delete, Self::Options, Self::Patch, Self::Other];

    /// The one that is written so.
    pub fn of(method: &str) -> Self {
        match method {
            "GET" => Self::Get,
            "HEAD" => Self::Head,
            "POST" => Self::Post,
            "PUT" => Self::Put,
            "DELETE" => Self::Delete,
            "OPTIONS" => Self::Options,
            "PATCH" => Self::Patch,
            _ => Self::Other,
        }
    }

    /// What it is called in metrics.
    pub fn word(self) -> &'static str {
        match self {
            Self::Get => "GET",
            Self::Head => "HEAD",
            Self::Post => "POST",
            Self::Put => "PUT",
            Self::Delete => "DELETE",
            Self::Options => "OPTIONS",
            Self::Patch => "PATCH",
            Self::Other => "other",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_method_has_a_place_and_a_word_and_what_is_unknown_shares_one() {
        for (place, verb) in Verb::ALL.into_iter().enumerate() {
            assert_eq!(verb as usize, place);
            assert_eq!(Verb::of(verb.word()), verb);
        }
        for other in ["get", "PROPFIND", "CONNECT", ""] {
            assert_eq!(Verb::of(other), Verb::Other, "{other}");
        }
    }
}
