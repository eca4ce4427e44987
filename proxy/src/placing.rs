//! Where in its file stands what a plan that is right cannot be followed for: files that it names, and what a running proxy cannot change.

use anyhow::Error;
use program::file::Step;

use crate::{
    certificates::{CertificateError, OriginsError},
    config::{Args, CertificateFiles, Plan, PlanError},
};

/// The error with its place, where it has one.
pub(crate) fn placed(args: &Args, plan: &Plan, error: Error) -> Error {
    let at = if let Some(PlanError::NeedsRestart(key)) = error.downcast_ref() {
        Some(vec![Step::Key(key)])
    } else if let Some(error) = error.downcast_ref::<OriginsError>() {
        Some(error.at.to_vec())
    } else {
        error.downcast_ref().and_then(|error| certificate_at(&plan.certificates, error))
    };
    match at {
        Some(at) => args.placed(&at, error),
        None => error,
    }
}

/// Who names the file that is wrong.
fn certificate_at(files: &CertificateFiles, error: &CertificateError) -> Option<Vec<Step>> {
    let path = error.path();
    let pair = files.pairs.iter().position(|pair| match error {
        // Several may name one key, which fits one certificate.
        CertificateError::OtherKey(other) => pair == other,
        _ => pair.certificate == path || pair.key == path,
    });
    let directory = files.directory.as_deref().filter(|directory| path.starts_with(directory));
    pair.map(|item| vec![Step::Key("certificate"), Step::Item(item)])
        .or_else(|| directory.map(|_| vec![Step::Key("certificates")]))
}

#[cfg(test)]
mod tests {
    use clap::Parser;
    use rcgen::{CertificateParams, KeyPair};

    use super::*;
    use crate::Proxy;

    #[derive(Parser)]
    #[command(no_binary_name = true)]
    struct Cli {
        #[command(flatten)]
        args: Args,
    }

    fn refusal(text: &str, flags: &[&str]) -> String {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("proxy.toml");
        std::fs::write(&path, text).unwrap();
        let flags = [&["--config", path.to_str().unwrap()], flags].concat();
        format!("{:#}", Proxy::check(&Cli::try_parse_from(flags).unwrap().args).unwrap_err())
    }

    #[test]
    fn a_certificate_that_cannot_be_taken_has_the_place_where_it_is_named() {
        let listen = "listen = ['https://127.0.0.1:0=web']\n";
        for (text, place) in [
            ("certificate = ['/none/a.crt,/none/a.key']", "2:16: /none/a.crt: No such file"),
            ("\ncertificates = '/none'", "3:16: /none: No such file"),
        ] {
            let told = refusal(&format!("{listen}{text}\n"), &[]);
            assert!(told.contains(&format!("proxy.toml:{place}")), "{told}");
        }
    }

    #[test]
    fn a_key_that_two_certificates_name_is_wrong_where_it_does_not_fit() {
        let dir = tempfile::tempdir().unwrap();
        let path = |name: &str| dir.path().join(name).to_str().unwrap().to_owned();
        let key = KeyPair::generate().unwrap();
        std::fs::write(path("k.key"), key.serialize_pem()).unwrap();
        for (name, key) in [("a.crt", &key), ("b.crt", &KeyPair::generate().unwrap())] {
            let certificate =
                CertificateParams::new([format!("{name}.test")]).unwrap().self_signed(key).unwrap();
            std::fs::write(path(name), certificate.pem()).unwrap();
        }
        let [fits, other] = ["a.crt", "b.crt"].map(|name| format!("'{},{}'", path(name), path("k.key")));
        let told = refusal(
            &format!("listen = ['https://127.0.0.1:0=web']\ncertificate = [\n{fits},\n {other}]\n"),
            &[],
        );
        assert!(told.contains("proxy.toml:4:2: ") && told.contains("not the key of"), "{told}");
    }

    #[test]
    fn what_a_flag_says_has_no_place_in_the_file() {
        let file = "trusted-hops = 1\n";
        assert!(refusal(file, &[]).contains("proxy.toml:1:16: --trusted-hops 1: needs"));
        assert!(refusal(file, &["--trusted-hops=2"]).starts_with("--trusted-hops 2: needs"));
        let listen = "listen = ['https://127.0.0.1:0=web']\n";
        let told = refusal(listen, &["--certificate=/none/a.crt,/none/a.key"]);
        assert!(told.starts_with("/none/a.crt: No such file"), "{told}");
    }
}
