//! `concertina logs`: what nodes and their programs say, one file each, together.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    fs::{self, File},
    io::{self, Read, Seek, SeekFrom},
    os::unix::fs::MetadataExt,
    path::Path,
    process::ExitCode,
    time::Duration,
};

use anyhow::{Context, bail};
use feed::Name;

use super::{Dir, log_path, service};
use crate::say::{end_unless_heard, say};

/// Pause between looks for what is new.
const LOOK_PERIOD: Duration = Duration::from_millis(100);
/// Bytes that are read at once.
const BLOCK_BYTES: usize = 64 * 1024;
/// Longest line that is waited for: what is longer is printed in parts.
const LINE_BYTES_MAX: usize = 1024 * 1024;

#[derive(clap::Args)]
pub(crate) struct LogsArgs {
    /// Nodes or roles, such as billing2 or billing [default: all nodes]
    #[arg(value_name = "NAME")]
    names: Vec<Name>,
    /// Go on with what is said from now on, also by nodes that come later
    #[arg(short, long)]
    follow: bool,
    /// Begin with so many last lines of each node [default: all]
    #[arg(short = 'n', long, value_name = "LINES")]
    lines: Option<usize>,
    #[command(flatten)]
    dir: Dir,
}

/// Prints logs of nodes of the local cluster, whether it runs or not.
pub(crate) async fn logs(args: LogsArgs) -> anyhow::Result<ExitCode> {
    let dir = args.dir.path()?;
    let wanted = Wanted(args.names);
    let there = nodes_with_logs(&dir);
    wanted.check(&there, &dir)?;
    let mut logs = Logs { is_prefixed: !wanted.is_one_node(&there), ..Logs::default() };
    let start = args.lines.map_or(Start::Whole, Start::Last);
    logs.look(&dir, &wanted, start)?;
    if !args.follow {
        let style = logs.style();
        logs.sources.values_mut().for_each(|source| source.end(&style));
        return Ok(ExitCode::SUCCESS);
    }
    loop {
        end_unless_heard();
        tokio::time::sleep(LOOK_PERIOD).await;
        logs.look(&dir, &wanted, Start::Whole)?;
    }
}

/// What a program said last that ends with an error, in its log.
pub(super) fn last_error(log: &Path) -> Option<String> {
    let said = std::fs::read_to_string(log).ok()?;
    said.lines().rev().find_map(|line| line.strip_prefix("error: ")).map(str::to_owned)
}

/// The last lines of a log.
pub(super) fn last_lines(path: &Path, lines: usize) -> io::Result<Vec<String>> {
    let mut log = File::open(path)?;
    let start = start_of_last(&mut log, lines)?;
    log.seek(SeekFrom::Start(start))?;
    let mut last = Vec::new();
    log.take(LINE_BYTES_MAX as u64).read_to_end(&mut last)?;
    Ok(String::from_utf8_lossy(&last).lines().map(str::to_owned).collect())
}

/// Prints the log of a node.
pub(super) fn whole(dir: &Path, node: &Name) -> anyhow::Result<ExitCode> {
    let path = log_path(dir, node);
    let log = fs::read(&path).with_context(|| format!("{}: no log of such a node", path.display()))?;
    say!("{}", String::from_utf8_lossy(&log).trim_end());
    Ok(ExitCode::SUCCESS)
}

/// Every node of this directory that has a log, in the order of their roles and numbers.
fn nodes_with_logs(dir: &Path) -> Vec<Name> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let name = |entry: fs::DirEntry| entry.file_name().to_str()?.strip_suffix(".log")?.parse().ok();
    let mut names: Vec<Name> = entries.filter_map(name).collect();
    names.sort_by_key(order);
    names
}

/// Numbers count as such: the tenth comes after the ninth.
type Place = (String, u64, Name);

fn order(name: &Name) -> Place {
    let role = name.as_str().trim_end_matches(|c: char| c.is_ascii_digit());
    (role.to_owned(), name.as_str()[role.len()..].parse().unwrap_or_default(), name.clone())
}

/// Whose logs are wanted; nobody's name: everybody's.
struct Wanted(Vec<Name>);

