//! What a service's nodes run, as a file writes it, with the place where each is to listen.

use std::fmt;

use serde::{Deserialize, Deserializer, de};

/// What a program is told by these names, and may not be told otherwise.
pub(super) const HOST: &str = "HOST";
pub(super) const PORT: &str = "PORT";

/// What is run.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum CommandLine {
    /// A program and its arguments, in which host and port are filled in.
    Words(Vec<String>),
    /// A line for sh, which has them in its environment.
    Shell(String),
}

impl<'de> Deserialize<'de> for CommandLine {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(CommandVisitor)
    }
}

struct CommandVisitor;

impl<'de> de::Visitor<'de> for CommandVisitor {
    type Value = CommandLine;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of a program and its arguments, or a line for sh")
    }

    fn visit_str<E: de::Error>(self, line: &str) -> Result<CommandLine, E> {
        command(CommandLine::Shell(line.to_owned()), line.trim().is_empty(), line.contains('\0'))
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, mut list: A) -> Result<CommandLine, A::Error> {
        let mut words: Vec<String> = Vec::new();
        while let Some(word) = list.next_element()? {
            words.push(word);
        }
        let is_empty = words.first().is_none_or(|program| program.trim().is_empty());
        let has_zero = words.iter().any(|word| word.contains('\0'));
        command(CommandLine::Words(words), is_empty, has_zero)
    }
}

fn command<E: de::Error>(command: CommandLine, is_empty: bool, has_zero: bool) -> Result<CommandLine, E> {
    if is_empty {
        return Err(E::custom(
            "an empty command: expected a program and its arguments, such as [\"python3\", \"-m\", \"http.server\", \"$PORT\"], or a \
             line for sh",
        ));
    }
    if has_zero {
        return Err(E::custom("a zero byte in a command: expected none"));
    }
    Ok(command)
}

/// The text with `$HOST`, `${HOST}`, `$PORT` and `${PORT}` replaced; all else stays as it is.
pub(super) fn filled_in(text: &str, host: &str, port: Option<u16>) -> String {
    let port = port.map(|port| port.to_string());
    let mut filled = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('$') {
        filled.push_str(&rest[..at]);
        let after = &rest[at + 1..];
        let is_part = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let (name, length) = match after.strip_prefix('{').and_then(|inner| inner.split_once('}')) {
            Some((name, _)) => (name, name.len() + 2),
            None => {
                let end = after.find(|c| !is_part(c)).unwrap_or(after.len());
                (&after[..end], end)
            }
        };
        let value = match name {
            HOST => Some(host),
            PORT => port.as_deref(),
            _ => None,
        };
        // What is no name of ours may have one in it.
        let taken = if value.is_some() { 1 + length } else { 1 };
        filled.push_str(value.unwrap_or("$"));
        rest = &rest[at + taken..];
    }
    filled + rest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn host_and_port_are_filled_in_and_nothing_else_is() {
        for (text, filled) in [
            ("$PORT", "9"),
            ("http://${HOST}:${PORT}/$PORT", "http://127.0.0.1:9/9"),
            ("$PORTAL ${PORTS} $HOME $ $$ ${", "$PORTAL ${PORTS} $HOME $ $$ ${"),
            ("${X$PORT}", "${X9}"),
            ("$HOST$PORT", "127.0.0.19"),
        ] {
            assert_eq!(filled_in(text, "127.0.0.1", Some(9)), filled);
        }
        assert_eq!(filled_in("$HOST $PORT", "h", None), "h $PORT");
    }
}
