//! By what a role's upstreams are chosen.

use std::str::FromStr;

use feed::Name;

use super::{Args, Protocol};

/// By what an upstream is chosen.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Balance {
    /// By load: the less busy of two random ones.
    #[default]
    P2c,
    /// By the client's address: the same client has the same upstream.
    HashClient,
    /// By a field of the request's head; requests without it are spread by load.
    HashHeader(Box<str>),
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
        // RFC 9110 5.6.2: a field's name is a token.
        let is_token = |name: &str| {
            !name.is_empty()
                && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
        };
        let balance = match how.strip_prefix("hash:header:") {
            Some(name) if is_token(name) => Balance::HashHeader(name.into()),
            Some(_) => return Err(refused("not the name of a field")),
            None if how == "p2c" => Balance::P2c,
            None if how == "hash:client" => Balance::HashClient,
            None => return Err(refused("unknown")),
        };
        Ok(Self { role, balance })
    }
}

impl Args {
    /// Whether `--balance` fits the listeners.
    ///
    /// # Errors
    /// A role that no listener names, a role named twice, a field where no heads are read.
    pub(crate) fn check_balance(&self) -> anyhow::Result<()> {
        for (position, RoleBalance { role, balance }) in self.rules.balance.iter().enumerate() {
            let mut listeners = self.listen.iter().filter(|listen| listen.role == *role).peekable();
            anyhow::ensure!(
                listeners.peek().is_some(),
                "--balance {role}=…: expected a role that --listen names"
            );
            let is_repeated = self.rules.balance[..position].iter().any(|before| before.role == *role);
            anyhow::ensure!(!is_repeated, "--balance {role}=…: expected each role once");
            let reads_heads = listeners.all(|listen| listen.protocol == Protocol::Http);
            anyhow::ensure!(
                reads_heads || !matches!(balance, Balance::HashHeader(_)),
                "--balance {role}=hash:header:…: a tcp:// listener knows no fields; expected hash:client or p2c"
            );
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

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

    #[test]
    fn a_balance_that_does_not_fit_the_listeners_is_refused() {
        let check = |balance: &str| {
            let listen = ["--listen=http://0.0.0.0:80=web,tcp://0.0.0.0:81=db,http://0.0.0.0:82=db"];
            let flags = listen.into_iter().chain(["--balance", balance]);
            Cli::try_parse_from(flags).unwrap().args.check_balance().map_err(|error| error.to_string())
        };
        assert_eq!(check("web=hash:header:X-User,db=hash:client"), Ok(()));
        assert!(check("app=p2c").unwrap_err().contains("that --listen names"));
        assert!(check("web=p2c,web=hash:client").unwrap_err().contains("once"));
        assert!(check("db=hash:header:X-User").unwrap_err().contains("expected hash:client"));
    }
}
