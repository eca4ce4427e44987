//! Where the lines of the access log go: stdout, or a file that can be opened anew.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::Context;

/// Where lines go.
pub(super) struct Output {
    place: Place,
    /// The end of a line of which the beginning was written before the output failed: it comes first, or the next line would be torn.
    torn: Vec<u8>,
}

enum Place {
    Stdout,
    File { path: PathBuf, file: File },
}

impl Output {
    pub(super) fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let Some(path) = path else { return Ok(Self { place: Place::Stdout, torn: Vec::new() }) };
        let file = open(path).with_context(|| {
            format!("--access-log-file {}: expected a file that can be appended to", path.display())
        })?;
        Ok(Self { place: Place::File { path: path.to_owned(), file }, torn: Vec::new() })
    }

    pub(super) fn reopen(&mut self) {
        let Place::File { path, file } = &mut self.place else { return };
        match open(path) {
            Ok(new) => *file = new,
            // Lines in a renamed file are better than none.
            Err(error) => {
                tracing::error!(path = %path.display(), %error, "the access log stays in its old file");
            }
        }
    }

    /// Writes whole lines, or what it can.
    pub(super) fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        let torn = std::mem::take(&mut self.torn);
        let (written, result) = self.place.write(&torn);
        self.torn = torn[written..].to_vec();
        result?;
        let (written, result) = self.place.write(lines);
        if result.is_err() && written > 0 && lines[written - 1] != b'\n' {
            let end = memchr::memchr(b'\n', &lines[written..]).map_or(lines.len(), |at| written + at + 1);
            self.torn = lines[written..end].to_vec();
            self.mend(written - memchr::memrchr(b'\n', &lines[..written]).map_or(0, |at| at + 1));
        }
        result
    }

    /// From now on it fails as a full disk does: the file is open for reading only.
    #[cfg(test)]
    pub(super) fn break_off(&mut self, path: &Path) {
        let file = File::open(path).expect("a file that was written");
        self.place = Place::File { path: path.to_owned(), file };
    }

    /// Takes the beginning of a torn line out again, where that can be done: the file may be read, renamed or left for good as it is.
    fn mend(&mut self, begun_bytes: usize) {
        let Place::File { file, .. } = &self.place else { return };
        let length = file.metadata().map(|metadata| metadata.len().saturating_sub(begun_bytes as u64));
        if length.and_then(|length| file.set_len(length)).is_ok() {
            self.torn.clear();
        }
    }
}

impl Place {
    /// Writes until an error; how much was written.
    fn write(&mut self, text: &[u8]) -> (usize, io::Result<()>) {
        let mut written = 0;
        while written < text.len() {
            let wrote = match self {
                // Past the standard library's line buffer, which keeps what it could not write.
                Self::Stdout => {
                    rustix::io::write(rustix::stdio::stdout(), &text[written..]).map_err(io::Error::from)
                }
                Self::File { file, .. } => file.write(&text[written..]),
            };
            match wrote {
                Ok(0) => return (written, Err(io::ErrorKind::WriteZero.into())),
                Ok(count) => written += count,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return (written, Err(error)),
            }
        }
        (written, Ok(()))
    }
}

fn open(path: &Path) -> io::Result<File> {
    OpenOptions::new().append(true).create(true).open(path)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A pipe takes some 4 KiB at a time and then no more, like a disk that fills up.
    #[test]
    fn a_line_that_was_begun_is_ended_before_the_next() {
        let (mut reader, writer) = io::pipe().unwrap();
        rustix::pipe::fcntl_setpipe_size(&writer, 4096).unwrap();
        rustix::io::ioctl_fionbio(&writer, true).unwrap();
        let file = File::from(std::os::fd::OwnedFd::from(writer));
        let mut output = Output { place: Place::File { path: "pipe".into(), file }, torn: Vec::new() };
        let lines: Vec<u8> = (0..900).flat_map(|i| format!("line {i}\n").into_bytes()).collect();
        assert!(output.write(&lines).is_err(), "a pipe of 4 KiB");
        assert!(output.write(b"lost\n").is_err(), "still full");
        let mut read = [0; 4096];
        io::Read::read_exact(&mut reader, &mut read).unwrap();
        output.write(b"next\n").unwrap();
        drop(output);
        let mut text = read.to_vec();
        io::Read::read_to_end(&mut reader, &mut text).unwrap();
        let text = String::from_utf8(text).unwrap();
        let (all, last) = text.trim_end().rsplit_once('\n').unwrap();
        assert_eq!(last, "next");
        assert!(all.lines().enumerate().all(|(i, line)| line == format!("line {i}")), "{all}");
    }

    #[test]
    fn a_disk_that_fills_up_leaves_no_torn_line_behind() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("access.log");
        let mut output = Output::open(Some(&path)).unwrap();
        output.place.write(b"whole\nbegun").1.unwrap();
        output.mend(5);
        assert_eq!(std::fs::read(&path).unwrap(), b"whole\n");
    }
}
