//! Files of settings: TOML that is read as a whole or not at all, with errors that say where and what would be right.

use std::{
    fs::File,
    io::{self, Read},
    ops::Range,
    path::Path,
};

use serde::de::DeserializeOwned;
use toml::de::{DeTable, DeValue};

/// A value that knows where it stands, for what shows only when values are seen together.
pub use toml::Spanned;

/// Bytes of a file of settings: thousands of routes, and no log that was named by mistake.
pub const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How like a known key an unknown one must be to have been meant for it (Jaro–Winkler, 0 to 1).
const LIKENESS_MIN: f64 = 0.8;

/// Why a file cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    /// It cannot be read.
    #[error("{path}: {error}")]
    Unreadable {
        /// Which.
        path: String,
        /// Why.
        error: io::Error,
    },
    /// It is a directory, a pipe or a device.
    #[error("{0}: expected a file of settings, and not a directory, a pipe or a device")]
    NoFile(String),
    /// It is longer than any file of settings.
    #[error("{0}: longer than {FILE_BYTES_MAX} bytes: expected a file of settings")]
    TooLong(String),
    /// Something is missing in it, or goes wrong for all of it.
    #[error("{path}: {why}")]
    Unplaced {
        /// Which.
        path: String,
        /// What is wrong, and what would be right.
        why: String,
    },
    /// Something in it is wrong.
    #[error("{path}:{line}:{column}: {why}")]
    Wrong {
        /// Which.
        path: String,
        /// The line, from 1.
        line: usize,
        /// The character in the line, from 1.
        column: usize,
        /// What is wrong, and what would be right.
        why: String,
    },
}

/// What is wrong with values that are right by themselves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Misfit {
    /// Where, in bytes: what [`Spanned`] says.
    pub at: Range<usize>,
    /// What is wrong, and what would be right.
    pub why: String,
}

/// Reads a file.
///
/// # Errors
/// It cannot be read, or something in it is wrong.
pub fn read<T: DeserializeOwned>(path: &Path) -> Result<T, FileError> {
    read_checked(path, Ok)
}

/// The same with a look at all values together.
///
/// # Errors
/// It cannot be read, or something in it is wrong.
pub fn read_checked<T: DeserializeOwned, U>(
    path: &Path,
    check: impl FnOnce(T) -> Result<U, Misfit>,
) -> Result<U, FileError> {
    Source::read(path)?.parse_checked(check)
}

/// Reads the text of a file; `name` is for errors.
///
/// # Errors
/// Something in it is wrong.
pub fn parse<T: DeserializeOwned>(name: &str, text: &str) -> Result<T, FileError> {
    parse_checked(name, text, Ok)
}

/// The same with a look at all values together.
///
/// # Errors
/// Something in it is wrong.
pub fn parse_checked<T: DeserializeOwned, U>(
    name: &str,
    text: &str,
    check: impl FnOnce(T) -> Result<U, Misfit>,
) -> Result<U, FileError> {
    Source { name: name.to_owned(), text: text.to_owned() }.parse_checked(check)
}

/// One step on the way to a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// The value of this key of a table.
    Key(&'static str),
    /// The value at this position of a list, from 0.
    Item(usize),
}

/// The text of a file: what it says, and where.
#[derive(Debug, Clone)]
pub struct Source {
    name: String,
    text: String,
}

