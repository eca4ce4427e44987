//! Scripts as text, and as steps.

use std::{path::Path, time::Duration};

use proxy::config::{GivenTimeouts, HalfClosed, Protocol};

/// How a connection ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum End {
    Closed,
    Broken,
}

/// What a peer makes of dates that it receives: the proxy dates what came without one, and no script knows what time it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dates {
    /// They are bytes like any others.
    Kept,
    /// Their lines are not there.
    Hidden,
    /// Each reads `now`.
    Shown,
}

/// A claim and the bytes that show it.
#[derive(Debug, Clone)]
pub(crate) struct Script {
    /// File, line, claim and case.
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) timeouts: GivenTimeouts,
    pub(crate) half_closed: HalfClosed,
    /// Flags of the command line that have no line of their own.
    pub(crate) flags: String,
    pub(crate) upstreams: Vec<Endpoint>,
    pub(crate) is_split: bool,
    /// It is played through TLS, too.
    pub(crate) is_sealed: bool,
    /// Why it is not played in streams of HTTP/2, if it is not.
    pub(crate) no_streams: Option<String>,
    pub(crate) dates: Dates,
    pub(crate) steps: Vec<Step>,
}

/// What an upstream of the table does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// What the script says.
    Live,
    /// Refuses connections.
    Refusing,
    /// Answers no connection attempt.
    Silent,
}

/// Something that one of the peers does or sees.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    pub(crate) line: usize,
    pub(crate) peer: String,
    pub(crate) act: Act,
}

#[derive(Debug, Clone)]
pub(crate) enum Act {
    Send(Vec<u8>),
    Receive(Vec<u8>),
    ReceiveStatus(u16),
    /// The other side ended, in one of these ways, and had not sent such bytes before. Without them: it had sent nothing.
    End(&'static [End], Option<Vec<u8>>),
    Close,
    HalfClose,
    Reset,
    /// A connection is made, or taken.
    New,
    /// No connection was made.
    None,
    /// The proxy is asked to stop.
    Stop,
    /// Nothing happens for so long: of timeouts it is shown that they are *not* over.
    Pause(Duration),
}

/// The scripts of all files of a folder.
pub(crate) fn read_all(folder: &Path) -> Result<Vec<Script>, String> {
    let mut scripts = Vec::new();
    let entries = std::fs::read_dir(folder).map_err(|error| format!("{}: {error}", folder.display()))?;
    let mut paths: Vec<_> = entries.filter_map(|entry| Some(entry.ok()?.path())).collect();
    paths.sort();
    for path in paths.iter().filter(|path| path.extension().is_some_and(|e| e == "txt")) {
        let text = std::fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        scripts.extend(parse(&name, &text)?);
    }
    Ok(scripts)
}

/// The scripts of one file, one for each of their cases.
pub(crate) fn parse(file: &str, text: &str) -> Result<Vec<Script>, String> {
    let mut scripts = Vec::new();
    let mut block: Vec<(usize, String)> = Vec::new();
    for (number, line) in (1..).zip(text.lines()) {
        if line.starts_with("title:") {
            scripts.extend(parse_block(file, &std::mem::take(&mut block))?);
        }
        match block.last_mut() {
            _ if line.trim().is_empty() || line.starts_with('#') => {}
            Some((_, last)) if line.starts_with(' ') => last.push_str(line.trim()),
            _ => block.push((number, line.trim_end().to_owned())),
        }
    }
    scripts.extend(parse_block(file, &block)?);
    Ok(scripts)
}

fn parse_block(file: &str, lines: &[(usize, String)]) -> Result<Vec<Script>, String> {
    let Some((first, _)) = lines.first() else { return Ok(Vec::new()) };
    let mut script = Script {
        name: String::new(),
        protocol: Protocol::Http,
        timeouts: "drain=10ms".parse()?,
        half_closed: HalfClosed::Abort,
        flags: String::new(),
        upstreams: vec![Endpoint::Live],
        is_split: true,
        is_sealed: true,
        no_streams: None,
        dates: Dates::Hidden,
        steps: Vec::new(),
    };
    let (mut title, mut cases, mut steps, mut skips) = ("", Vec::new(), Vec::new(), Vec::new());
    for (line, text) in lines {
        match text.split_once(": ").map(|(key, value)| (key, value.trim())) {
            Some(("title", value)) => title = value,
            Some(("each", value)) => cases.push(value),
            Some(("timeouts", value)) => script.timeouts = format!("drain=10ms,{value}").parse()?,
            Some(("protocol", "tcp")) => script.protocol = Protocol::Tcp,
            Some(("half-closed", "keep")) => script.half_closed = HalfClosed::Keep,
            Some(("flags", value)) => value.clone_into(&mut script.flags),
            Some(("dates", "shown")) => script.dates = Dates::Shown,
            Some(("split", "no")) => script.is_split = false,
            Some(("sealed", "no")) => script.is_sealed = false,
            Some(("streams", value)) => skips.push(parse_skip(value)?),
            Some(("upstreams", "none")) => script.upstreams.clear(),
            Some(("upstreams", value)) => {
                script.upstreams = value.split(' ').map(parse_endpoint).collect::<Result<_, _>>()?;
            }
            _ => steps.push((*line, text)),
        }
    }
    let each = |case: &&str| {
        let mut script = script.clone();
        script.name = format!("{file}:{first} {title}{}{case}", if case.is_empty() { "" } else { ": " });
        let is_meant = |(skipped, _): &&Skip<'_>| skipped.is_none_or(|skipped| skipped == *case);
        script.no_streams = skips.iter().find(is_meant).map(|(_, why)| (*why).to_owned());
        for (line, text) in &steps {
            let step = parse_step(*line, &text.replace('$', case));
            script.steps.push(step.map_err(|error| format!("{file}:{line}: {error}"))?);
        }
        Ok(script)
    };
    if cases.is_empty() {
        cases.push("");
    }
    if let Some(unknown) = skips.iter().find_map(|(case, _)| case.filter(|case| !cases.contains(case))) {
        return Err(format!("{file}:{first}: {unknown:?} is no case"));
    }
    cases.iter().map(each).collect()
}

/// A case, or all, and why it is not played in streams.
type Skip<'a> = (Option<&'a str>, &'a str);

fn parse_skip(text: &str) -> Result<Skip<'_>, String> {
    let (what, why) = text.rsplit_once("-- ").ok_or_else(|| format!("{text:?}: why is it not played?"))?;
    match what.trim_end() {
        "no" => Ok((None, why)),
        what => match what.strip_prefix("not ") {
            Some(case) => Ok((Some(case), why)),
            None => Err(format!("{text:?}: expected no, or not and a case")),
        },
    }
}

