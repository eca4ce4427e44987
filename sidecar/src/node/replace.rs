//! Replacing a file as a whole: beside it first, then in its place, so that a crash leaves one or the other.

use std::{
    fs::{File, Permissions},
    io::{self, Write},
    os::unix::fs::PermissionsExt,
    path::Path,
};

use tempfile::Builder;

/// Puts `bytes` in the place of what is at `path`, if anything is. `prepare` sees the new file while it is empty and only this user
/// can read it.
pub(crate) fn replace(
    path: &Path,
    bytes: &[u8],
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // Under a name that nobody else draws: several sidecars may share the file, and in containers all are process 1.
    let mut new = Builder::new()
        .prefix(path.file_name().unwrap_or_default())
        .suffix(".new")
        .permissions(Permissions::from_mode(0o600))
        .tempfile_in(directory)?;
    prepare(new.as_file())?;
    new.write_all(bytes)?;
    // The name must not be moved to what is not on the disk yet, and the move itself is on the disk with its directory.
    new.as_file().sync_all()?;
    new.persist(path)?;
    File::open(directory)?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_as_a_whole_and_nothing_is_left_beside_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        // What another has begun, or left when it was killed, is in nobody's way.
        std::fs::write(dir.path().join("file.new"), "theirs").unwrap();
        for text in ["first", "second"] {
            replace(&path, text.as_bytes(), |_| Ok(())).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    fn what_fails_half_way_leaves_the_old_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("file");
        std::fs::write(&path, "old").unwrap();
        let failed = replace(&path, b"new", |_| Err(io::ErrorKind::StorageFull.into()));
        assert_eq!(failed.unwrap_err().kind(), io::ErrorKind::StorageFull);
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "old");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