impl Wanted {
    fn has(&self, node: &Name) -> bool {
        self.0.is_empty() || self.0.iter().any(|word| Self::means(word, node))
    }

    /// Whether the word names the node, or its role.
    fn means(word: &Name, node: &Name) -> bool {
        word == node
            || service::number(node.as_str(), word.as_str()).is_some()
            || service::number(node.as_str(), service::long_name(word.as_str())).is_some()
    }

    fn is_one_node(&self, there: &[Name]) -> bool {
        matches!(self.0.as_slice(), [word] if there.contains(word))
    }

    /// An error for a word that means nobody.
    fn check(&self, there: &[Name], dir: &Path) -> anyhow::Result<()> {
        let dir = dir.display();
        if there.is_empty() {
            bail!("--dir {dir}: no node of a local cluster has a log there; start one with `concertina up`");
        }
        match self.0.iter().find(|word| !there.iter().any(|node| Self::means(word, node))) {
            Some(word) => {
                let there: Vec<&str> = there.iter().map(Name::as_str).collect();
                bail!(
                    "{word}: no node or role in {dir} has a log of this name: expected one of {}",
                    there.join(", ")
                )
            }
            None => Ok(()),
        }
    }
}

/// Where a log begins to be printed.
#[derive(Debug, Clone, Copy)]
enum Start {
    Whole,
    Last(usize),
}

/// The logs that are printed.
#[derive(Debug, Default)]
struct Logs {
    sources: BTreeMap<Place, Source>,
    is_prefixed: bool,
}

/// How lines are printed.
struct Style {
    is_prefixed: bool,
    name_width: usize,
}

impl Style {
    fn print(&self, name: &Name, line: &[u8]) {
        let (width, line) = (self.name_width, String::from_utf8_lossy(line));
        if self.is_prefixed {
            say!("{:<width$} | {line}", name.as_str());
        } else {
            say!("{line}");
        }
    }
}

impl Logs {
    /// Prints what is new. Logs that were not there before begin at the start.
    fn look(&mut self, dir: &Path, wanted: &Wanted, start: Start) -> anyhow::Result<()> {
        for name in nodes_with_logs(dir).into_iter().filter(|name| wanted.has(name)) {
            let Entry::Vacant(place) = self.sources.entry(order(&name)) else { continue };
            let path = log_path(dir, &name);
            match Source::open(name, &path, start) {
                Ok(source) => drop(place.insert(source)),
                // Gone since it was listed.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(error).with_context(|| path.display().to_string()),
            }
        }
        let style = self.style();
        for source in self.sources.values_mut() {
            let path = log_path(dir, &source.name);
            source.look(&path, &style).with_context(|| path.display().to_string())?;
        }
        Ok(())
    }

    fn style(&self) -> Style {
        let names = self.sources.values().map(|source| source.name.as_str().len());
        Style { is_prefixed: self.is_prefixed, name_width: names.max().unwrap_or_default() }
    }
}

/// A log, read as far as it has been printed.
#[derive(Debug)]
struct Source {
    name: Name,
    file: File,
    /// The beginning of a line.
    begun: Vec<u8>,
}

impl Source {
    fn open(name: Name, path: &Path, start: Start) -> io::Result<Self> {
        let mut file = File::open(path)?;
        if let Start::Last(lines) = start {
            let at = start_of_last(&mut file, lines)?;
            file.seek(SeekFrom::Start(at))?;
        }
        Ok(Self { name, file, begun: Vec::new() })
    }

    /// Prints the lines that are whole.
    fn look(&mut self, path: &Path, style: &Style) -> io::Result<()> {
        self.read(style)?;
        // Replaced or cut: what is there now is new. While it is gone, there is nothing.
        let Ok(there) = fs::metadata(path) else { return Ok(()) };
        let is_other = there.ino() != self.file.metadata()?.ino();
        if is_other || there.len() < self.file.stream_position()? {
            self.end(style);
            self.file = File::open(path)?;
            self.read(style)?;
        }
        Ok(())
    }