fn parse_endpoint(text: &str) -> Result<Endpoint, String> {
    match text {
        "live" => Ok(Endpoint::Live),
        "refusing" => Ok(Endpoint::Refusing),
        "silent" => Ok(Endpoint::Silent),
        _ => Err(format!("{text:?} is no upstream: expected live, refusing or silent")),
    }
}

fn parse_step(line: usize, text: &str) -> Result<Step, String> {
    let end = text.find([' ', '<', '>']).ok_or_else(|| format!("{text:?} is no step"))?;
    let (peer, rest) = text.split_at(end);
    let act = match rest.trim_start() {
        rest if rest.starts_with("< status ") => {
            Act::ReceiveStatus(rest[9..].parse().map_err(|_| format!("{text:?}: no status"))?)
        }
        rest if rest.starts_with("< ") => Act::Receive(unescape(&rest[2..])?),
        rest if rest.starts_with("> ") => Act::Send(unescape(&rest[2..])?),
        "close" => Act::Close,
        "half-close" => Act::HalfClose,
        "reset" => Act::Reset,
        "new" => Act::New,
        "none" => Act::None,
        "stop" => Act::Stop,
        rest if rest.starts_with("pause ") => Act::Pause(feed::time::parse_duration(&rest[6..])?),
        rest => {
            let (end, without) = rest.split_once(" without ").map_or((rest, None), |(e, w)| (e, Some(w)));
            let ends: &[End] = match end {
                "closed" => &[End::Closed],
                "broken" => &[End::Broken],
                "gone" => &[End::Closed, End::Broken],
                _ => return Err(format!("{text:?} is no step")),
            };
            Act::End(ends, without.map(unescape).transpose()?)
        }
    };
    Ok(Step { line, peer: peer.to_owned(), act })
}

/// The bytes of a text with escapes and repetitions.
fn unescape(text: &str) -> Result<Vec<u8>, String> {
    let (mut bytes, mut rest) = (Vec::new(), text);
    while let Some(c) = rest.chars().next() {
        let after = &rest[c.len_utf8()..];
        rest = match c {
            '\\' => {
                let (byte, length) = match after.as_bytes() {
                    [b'r', ..] => (b'\r', 1),
                    [b'n', ..] => (b'\n', 1),
                    [b't', ..] => (b'\t', 1),
                    [b'0', ..] => (0, 1),
                    [b'\\', ..] => (b'\\', 1),
                    [b'x', ..] => {
                        let digits = after.get(1..3).ok_or("\\x needs two digits")?;
                        (
                            u8::from_str_radix(digits, 16)
                                .map_err(|error| format!("\\x{digits}: {error}"))?,
                            3,
                        )
                    }
                    _ => return Err(format!("unknown escape in {text:?}")),
                };
                bytes.push(byte);
                &after[length..]
            }
            '{' => {
                let end = closing(after).ok_or("a { without its }")?;
                let (repeated, count) = after[..end].rsplit_once('*').ok_or("a { without its *")?;
                let count = count.parse().map_err(|_| format!("{count:?} is no count"))?;
                bytes.extend(unescape(repeated)?.repeat(count));
                &after[end + 1..]
            }
            c => {
                bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                after
            }
        };
    }
    Ok(bytes)
}

/// Where the brace is that closes the one before this text.
fn closing(text: &str) -> Option<usize> {
    let mut depth = 1;
    text.bytes().position(|byte| {
        depth += i32::from(byte == b'{') - i32::from(byte == b'}');
        depth == 0
    })
}