impl Source {
    /// Reads a file, whatever is in it.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn read(path: &Path) -> Result<Self, FileError> {
        let name = path.display().to_string();
        let unreadable = |error| FileError::Unreadable { path: name.clone(), error };
        // Before it is opened: a pipe would be waited for.
        if !std::fs::metadata(path).map_err(unreadable)?.is_file() {
            return Err(FileError::NoFile(name));
        }
        let file = File::open(path).map_err(unreadable)?;
        let mut text = String::new();
        // Its length may grow, and that of a device says nothing.
        let bytes = file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        if bytes as u64 > FILE_BYTES_MAX {
            return Err(FileError::TooLong(name));
        }
        Ok(Self { name, text })
    }

    /// What it says, with a look at all values together.
    ///
    /// # Errors
    /// Something in it is wrong.
    pub fn parse_checked<T: DeserializeOwned, U>(
        &self,
        check: impl FnOnce(T) -> Result<U, Misfit>,
    ) -> Result<U, FileError> {
        let values = toml::from_str(&self.text).map_err(|error| {
            self.wrong_at(error.span().map_or(0, |span| span.start), explained(error.message()))
        })?;
        check(values).map_err(|Misfit { at, why }| self.wrong_at(at.start, why))
    }

    /// The error of a value that stands at the end of these steps, or of what of it is there; for what shows only when all values, and
    /// others than the file's, are seen together.
    pub fn wrong(&self, steps: &[Step], why: String) -> FileError {
        match self.find(steps) {
            Some(at) => self.wrong_at(at, why),
            None => FileError::Unplaced { path: self.name.clone(), why },
        }
    }

    fn wrong_at(&self, at: usize, why: String) -> FileError {
        let (line, column) = position(&self.text, at);
        FileError::Wrong { path: self.name.clone(), line, column, why }
    }

    /// Where the last value begins that is on this way.
    fn find(&self, steps: &[Step]) -> Option<usize> {
        let table = DeTable::parse(&self.text).ok()?.into_inner();
        let (mut value, mut found) = (&DeValue::Table(table), None);
        for step in steps {
            let next = match (step, value) {
                (Step::Key(key), DeValue::Table(table)) => table.get(*key),
                (Step::Item(item), DeValue::Array(items)) => items.get(*item),
                _ => None,
            };
            let Some(next) = next else { break };
            (value, found) = (next.get_ref(), Some(next.span().start));
        }
        found
    }
}

