//! An operator's programs that run on events and answer queries.
//!
//! No shell: the command is split at white space. The payload comes on stdin, what the program says on stdout is the answer to
//! a query. Few run at a time, each for a limited time, and ends with its node. A program that leaves something in the background lets
//! go of its stdout there: what still holds it when the program has ended is killed.

use std::{cell::Cell, env, path::Path, rc::Rc, str::FromStr, time::Duration};

use feed::{Name, event::Outcome};
use tokio::sync::Semaphore;

use crate::{
    cluster::membership::questions::BUILT_IN,
    node::{
        program::{End, Program},
        supervise::{Children, Exit},
    },
};

/// Programs that run at a time.
const RUNNING_MAX: usize = 8;
/// Programs that wait for their turn; what comes beyond that is not run, and that is logged.
const WAITING_MAX: usize = 64;
/// Longest run of a program.
const RUN_TIMEOUT: Duration = Duration::from_secs(10);

/// What a handler is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Trigger {
    /// An event of its name.
    Event,
    /// A query of its name.
    Query,
}

/// A program for a name, as the command line says it: `event:NAME=PROGRAM ARGUMENTS` or `query:NAME=…`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Handler {
    trigger: Trigger,
    name: Name,
    command: Vec<String>,
}

impl FromStr for Handler {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let refused = || {
            format!(
                "{text:?} is not a handler: expected event:NAME=PROGRAM or query:NAME=PROGRAM, with arguments or without"
            )
        };
        let (trigger, rest) = text.split_once(':').ok_or_else(refused)?;
        let trigger = match trigger {
            "event" => Trigger::Event,
            "query" => Trigger::Query,
            _ => return Err(refused()),
        };
        let (name, command) = rest.split_once('=').ok_or_else(refused)?;
        let name: Name = name.parse().map_err(|error| format!("{text:?}: {error}"))?;
        let command: Vec<String> = command.split_whitespace().map(str::to_owned).collect();
        if command.is_empty() {
            return Err(refused());
        }
        if trigger == Trigger::Query && BUILT_IN.contains(&name.as_str()) {
            return Err(format!("{text:?}: every sidecar answers {name} itself; choose another name"));
        }
        Ok(Self { trigger, name, command })
    }
}

/// One run of a handler.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) trigger: Trigger,
    pub(crate) name: Name,
    pub(crate) payload: String,
    /// For its environment.
    pub(crate) envs: Vec<(&'static str, String)>,
}

/// The handlers of a node, and their turns.
#[derive(Debug, Clone)]
pub(crate) struct Handlers(Rc<Inner>);

#[derive(Debug)]
struct Inner {
    handlers: Vec<Handler>,
    children: Children,
    turns: Semaphore,
    waiting: Cell<usize>,
}

impl Handlers {
    pub(crate) fn new(handlers: Vec<Handler>, children: Children) -> Self {
        for Handler { name, command, .. } in handlers.iter().filter(|handler| !is_found(&handler.command[0]))
        {
            // It may be installed later.
            tracing::warn!(%name, program = %command[0], "the program of a handler is not there");
        }
        let (turns, waiting) = (Semaphore::new(RUNNING_MAX), Cell::new(0));
        Self(Rc::new(Inner { handlers, children, turns, waiting }))
    }

    /// Runs the program for this, if there is one.
    pub(crate) async fn run(&self, call: Call) -> Option<Outcome> {
        let is_for = |handler: &&Handler| handler.trigger == call.trigger && handler.name == call.name;
        let handler = self.0.handlers.iter().find(is_for)?;
        if self.0.waiting.get() >= WAITING_MAX {
            return Some(Outcome::Error(format!("{WAITING_MAX} handlers wait for their turn already")));
        }
        self.0.waiting.set(self.0.waiting.get() + 1);
        let turn = self.0.turns.acquire().await;
        self.0.waiting.set(self.0.waiting.get() - 1);
        let outcome = self.0.run(handler, &call).await;
        drop(turn);
        Some(outcome.unwrap_or_else(|error| Outcome::Error(format!("{}: {error}", handler.command[0]))))
    }
}

/// Whether there is such a program: at this path, or in one of the folders of PATH (execvp(3)).
fn is_found(program: &str) -> bool {
    if program.contains('/') {
        return Path::new(program).exists();
    }
    let folders = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&folders).any(|folder| folder.join(program).exists())
}

impl Inner {
    async fn run(&self, handler: &Handler, call: &Call) -> std::io::Result<Outcome> {
        let program = Program { command: &handler.command, envs: &call.envs, stdin: call.payload.as_bytes() };
        let ran = program.run(RUN_TIMEOUT, &self.children).await?;
        let text = String::from_utf8_lossy(&ran.said).trim_end().to_owned();
        Ok(match ran.end {
            End::Ended(status) if status.exit_status() == Some(0) => Outcome::Payload(text),
            End::Ended(status) => {
                Outcome::Error(format!("{} {text}", Exit::from(status)).trim_end().to_owned())
            }
            End::Overdue => Outcome::Error(format!("no end after {RUN_TIMEOUT:?}, killed")),
            End::Unseen => Outcome::Error("its end was not seen".to_owned()),
        })
    }
}

