//! The file that keys come from and go back to: one a line, the first seals.

use std::{
    fmt::Write as _,
    fs::{self, File},
    io,
    os::unix::fs::{MetadataExt, PermissionsExt, fchown},
    path::Path,
};

use anyhow::Context;

use crate::{
    node::replace::replace,
    wire::keyring::{Key, Keyring, KeyringError, NotAKey},
};

/// Longest file that is read: eight keys, and much commentary.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// What is wrong with the text of a key file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum KeyFileError {
    /// A line that is neither a key nor empty.
    #[error("line {0}: {1}")]
    Line(usize, NotAKey),
    /// A line with a key that stands above already.
    #[error("line {0}: this key stands above already")]
    Twice(usize),
    /// More keys than a ring takes.
    #[error("line {0}: {1}")]
    Ring(usize, KeyringError),
    /// No line with a key.
    #[error("no key in it: expected one a line, as `concertina keys generate` prints them")]
    Empty,
}

/// Reads the text of a key file.
///
/// # Errors
/// What is wrong, and in which line.
pub fn parse(text: &str) -> Result<Keyring, KeyFileError> {
    let mut ring: Option<Keyring> = None;
    for (number, line) in (1..).zip(text.lines()) {
        let Some(key) = key_of(line) else { continue };
        let key = key.map_err(|error| KeyFileError::Line(number, error))?;
        match &mut ring {
            None => ring = Some(Keyring::new(key)),
            Some(ring) if ring.holds(key.fingerprint()) => return Err(KeyFileError::Twice(number)),
            Some(ring) => ring.install(key).map_err(|error| KeyFileError::Ring(number, error))?,
        }
    }
    ring.ok_or(KeyFileError::Empty)
}

/// The key of a line, if the line is not empty but for a comment.
fn key_of(line: &str) -> Option<Result<Key, NotAKey>> {
    let text = line.split('#').next().unwrap_or_default().trim();
    (!text.is_empty()).then(|| text.parse())
}

/// The text of a key file with the keys of `ring` in their order. The comments of the text before stay: those on lines of
/// their own at the head, those beside a key with it.
fn rewrite(before: &str, ring: &Keyring) -> String {
    let mut text = String::new();
    for line in before.lines().filter(|line| key_of(line).is_none()) {
        let _ = writeln!(text, "{line}");
    }
    for key in ring.keys() {
        let kept = before.lines().find(|line| key_of(line).is_some_and(|known| known.as_ref() == Ok(key)));
        let _ = writeln!(text, "{}", kept.map_or_else(|| key.encode(), str::to_owned));
    }
    text
}

/// Reads a key file, and warns when others can read it too.
///
/// # Errors
/// The file cannot be read, or is not a key file; names the file, the line and what is expected.
pub fn load(path: &Path) -> anyhow::Result<Keyring> {
    let named = || format!("--key-file {}", path.display());
    let file = File::open(path).with_context(named)?;
    let mode = file.metadata().with_context(named)?.mode();
    if is_open_to_others(mode) {
        tracing::warn!(
            "{}: everybody on this machine can use it (mode {:04o}), chmod 600 it",
            named(),
            mode & 0o7777
        );
    }
    parse(&read(file).with_context(named)?).with_context(named)
}