/// The line and the character in it, from 1.
fn position(text: &str, at: usize) -> (usize, usize) {
    let before = text.get(..at).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// What the parser calls things, and what those who write files call them.
const WORDS: [(&str, &str); 11] = [
    ("invalid type: map, expected a sequence", "one table: expected a list of them, each under [[NAME]]"),
    ("expected a sequence", "expected a list, as in [\"…\"]"),
    ("expected a borrowed string", "expected text in quotes"),
    ("expected a string", "expected text in quotes"),
    ("expected path string", "expected a path in quotes"),
    ("expected a boolean", "expected true or false"),
    ("expected a map", "expected a table, as in { NAME = \"…\" }"),
    ("expected u8", "expected a whole number from 0 to 255"),
    ("expected u16", "expected a whole number from 0 to 65535"),
    ("expected u32", "expected a whole number from 0 to 4294967295"),
    ("expected usize", "expected a whole number"),
];

/// The message, with the key that was meant where one is like the unknown one.
fn explained(message: &str) -> String {
    let message = message.trim_end().replace('\n', ", ");
    let mut message = WORDS.iter().fold(message, |text, (theirs, ours)| text.replace(theirs, ours));
    if let Some((before, _)) = message.split_once("expected struct ") {
        message = format!("{before}expected a table, as in {{ NAME = … }}");
    }
    let mut quoted = message.split('`').skip(1).step_by(2);
    let Some(unknown) = quoted.next().filter(|_| message.starts_with("unknown ")) else { return message };
    let likeness = |known: &&str| strsim::jaro_winkler(unknown, known);
    let meant = quoted.max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
    match meant.filter(|known| likeness(known) >= LIKENESS_MIN) {
        Some(meant) => format!("{message}; did you mean `{meant}`?"),
        None => message,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, serde::Deserialize, PartialEq)]
    #[serde(deny_unknown_fields)]
    struct Settings {
        listen: Vec<String>,
        workers: Option<u16>,
    }

    fn refusal(text: &str) -> String {
        parse::<Settings>("a.toml", text).unwrap_err().to_string()
    }

    #[test]
    fn a_file_is_read_as_a_whole_and_what_is_wrong_in_it_has_a_place() {
        let read: Settings = parse("a.toml", "listen = ['a']\nworkers = 2\n").unwrap();
        assert_eq!(read, Settings { listen: vec!["a".to_owned()], workers: Some(2) });
        let unknown = refusal("listen = []\nworker = 2\n");
        assert!(unknown.starts_with("a.toml:2:1: unknown field `worker`, expected"), "{unknown}");
        assert!(unknown.ends_with("did you mean `workers`?"), "{unknown}");
        let unlike = refusal("listen = []\n\n  colour = 2\n");
        assert!(unlike.starts_with("a.toml:3:3: unknown field `colour`"), "{unlike}");
        assert!(!unlike.contains("did you mean"), "{unlike}");
        let wrong = refusal("listen = []\nworkers = \"two\"\n");
        assert!(wrong.starts_with("a.toml:2:11: invalid type: string"), "{wrong}");
        assert!(wrong.ends_with("expected a whole number from 0 to 65535"), "{wrong}");
        let list = refusal("listen = \"a\"\n");
        assert!(list.ends_with("expected a list, as in [\"…\"]"), "{list}");
        assert!(refusal("workers = 1\n").contains("missing field `listen`"));
        assert!(refusal("listen = [\n").starts_with("a.toml:1:11: "), "{}", refusal("listen = [\n"));
        let doubled = refusal("listen = []\nlisten = []\n");
        assert!(doubled.starts_with("a.toml:2:1: duplicate key"), "{doubled}");
    }

    #[test]
    fn what_does_not_fit_together_has_a_place_too() {
        #[derive(serde::Deserialize)]
        struct Pair {
            low: u8,
            high: Spanned<u8>,
        }
        let check = |pair: Pair| {
            let (low, high) = (pair.low, *pair.high.get_ref());
            let why = format!("{high}: expected more than {low}");
            (low < high).then_some((low, high)).ok_or(Misfit { at: pair.high.span(), why })
        };
        assert_eq!(parse_checked("a.toml", "low = 1\nhigh = 2\n", check).unwrap(), (1, 2));
        let error = parse_checked("a.toml", "low = 3\nhigh = 2\n", check).unwrap_err();
        assert_eq!(error.to_string(), "a.toml:2:8: 2: expected more than 3");
    }

    #[test]
    fn a_value_is_found_where_it_stands_however_it_is_written() {
        use Step::{Item, Key};
        let text = "a = 1\nlist = [\n  'x',\n  'y',\n]\n[[rule]]\nb = 1\n\n[[rule]]\nb = 2\nc.d = 3\n[rule.deep]\nof = 5\n";
        let source = Source { name: "a.toml".to_owned(), text: text.to_owned() };
        for (steps, place) in [
            (&[Key("a")][..], "1:5"),
            (&[Key("list")], "2:8"),
            (&[Key("list"), Item(1)], "4:3"),
            (&[Key("rule"), Item(1)], "9:1"),
            (&[Key("rule"), Item(1), Key("b")], "10:5"),
            (&[Key("rule"), Item(1), Key("c"), Key("d")], "11:7"),
            (&[Key("rule"), Item(1), Key("deep"), Key("of")], "13:6"),
            // As far as it goes.
            (&[Key("rule"), Item(0), Key("deep"), Key("of")], "6:1"),
            (&[Key("list"), Item(2)], "2:8"),
        ] {
            let error = source.wrong(steps, "why".to_owned()).to_string();
            assert_eq!(error, format!("a.toml:{place}: why"), "{steps:?}");
        }
        assert_eq!(source.wrong(&[Key("z")], "why".to_owned()).to_string(), "a.toml: why");
    }

    #[test]
    fn a_file_may_be_so_long_and_no_longer() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a.toml");
        let settings = b"listen = []\n#";
        let length = |bytes: u64| [&settings[..], &vec![b'a'; (bytes - 13) as usize]].concat();
        std::fs::write(&path, length(FILE_BYTES_MAX)).unwrap();
        assert!(read::<Settings>(&path).is_ok());
        std::fs::write(&path, length(FILE_BYTES_MAX + 1)).unwrap();
        assert!(matches!(read::<Settings>(&path), Err(FileError::TooLong(_))));
        assert!(matches!(read::<Settings>(dir.path()), Err(FileError::NoFile(_))));
        let missing = read::<Settings>(&dir.path().join("b.toml")).unwrap_err().to_string();
        assert!(missing.contains("b.toml: No such file"), "{missing}");
    }
}