#[cfg(test)]
mod tests {
    use feed::event::ANSWER_BYTES_MAX;

    use super::*;
    use crate::{
        cluster::trouble::Trouble,
        node::check::{Damping, News, Watch},
    };

    fn call(name: &str, payload: &str) -> Call {
        let envs = vec![("CONCERTINA_QUERY", name.to_owned())];
        Call { trigger: Trigger::Query, name: name.parse().unwrap(), payload: payload.to_owned(), envs }
    }

    /// What a program answers; ends are seen as they are in the driver, by the one who reaps.
    async fn answer(command: &str, payload: &str) -> Option<Outcome> {
        let mut role = crate::node::role::Role::without_process();
        let handlers = Handlers::new(vec![format!("query:x={command}").parse().unwrap()], role.others());
        tokio::select! {
            outcome = handlers.run(call("x", payload)) => outcome,
            _ = role.next(false) => None,
        }
    }

    /// The first that a check by this program tells.
    async fn checked(command: &str) -> Option<News> {
        let mut role = crate::node::role::Role::without_process();
        let at_once = Duration::ZERO;
        let watch = Watch {
            check: format!("exec:{command}").parse().unwrap(),
            addr: "127.0.0.1:1".parse().unwrap(),
            timeout: RUN_TIMEOUT,
            damping: Damping { interval: at_once, rise: at_once, fall: at_once },
            children: role.others(),
        };
        let (tell, mut told) = tokio::sync::mpsc::unbounded_channel();
        tokio::select! {
            () = watch.run(|news| tell.send(news).unwrap()) => None,
            news = told.recv() => news,
            _ = role.next(false) => None,
        }
    }

    /// One test: whoever reaps takes the children of every thread.
    #[tokio::test(flavor = "current_thread")]
    async fn a_program_reads_the_payload_and_its_output_is_the_answer_up_to_the_limit() {
        let _turn = crate::node::program::FORKS.write().await;
        let payload = |text: &str| Some(Outcome::Payload(text.to_owned()));
        assert_eq!(answer("/bin/cat", "said twice\n").await, payload("said twice"));
        let long = "x".repeat(ANSWER_BYTES_MAX);
        assert_eq!(answer("/bin/cat", &long).await, payload(&long));
        assert_eq!(answer("/bin/cat", &format!("{long}x")).await, payload(&long));
        let named = answer("/usr/bin/printenv CONCERTINA_QUERY", "").await;
        assert_eq!(named, payload("x"));
        assert_eq!(answer("/bin/false", "").await, Some(Outcome::Error("exit code 1".to_owned())));
        let missing = answer("/no/such/program", "").await;
        assert!(
            matches!(&missing, Some(Outcome::Error(why)) if why.contains("/no/such/program: No such file")),
            "{missing:?}"
        );
        // What it leaves behind with its output in hand is waited for a moment, and ended.
        let dir = tempfile::tempdir().unwrap();
        let script = dir.path().join("leaves-something");
        std::fs::write(&script, "sleep 1000 &\necho $!").unwrap();
        let started = std::time::Instant::now();
        let Some(Outcome::Payload(left)) = answer(&format!("/bin/sh {}", script.display()), "").await else {
            panic!("no answer")
        };
        assert!(started.elapsed() < RUN_TIMEOUT / 2, "{:?}", started.elapsed());
        let left = format!("/proc/{left}/stat");
        let is_alive = || std::fs::read_to_string(&left).is_ok_and(|stat| !stat.contains(") Z "));
        while is_alive() {
            tokio::task::yield_now().await;
        }
        assert_eq!(checked("/bin/true").await, Some(News::Serves));
        assert_eq!(checked("/bin/false").await, Some(News::Fails(Trouble::Exit(1))));
        assert_eq!(checked("/no/such/program").await, Some(News::Fails(Trouble::NotRunnable)));
        let handlers = Handlers::new(Vec::new(), Children::default());
        assert_eq!(handlers.run(call("x", "")).await, None, "nothing is there for it");
    }

    #[test]
    fn handlers_are_a_trigger_a_name_and_a_command() {
        let handler: Handler = "event:Deploy=/bin/echo a  b=c".parse().unwrap();
        assert_eq!((handler.trigger, handler.name.as_str()), (Trigger::Event, "deploy"));
        assert_eq!(handler.command, ["/bin/echo", "a", "b=c"]);
        for bad in ["", "event:x", "event:x=", "event:x= ", "user:x=/bin/true", "query=/bin/true"] {
            assert!(
                bad.parse::<Handler>().unwrap_err().contains("is not a handler: expected event:NAME"),
                "{bad}"
            );
        }
        assert!("event:a b=/bin/true".parse::<Handler>().unwrap_err().contains("is not a name"));
        assert!("query:ping=/bin/true".parse::<Handler>().unwrap_err().contains("answers ping itself"));
        assert!("event:ping=/bin/true".parse::<Handler>().is_ok());
    }
}
