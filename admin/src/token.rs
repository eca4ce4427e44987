//! The word that proves that somebody may change something.

use std::{fmt, fs, io, path::Path, str::FromStr};

/// Shortest token: what is guessed in less time than the universe has needs no more.
pub const TOKEN_BYTES_MIN: usize = 16;
/// Longest: a field has room for it.
pub const TOKEN_BYTES_MAX: usize = 256;

/// Why there is no token.
#[derive(Debug, thiserror::Error)]
pub enum TokenError {
    /// The file cannot be read.
    #[error("cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It is none.
    #[error("expected one line of {TOKEN_BYTES_MIN} to {TOKEN_BYTES_MAX} visible ASCII characters")]
    NotAToken,
}

/// A token. It is never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Token(Vec<u8>);

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Token")
    }
}

impl FromStr for Token {
    type Err = TokenError;

    fn from_str(text: &str) -> Result<Self, TokenError> {
        let text = text.trim_end_matches(['\r', '\n']);
        let is_token = (TOKEN_BYTES_MIN..=TOKEN_BYTES_MAX).contains(&text.len())
            && text.bytes().all(|b| b.is_ascii_graphic());
        if is_token { Ok(Self(text.as_bytes().to_vec())) } else { Err(TokenError::NotAToken) }
    }
}

impl Token {
    /// That of a file.
    ///
    /// # Errors
    /// It cannot be read, or holds none.
    pub fn load(path: &Path) -> Result<Self, TokenError> {
        fs::read_to_string(path)?.parse()
    }

    /// Whether a field Authorization says it. How long that takes says nothing of the token but, at most, its length.
    pub fn is_given_by(&self, authorization: &[u8]) -> bool {
        let Some((scheme, given)) = authorization.split_at_checked("Bearer ".len()) else { return false };
        let differences = self.0.iter().zip(given).fold(0, |all, (own, theirs)| all | (own ^ theirs));
        scheme.eq_ignore_ascii_case(b"Bearer ")
            && given.len() == self.0.len()
            && std::hint::black_box(differences) == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_is_a_line_of_some_length() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("token");
        let load = |text: &str| {
            fs::write(&path, text).unwrap();
            Token::load(&path)
        };
        let longest = "t".repeat(TOKEN_BYTES_MAX);
        for good in ["0123456789abcdef", "0123456789abcdef\n", "0123456789abcdef\r\n", &longest] {
            assert!(load(good).is_ok(), "{good}");
        }
        let longer = format!("{longest}t");
        for bad in ["", "\n", "0123456789abcde", "0123456789 abcdef", "0123456789abcdef\nx", &longer] {
            assert!(matches!(load(bad), Err(TokenError::NotAToken)), "{bad}");
        }
        assert!(matches!(Token::load(&dir.path().join("none")), Err(TokenError::Io(_))));
        assert_eq!(format!("{:?}", load("0123456789abcdef").unwrap()), "Token");
    }

    #[test]
    fn it_is_given_whole_or_not_at_all() {
        let token: Token = "0123456789abcdef".parse().unwrap();
        assert!(
            token.is_given_by(b"Bearer 0123456789abcdef") && token.is_given_by(b"bearer 0123456789abcdef")
        );
        for wrong in [
            "",
            "Bearer",
            "Bearer ",
            "Bearer 0123456789abcde",
            "Bearer 0123456789abcdeF",
            "Bearer 0123456789abcdefg",
            "Basic 0123456789abcdef",
            "0123456789abcdef",
        ] {
            assert!(!token.is_given_by(wrong.as_bytes()), "{wrong}");
        }
    }
}
