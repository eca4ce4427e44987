//! Clients that stay at an upstream, by a cookie.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

use crate::http1::fields::is_token;

/// Bytes of a cookie's name.
const NAME_BYTES_MAX: usize = 64;

/// Bytes of a secret: as many as a key of 128 bits has.
const SECRET_BYTES_MIN: usize = 16;

/// A cookie that names an upstream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sticky {
    /// Its name.
    pub cookie: String,
    /// What it is signed with: the same at every proxy.
    pub secret: Secret,
    /// It is for https alone.
    pub is_secure: bool,
}

/// A text that no log may show.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Its bytes.
    pub(crate) fn bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret")
    }
}

#[derive(Deserialize, schemars::JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub(super) struct WrittenSticky {
    /// The cookie's name
    cookie: String,
    /// At least 16 bytes, the same at every proxy
    secret: String,
    /// Sent over https alone
    #[serde(default)]
    secure: bool,
}

impl<'de> Deserialize<'de> for Sticky {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let WrittenSticky { cookie, secret, secure } = WrittenSticky::deserialize(from)?;
        if cookie.is_empty() || cookie.len() > NAME_BYTES_MAX || !cookie.bytes().all(is_token) {
            let why = format!(
                "{cookie:?} is not the name of a cookie: expected at most {NAME_BYTES_MAX} letters, digits and -"
            );
            return Err(de::Error::custom(why));
        }
        if secret.len() < SECRET_BYTES_MIN {
            return Err(de::Error::custom(format!("secret: expected at least {SECRET_BYTES_MIN} bytes")));
        }
        Ok(Self { cookie, secret: Secret(secret), is_secure: secure })
    }
}