    fn read(&mut self, style: &Style) -> io::Result<()> {
        let mut block = vec![0; BLOCK_BYTES];
        loop {
            let length = self.file.read(&mut block)?;
            if length == 0 {
                return Ok(());
            }
            let mut rest = &block[..length];
            while let Some(at) = rest.iter().position(|byte| *byte == b'\n') {
                self.begun.extend_from_slice(&rest[..at]);
                self.end_line(style);
                rest = &rest[at + 1..];
            }
            self.begun.extend_from_slice(rest);
            if self.begun.len() >= LINE_BYTES_MAX {
                self.end_line(style);
            }
        }
    }

    fn end_line(&mut self, style: &Style) {
        style.print(&self.name, &self.begun);
        self.begun.clear();
    }

    /// Prints what there is of a line that never ended.
    fn end(&mut self, style: &Style) {
        if !self.begun.is_empty() {
            self.end_line(style);
        }
    }
}

/// Where the last lines begin. Looks at the end first, since logs are long.
fn start_of_last(log: &mut (impl Read + Seek), lines: usize) -> io::Result<u64> {
    let mut at = log.seek(SeekFrom::End(0))?;
    let (end, mut found) = (at, 0);
    if lines == 0 {
        return Ok(end);
    }
    let mut block = vec![0; BLOCK_BYTES];
    while at > 0 {
        let length = at.min(BLOCK_BYTES as u64);
        at -= length;
        log.seek(SeekFrom::Start(at))?;
        let block = &mut block[..length as usize];
        log.read_exact(block)?;
        for (place, _) in block.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n') {
            let line_start = at + place as u64 + 1;
            // The end of the last line is no beginning of another.
            if line_start != end {
                found += 1;
            }
            if found == lines {
                return Ok(line_start);
            }
        }
    }
    Ok(0)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    fn names(names: &[&str]) -> Vec<Name> {
        names.iter().map(|name| name.parse().unwrap()).collect()
    }

    #[test]
    fn the_last_lines_are_found_however_they_lie_in_blocks() {
        let last = |text: &str, lines| {
            text[start_of_last(&mut Cursor::new(text), lines).unwrap() as usize..].to_owned()
        };
        assert_eq!(last("a\nb\nc\n", 2), "b\nc\n");
        assert_eq!(last("a\nb\nc", 2), "b\nc");
        assert_eq!(last("a\n\n\n", 2), "\n\n");
        assert_eq!(last("a\nb\n", 2), "a\nb\n");
        assert_eq!(last("a\nb\n", 9), "a\nb\n");
        assert_eq!((last("a\n", 0).as_str(), last("", 3).as_str()), ("", ""));
        for length in [BLOCK_BYTES - 2, BLOCK_BYTES - 1, BLOCK_BYTES, BLOCK_BYTES + 1, 3 * BLOCK_BYTES] {
            let line = "x".repeat(length);
            assert_eq!(last(&format!("a\n{line}\nb\n"), 2), format!("{line}\nb\n"), "{length}");
        }
    }

    #[test]
    fn a_word_is_a_node_or_a_role_and_what_is_neither_is_told_what_there_is() {
        let there = names(&["web1", "web10", "web-1", "appserver1"]);
        let found = |word: &str| {
            let wanted = Wanted(names(&[word]));
            there.iter().filter(|node| wanted.has(node)).map(Name::as_str).collect::<Vec<_>>()
        };
        assert_eq!(found("web"), ["web1", "web10"]);
        assert_eq!(found("web1"), ["web1"]);
        assert_eq!(found("app"), ["appserver1"]);
        let refused = Wanted(names(&["web", "wbe"])).check(&there, Path::new("/d")).unwrap_err().to_string();
        assert!(
            refused.starts_with("wbe: ") && refused.ends_with("web1, web10, web-1, appserver1"),
            "{refused}"
        );
    }

    #[test]
    fn nodes_are_in_the_order_of_their_numbers() {
        let mut nodes = names(&["web10", "dnsserver", "web9", "web"]);
        nodes.sort_by_key(order);
        assert_eq!(nodes, names(&["dnsserver", "web", "web9", "web10"]));
    }
}
