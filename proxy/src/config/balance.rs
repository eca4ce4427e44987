//! By what a role's upstreams are chosen.

use std::str::FromStr;

use feed::Name;

use super::text::read_as_text;
use crate::http1::fields::is_token;

/// By what an upstream is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Balance {
    /// By load: of two random ones, the one with less to do for its weight.
    #[default]
    P2c,
    /// By the client's address: the same client has the same upstream.
    HashClient,
    /// By a field of the request's head; requests without it are spread by load.
    HashHeader(Box<str>),
}

impl Balance {
    /// The same key has the same upstream.
    pub(crate) fn is_keyed(&self) -> bool {
        *self != Self::P2c
    }
}

/// A role and how it is balanced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleBalance {
    /// The role.
    pub role: Name,
    /// By what.
    pub balance: Balance,
}

impl FromStr for RoleBalance {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| {
            format!("{text:?}: {why}; expected ROLE=p2c, ROLE=hash:client or ROLE=hash:header:NAME")
        };
        let (role, how) = text.split_once('=').ok_or_else(|| refused("no role"))?;
        let role = role.parse().map_err(|error| refused(&format!("{error}")))?;
        let is_name = |name: &str| !name.is_empty() && name.bytes().all(is_token);
        let balance = match how.strip_prefix("hash:header:") {
            Some(name) if is_name(name) => Balance::HashHeader(name.into()),
            Some(_) => return Err(refused("not the name of a field")),
            None if how == "p2c" => Balance::P2c,
            None if how == "hash:client" => Balance::HashClient,
            None => return Err(refused("unknown")),
        };
        Ok(Self { role, balance })
    }
}

read_as_text!(RoleBalance, "ROLE=p2c, ROLE=hash:client or ROLE=hash:header:NAME");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_balance_names_a_role_and_what_is_hashed() {
        let parse = |text: &str| text.parse::<RoleBalance>();
        assert_eq!(parse("app=p2c").unwrap().balance, Balance::P2c);
        assert_eq!(parse("app=hash:client").unwrap().balance, Balance::HashClient);
        assert_eq!(parse("app=hash:header:X-User").unwrap().balance, Balance::HashHeader("X-User".into()));
        for bad in
            ["app", "=p2c", "app=", "app=rr", "app=hash:header:", "app=hash:header:a b", "app=hash:cookie"]
        {
            assert!(parse(bad).unwrap_err().contains("expected ROLE=p2c"), "{bad}");
        }
    }
}
