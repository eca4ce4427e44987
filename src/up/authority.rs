//! An authority of the local cluster's own, and the certificate that it gives the proxy.
//!
//! The authority is made in the cluster's directory, and used again as long as that is there, so that whoever trusts it has to do so once. The
//! default directory may go at logout; `--dir` names one that stays. Each start makes a certificate for localhost, the listeners and the hosts
//! of routes. The output has the curl command that trusts it.

use std::{
    fs,
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    time::{SystemTime, UNIX_EPOCH},
};

use anyhow::Context;
use feed::{Route, route::Host};
use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose,
};
use time::{Duration, OffsetDateTime};

use super::layout::Certified;

/// The folder in a cluster's directory.
const FOLDER: &str = "tls";

const AUTHORITY_DAYS: i64 = 3650;
/// Browsers take no certificate of more than 398 days.
const CERTIFICATE_DAYS: i64 = 365;

/// Makes a certificate for these names, by the authority of this directory, which is made if there is none.
pub(super) fn certify(dir: &Path, names: Vec<String>) -> anyhow::Result<Certified> {
    let folder = dir.join(FOLDER);
    let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&folder);
    made.with_context(|| format!("{}: cannot be used", folder.display()))?;
    let (authority, issuer) = authority(&folder)?;
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new(names)?;
    params.distinguished_name = named("Concertina local cluster");
    params.use_authority_key_identifier_extension = true;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    (params.not_before, params.not_after) = validity(CERTIFICATE_DAYS)?;
    let certificate = params.signed_by(&key, &issuer)?;
    let made =
        Certified { authority, certificate: folder.join("localhost.crt"), key: folder.join("localhost.key") };
    write(&made.certificate, &certificate.pem())?;
    write(&made.key, &key.serialize_pem())?;
    Ok(made)
}

/// The names of what is listened at, and of what is routed.
pub(super) fn names<'a>(
    listen: impl Iterator<Item = SocketAddr>,
    routes: impl Iterator<Item = &'a Route>,
) -> Vec<String> {
    let mut names = vec!["localhost".to_owned()];
    for addr in listen {
        let usual = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
        match addr.ip() {
            ip if ip.is_unspecified() => names.extend(usual.map(|ip| ip.to_string())),
            ip => names.push(ip.to_string()),
        }
    }
    for route in routes {
        match route.host() {
            Host::Exact(host) => names.push(host.to_string()),
            Host::Suffix(suffix) => names.push(format!("*.{suffix}")),
            Host::Any => {}
        }
    }
    names.sort();
    names.dedup();
    names
}

/// Where the authority's certificate is, and what signs for it.
fn authority(folder: &Path) -> anyhow::Result<(PathBuf, Issuer<'static, KeyPair>)> {
    let (path, key_path) = (folder.join("ca.crt"), folder.join("ca.key"));
    let mut params = CertificateParams::default();
    params.distinguished_name = named("Concertina local authority");
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    (params.not_before, params.not_after) = validity(AUTHORITY_DAYS)?;
    let key = if path.exists() {
        let key = fs::read_to_string(&key_path).map_err(anyhow::Error::from);
        let key = key.and_then(|pem| Ok(KeyPair::from_pem(&pem)?));
        key.with_context(|| {
            format!("{}; remove {} to have a new authority", key_path.display(), path.display())
        })?
    } else {
        let key = KeyPair::generate()?;
        write(&key_path, &key.serialize_pem())?;
        write(&path, &params.self_signed(&key)?.pem())?;
        key
    };
    Ok((path, Issuer::new(params, key)))
}

fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

/// From yesterday on, for clocks that are behind.
fn validity(days: i64) -> anyhow::Result<(OffsetDateTime, OffsetDateTime)> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let now = OffsetDateTime::from_unix_timestamp(i64::try_from(now)?)?;
    Ok((now - Duration::days(1), now + Duration::days(days)))
}

/// Writes a file that nobody else can read, whole or not at all.
fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    let new = path.with_extension("new");
    let written = (|| {
        match fs::remove_file(&new) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, path)
    })();
    written.with_context(|| format!("{}: cannot be written", path.display()))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn the_authority_is_made_once_and_a_certificate_at_each_start_and_nobody_else_reads_the_keys() {
        let dir = tempfile::tempdir().unwrap();
        let certify = || certify(dir.path(), vec!["localhost".into(), "127.0.0.1".into()]).unwrap();
        let read = |path: &Path| fs::read_to_string(path).unwrap();
        let first = certify();
        let (authority, certificate) = (read(&first.authority), read(&first.certificate));
        let second = certify();
        assert_eq!(read(&second.authority), authority);
        assert_ne!(read(&second.certificate), certificate);
        for key in [&second.key, &second.authority.with_extension("key")] {
            assert_eq!(fs::metadata(key).unwrap().permissions().mode() & 0o777, 0o600);
        }
        assert_eq!(fs::read_dir(dir.path().join(FOLDER)).unwrap().count(), 4);
        fs::write(first.authority.with_extension("key"), "x").unwrap();
        let error = super::certify(dir.path(), vec!["localhost".into()]).unwrap_err();
        assert!(format!("{error:#}").contains("remove "), "{error:#}");
    }

    #[test]
    fn a_certificate_has_the_names_of_listeners_and_routes_each_once() {
        let listen = ["0.0.0.0:1", "127.0.0.1:2", "10.0.0.1:3"].map(|addr| addr.parse().unwrap());
        let routes =
            ["a.localhost/x", "a.localhost/y", "*.b.localhost", "/"].map(|route| route.parse().unwrap());
        let names = names(listen.into_iter(), routes.iter());
        assert_eq!(names, ["*.b.localhost", "10.0.0.1", "127.0.0.1", "::1", "a.localhost", "localhost"]);
    }
}