/// Writes the keys back, so that a restart knows them. Mode and owner stay.
///
/// # Errors
/// The file cannot be replaced: it is read-only, or mounted by itself.
pub fn save(path: &Path, ring: &Keyring) -> io::Result<()> {
    // A symbolic link stays one: what it leads to is replaced.
    let path = fs::canonicalize(path)?;
    let old = File::open(&path)?;
    let meta = old.metadata()?;
    // A rename asks for no permission of the file: what was made read-only, by mode or by mount, is left alone.
    rustix::fs::access(&path, rustix::fs::Access::WRITE_OK)?;
    if meta.mode() & 0o222 == 0 {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let text = read(old)?;
    // It was a key file at the start; what has come in its place since then may be anything.
    parse(&text).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
    replace(&path, rewrite(&text, ring).as_bytes(), |new| {
        if fchown(new, Some(meta.uid()), Some(meta.gid())).is_err() {
            tracing::debug!("the key file's owner changes: only root can keep it");
        }
        new.set_permissions(fs::Permissions::from_mode(meta.mode() & 0o777))
    })
}

fn read(file: File) -> io::Result<String> {
    let mut text = String::new();
    io::Read::read_to_string(&mut io::Read::take(file, FILE_BYTES_MAX), &mut text)?;
    Ok(text)
}

fn is_open_to_others(mode: u32) -> bool {
    mode & 0o007 != 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::keyring::{KEYS_COUNT_MAX, tests::key};

    fn lines(count: u8) -> String {
        (0..count).map(|n| format!("{}\n", key(n).encode())).collect()
    }

    #[test]
    fn the_first_key_seals_and_comments_and_empty_lines_are_skipped() {
        let text = format!("# ours\n\n  {}  # since May\r\n{}", key(1).encode(), "02".repeat(32));
        let ring = parse(&text).unwrap();
        assert_eq!(ring.keys(), [key(1), key(2)]);
    }

    #[test]
    fn what_is_wrong_is_said_with_its_line() {
        let said = |text: &str| parse(text).unwrap_err().to_string();
        assert!(said("").contains("`concertina keys generate`"), "{}", said(""));
        let bad = said(&format!("# one\n{}sunshine", lines(1)));
        assert!(bad.starts_with("line 3: ") && bad.ends_with("found 8 characters"), "{bad}");
        assert_eq!(parse(&lines(8)).unwrap().keys().len(), KEYS_COUNT_MAX);
        assert!(said(&lines(9)).starts_with("line 9: 8 keys are the most"), "{}", said(&lines(9)));
        assert_eq!(said(&lines(1).repeat(2)), "line 2: this key stands above already");
    }

    #[test]
    fn others_are_the_world_and_not_the_group() {
        assert!([0o644, 0o604, 0o606].into_iter().all(is_open_to_others));
        assert!(![0o600, 0o640, 0o660, 0o400].into_iter().any(is_open_to_others));
    }

    #[test]
    fn a_saved_file_has_the_new_keys_the_old_comments_and_the_old_mode() {
        let dir = tempfile::tempdir().unwrap();
        let (path, link) = (dir.path().join("keys"), dir.path().join("link"));
        fs::write(&path, format!("# ours\n{} # old\n{}\n", key(1).encode(), key(2).encode())).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        std::os::unix::fs::symlink(&path, &link).unwrap();
        let mut ring = load(&link).unwrap();
        ring.install(key(3)).unwrap();
        ring.make_primary(key(3).fingerprint()).unwrap();
        ring.remove(key(2).fingerprint()).unwrap();
        save(&link, &ring).unwrap();
        let text = fs::read_to_string(&path).unwrap();
        assert_eq!(text, format!("# ours\n{}\n{} # old\n", key(3).encode(), key(1).encode()));
        assert_eq!(load(&path).unwrap(), ring);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o640);
        assert!(link.is_symlink());
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 2, "nothing is left beside it");
    }

    #[test]
    fn what_is_no_key_file_any_more_is_not_replaced() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        fs::write(&path, "precious").unwrap();
        assert!(
            save(&path, &parse(&lines(1)).unwrap()).unwrap_err().to_string().starts_with("line 1: not a key")
        );
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
    }

    #[test]
    fn a_file_that_is_not_there_or_no_key_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("keys");
        let said = || format!("{:#}", load(&path).unwrap_err());
        assert!(said().starts_with(&format!("--key-file {}: ", path.display())), "{}", said());
        fs::write(&path, "nonsense").unwrap();
        assert!(said().contains("keys: line 1: not a key: expected 32 bytes"), "{}", said());
    }
}
