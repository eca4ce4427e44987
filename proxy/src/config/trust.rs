//! Which certificates of a role's endpoints are believed, and by which name.

use std::{path::PathBuf, str::FromStr};

use data_encoding::BASE64;
use feed::Name;

use super::text::read_as_text;

/// What each key in a list of pinned ones begins with, as curl's `--pinnedpubkey` has it.
const PIN_PREFIX: &str = "sha256//";

/// The SHA-256 of a key as certificates have it (SubjectPublicKeyInfo).
pub type Pin = [u8; 32];

/// Who is believed.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Trust {
    /// Those that the system trusts.
    #[default]
    System,
    /// The authorities in a file.
    File(PathBuf),
    /// Whoever has one of these keys, whatever else the certificate says.
    Keys(Vec<Pin>),
}

impl Trust {
    fn parse(text: &str) -> Result<Self, &'static str> {
        match (text, text.strip_prefix("ca:")) {
            ("system", _) => Ok(Self::System),
            (_, Some("")) => Err("no file"),
            (_, Some(path)) => Ok(Self::File(path.into())),
            _ => {
                let pins: Option<Vec<Pin>> = text.split(';').map(pin).collect();
                pins.map(Self::Keys).ok_or("not the SHA-256 of a key")
            }
        }
    }
}

impl FromStr for Trust {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why| format!("{text:?}: {why}; expected system, ca:FILE or sha256//BASE64");
        Self::parse(text).map_err(refused)
    }
}

/// A role and who is believed to be of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleTrust {
    /// The role.
    pub role: Name,
    /// Who is believed.
    pub trust: Trust,
}

impl FromStr for RoleTrust {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused =
            |why: &str| format!("{text:?}: {why}; expected ROLE=system, ROLE=ca:FILE or ROLE=sha256//BASE64");
        let (role, trust) = text.split_once('=').ok_or_else(|| refused("nobody is trusted"))?;
        let trust = Trust::parse(trust).map_err(refused)?;
        Ok(Self { role: role.parse().map_err(|error| refused(&format!("{error}")))?, trust })
    }
}

fn pin(text: &str) -> Option<Pin> {
    BASE64.decode(text.strip_prefix(PIN_PREFIX)?.as_bytes()).ok()?.try_into().ok()
}

/// A role and the name that its endpoints' certificates are for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RoleServerName {
    /// The role.
    pub role: Name,
    /// A host's name, or an address.
    pub name: String,
}

impl FromStr for RoleServerName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = |why: &str| format!("{text:?}: {why}; expected ROLE=HOST, such as app=app.example.com");
        let (role, name) = text.split_once('=').ok_or_else(|| refused("no name"))?;
        if name.is_empty() {
            return Err(refused("no name"));
        }
        let role = role.parse().map_err(|error| refused(&format!("{error}")))?;
        Ok(Self { role, name: name.to_owned() })
    }
}

read_as_text!(Trust, "system, ca:FILE or sha256//BASE64");
read_as_text!(RoleTrust, "ROLE=system, ROLE=ca:FILE or ROLE=sha256//BASE64");
read_as_text!(RoleServerName, "ROLE=HOST");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_role_trusts_the_system_a_file_or_keys() {
        let trust = |text: &str| text.parse::<RoleTrust>().map(|told| told.trust);
        assert_eq!(trust("app=system"), Ok(Trust::System));
        assert_eq!(trust("app=ca:/etc/a,b=c.pem"), Ok(Trust::File("/etc/a,b=c.pem".into())));
        let one = format!("sha256//{}", BASE64.encode(&[1; 32]));
        let two = format!("sha256//{}", BASE64.encode(&[2; 32]));
        assert_eq!(trust(&format!("app={one}")), Ok(Trust::Keys(vec![[1; 32]])));
        assert_eq!(trust(&format!("app={one};{two}")), Ok(Trust::Keys(vec![[1; 32], [2; 32]])));
        let short = format!("app=sha256//{}", BASE64.encode(&[1; 31]));
        for bad in ["app", "app=", "app=none", "app=ca:", "a pp=system", "app=sha256//", &short] {
            assert!(trust(bad).unwrap_err().contains("expected ROLE=system"), "{bad}");
        }
        assert!(trust(&format!("app={one};")).is_err());
        assert_eq!("ca:/a.pem".parse(), Ok(Trust::File("/a.pem".into())));
        assert!("/a.pem".parse::<Trust>().unwrap_err().contains("expected system, ca:FILE"));
    }

    #[test]
    fn a_role_has_a_name_in_its_certificates() {
        let told: RoleServerName = "app=app.example.com".parse().unwrap();
        assert_eq!((told.role.as_str(), told.name.as_str()), ("app", "app.example.com"));
        for bad in ["app", "app=", "a pp=b"] {
            assert!(bad.parse::<RoleServerName>().unwrap_err().contains("expected ROLE=HOST"), "{bad}");
        }
    }
}
