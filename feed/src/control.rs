//! What the process of a role is asked: a line over a Unix socket beside the feed's.
//!
//! ```text
//! asker ──reload│metrics│load│explain…│recall…──▶ process ──done│refused, and text──▶ asker
//! ```
//!
//! Its sidecar asks for metrics and load, people have a proxy read its file again. A process that serves no such socket is asked nothing.

mod scraper;

use std::{
    convert::Infallible,
    future::{pending, poll_fn},
    io::{self, ErrorKind},
    path::{Path, PathBuf},
    str::FromStr,
    task::Poll,
    time::Duration,
};

use bytes::Buf;
use futures_util::future::join_all;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::{Instant, sleep, timeout},
};

use crate::{
    Name,
    recall::{Account, Which},
    request::Inquiry,
    socket::{self, Served, SocketError},
};
pub use scraper::Scraper;

/// Bytes of a question with its end: longer ones are none. A request's target alone may have 8 KiB.
pub const QUESTION_BYTES_MAX: u64 = 16 * 1024;
/// Bytes of an answer: a line for each of some thousand routes or endpoints.
const ANSWER_BYTES_MAX: u64 = 4 * 1024 * 1024;

/// How long nobody may be there while one process follows another.
const SUCCESSION_TIMEOUT: Duration = Duration::from_secs(1);

/// How long a question may take to come, and an answer to be taken: nobody keeps others from asking.
const ASK_TIMEOUT: Duration = Duration::from_secs(2);

/// How often to look whether another process is still asked there, or whether there is a sidecar.
const SERVED_PERIOD: Duration = Duration::from_millis(100);
const FEED_PERIOD: Duration = Duration::from_secs(1);

/// The user of the process, and nobody else.
const SOCKET_MODE: u32 = 0o600;

/// What a question about a request begins with.
const EXPLAIN: &str = "explain ";
/// And one about a request that was.
const RECALL: &str = "recall ";

/// What the question of an asker begins with who has more: the answer says how long it is, and the connection stays.
const KEEP: &str = "keep ";
/// So many askers may stay: of one that asks, and of what it has forgotten.
const KEPT_COUNT_MAX: usize = 4;

/// What an answer begins with.
const DONE: &str = "done";
const REFUSED: &str = "refused";

/// The program that has a file to read again.
pub const PROXY: &str = "proxy";
/// The front, which has load to tell as the proxy has.
pub const FRONT: &str = "front";
/// Those that count something, by the names of their commands. Several may follow the feed of one sidecar.
const COUNTING: [&str; 4] = [PROXY, "dns", FRONT, "app"];

/// Where the process of this program is asked whose feed is there.
pub fn path(feed: &Path, program: &str) -> PathBuf {
    feed.with_extension(program)
}

/// What it is asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Question {
    /// To read its file again, and what is otherwise then.
    Reload,
    /// What it has counted, as OpenMetrics.
    Metrics,
    /// How much it has to do, as JSON: a list of [`RoleLoad`](crate::report::RoleLoad).
    Load,
    /// What it would do with a request, as JSON: a [`Prospect`](crate::request::Prospect).
    Explain(Box<Inquiry>),
    /// What it keeps of these requests, as JSON: a [`Recalled`](crate::recall::Recalled).
    Recall(Which),
}

impl Question {
    /// The line that asks it.
    pub fn line(&self) -> String {
        match self {
            Self::Reload => "reload".to_owned(),
            Self::Metrics => "metrics".to_owned(),
            Self::Load => "load".to_owned(),
            // Texts and numbers can all be written, and JSON has no line end in it.
            Self::Explain(inquiry) => {
                format!("{EXPLAIN}{}", serde_json::to_string(inquiry).unwrap_or_default())
            }
            Self::Recall(which) => format!("{RECALL}{which}"),
        }
    }

    /// How long an answer may take: a reload is done in milliseconds, unless the machine is busy; counters are only read.
    pub fn timeout(&self) -> Duration {
        match self {
            Self::Reload => Duration::from_secs(30),
            Self::Metrics | Self::Explain(_) => Duration::from_secs(2),
            Self::Load | Self::Recall(_) => Duration::from_millis(500),
        }
    }
}

/// A line that asks nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("expected `reload`, `metrics`, `load`, `explain` and a request, or `recall` and an id")]
pub struct NotAQuestion;

impl FromStr for Question {
    type Err = NotAQuestion;

    fn from_str(line: &str) -> Result<Self, NotAQuestion> {
        let line = line.trim_end();
        if let Some(inquiry) = line.strip_prefix(EXPLAIN) {
            return serde_json::from_str(inquiry).map(Self::Explain).map_err(|_| NotAQuestion);
        }
        if let Some(which) = line.strip_prefix(RECALL) {
            return which.parse().map(Self::Recall).map_err(|_| NotAQuestion);
        }
        let all = [Self::Reload, Self::Metrics, Self::Load];
        all.into_iter().find(|question| question.line() == line).ok_or(NotAQuestion)
    }
}

/// What it answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Answer {
    /// What was asked.
    Done(String),
    /// Why not.
    Refused(String),
}

impl Answer {
    /// The word for it, and the text.
    fn parts(&self) -> (&'static str, &str) {
        match self {
            Self::Done(text) => (DONE, text),
            Self::Refused(text) => (REFUSED, text),
        }
    }

    /// The one that this word is for.
    fn of(word: &str, text: String) -> Option<Self> {
        match word {
            DONE => Some(Self::Done(text)),
            REFUSED => Some(Self::Refused(text)),
            _ => None,
        }
    }

    /// What was sent; none if it is no whole answer.
    pub fn parse(sent: &str) -> Option<Self> {
        let (word, text) = sent.split_once('\n')?;
        Self::of(word, text.strip_suffix('\n')?.to_owned())
    }
}

/// Connects. Between a process that ends after an upgrade and the one that follows it nobody is there for a moment, which people need
/// not know.
async fn connect(path: &Path, question: &Question) -> io::Result<UnixStream> {
    let deadline = Instant::now() + SUCCESSION_TIMEOUT;
    loop {
        match UnixStream::connect(path).await {
            Err(error)
                if *question == Question::Reload
                    && Instant::now() < deadline
                    && matches!(error.kind(), ErrorKind::NotFound | ErrorKind::ConnectionRefused) =>
            {
                sleep(SUCCESSION_TIMEOUT / 20).await;
            }
            done => return done,
        }
    }
}

/// Asks the process of this program whose feed is there.
///
/// # Errors
/// None answers there.
pub async fn ask(feed: &Path, program: &str, question: Question) -> io::Result<Answer> {
    let asking = async {
        let mut stream = connect(&path(feed, program), &question).await?;
        stream.write_all(format!("{}\n", question.line()).as_bytes()).await?;
        let mut answer = String::new();
        stream.take(ANSWER_BYTES_MAX).read_to_string(&mut answer).await?;
        Answer::parse(&answer).ok_or(io::ErrorKind::UnexpectedEof.into())
    };
    timeout(question.timeout(), asking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

/// What the processes keep of these requests whose feed is there; and whether one is there that does not answer.
pub async fn recall(feed: &Path, node: Option<&Name>, which: &Which) -> (Account, bool) {
    let answers =
        join_all([PROXY, FRONT].map(|program| ask(feed, program, Question::Recall(which.clone())))).await;
    let (mut account, mut is_silent) = (Account::default(), false);
    for (program, answer) in [PROXY, FRONT].into_iter().zip(answers) {
        match answer {
            Ok(Answer::Done(told)) => {
                if let Ok(told) = serde_json::from_str(&told) {
                    account.note(node, program, told);
                }
            }
            // A Unix socket takes no more connections: they wait for somebody to accept them.
            Err(error) => is_silent |= matches!(error.kind(), ErrorKind::TimedOut | ErrorKind::WouldBlock),
            Ok(Answer::Refused(_)) => {}
        }
    }
    (account, is_silent)
}

/// Where a process is asked.
#[derive(Debug)]
pub struct Desk {
    served: Served,
    /// Those that have asked, and may ask again.
    kept: Vec<UnixStream>,
}

/// A question, and who waits for its answer.
#[derive(Debug)]
pub struct Asked {
    /// What is asked.
    pub question: Question,
    asker: UnixStream,
    is_kept: bool,
}

impl Desk {
    /// Takes the place of this program's process whose feed is there, as soon as no other has it.
    ///
    /// # Errors
    /// It cannot be had.
    pub async fn open(feed: &Path, program: &str) -> Result<Self, SocketError> {
        loop {
            match socket::listen(&path(feed, program), SOCKET_MODE).await {
                // The process that this one follows, until it drains.
                Err(SocketError::Served) => sleep(SERVED_PERIOD).await,
                opened => return opened.map(|served| Self { served, kept: Vec::new() }),
            }
        }
    }

    /// Waits for the next question. Who asks nothing is told so.
    pub async fn next(&mut self) -> Asked {
        loop {
            let Ok(mut asker) = self.asker().await else {
                sleep(ASK_TIMEOUT).await;
                continue;
            };
            let mut line = String::new();
            let mut lines = BufReader::new((&mut asker).take(QUESTION_BYTES_MAX));
            if !matches!(timeout(ASK_TIMEOUT, lines.read_line(&mut line)).await, Ok(Ok(1..))) {
                continue;
            }
            let again = line.strip_prefix(KEEP);
            match again.unwrap_or(&line).parse::<Question>() {
                Ok(question) => return Asked { question, asker, is_kept: again.is_some() },
                Err(error) => drop(send(&mut asker, &Answer::Refused(error.to_string()), false).await),
            }
        }
    }

    /// Whoever is the next to say something.
    async fn asker(&mut self) -> io::Result<UnixStream> {
        poll_fn(|context| {
            let is_heard = |kept: &UnixStream| kept.poll_read_ready(context).is_ready();
            if let Some(position) = self.kept.iter().position(is_heard) {
                return Poll::Ready(Ok(self.kept.remove(position)));
            }
            self.served.listener.poll_accept(context).map_ok(|(asker, _)| asker)
        })
        .await
    }

    /// Answers. Of more askers that stay than there is room for, the one goes that has said nothing for longest.
    pub async fn answer(&mut self, asked: Asked, answer: &Answer) {
        let Asked { mut asker, is_kept, .. } = asked;
        if send(&mut asker, answer, is_kept).await.is_ok() && is_kept {
            if self.kept.len() == KEPT_COUNT_MAX {
                self.kept.remove(0);
            }
            self.kept.push(asker);
        }
    }
}

/// Who asked may have gone. What is long is not copied for its head.
async fn send(asker: &mut UnixStream, answer: &Answer, is_kept: bool) -> io::Result<()> {
    let (word, text) = answer.parts();
    let (head, end) =
        if is_kept { (format!("{word} {}\n", text.len()), "") } else { (format!("{word}\n"), "\n") };
    let mut all = Buf::chain(head.as_bytes(), Buf::chain(text.as_bytes(), end.as_bytes()));
    let sending = async {
        asker.write_all_buf(&mut all).await?;
        if is_kept { Ok(()) } else { asker.shutdown().await }
    };
    timeout(ASK_TIMEOUT, sending).await.unwrap_or_else(|_| Err(ErrorKind::TimedOut.into()))
}

/// Tells the sidecar whose feed is there what is counted here, whenever it asks; never ends. Without a sidecar nobody is told anything.
pub async fn serve_metrics(feed: &Path, program: &str, metrics: impl Fn() -> String) -> Infallible {
    serve(feed, program, |question| (question == Question::Metrics).then(|| Answer::Done(metrics()))).await
}

/// Answers the sidecar whose feed is there, whenever it asks what this program can tell; never ends.
pub async fn serve(feed: &Path, program: &str, answer: impl Fn(Question) -> Option<Answer>) -> Infallible {
    while !feed.exists() {
        sleep(FEED_PERIOD).await;
    }
    let mut desk = match Desk::open(feed, program).await {
        Ok(desk) => desk,
        Err(error) => {
            let path = path(feed, program);
            tracing::warn!(path = %path.display(), %error, "nothing that is counted in this process reaches its sidecar");
            return pending().await;
        }
    };
    loop {
        let asked = desk.next().await;
        if let Some(answer) = answer(asked.question.clone()) {
            desk.answer(asked, &answer).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_and_answers_are_read_as_they_are_written() {
        let inquiry = Inquiry {
            method: "GET".into(),
            is_sealed: true,
            host: "a".repeat(253),
            target: format!("/{}\n\"", "x".repeat(8192)),
            from: "::1".parse().ok(),
        };
        let explain = Question::Explain(Box::new(inquiry));
        let recall = Question::Recall("a-1:2".parse().unwrap());
        let failed = Question::Recall(Which::Failed);
        for question in [Question::Reload, Question::Metrics, Question::Load, explain, recall, failed] {
            assert!((question.line().len() as u64) < QUESTION_BYTES_MAX);
            assert_eq!(format!("{}\n", question.line()).parse(), Ok(question));
        }
        assert_eq!("explain it".parse::<Question>(), Err(NotAQuestion));
        assert_eq!("recall a b".parse::<Question>(), Err(NotAQuestion));
        assert_eq!("reload now".parse::<Question>(), Err(NotAQuestion));
        assert_eq!(Answer::parse("done\n\n"), Some(Answer::Done(String::new())));
        assert_eq!(Answer::parse("refused\ntwo\nlines\n\n"), Some(Answer::Refused("two\nlines\n".into())));
        for cut in ["", "done", "done\n", "done\nhalf", "other\nx\n"] {
            assert_eq!(Answer::parse(cut), None, "{cut:?}");
        }
    }

    #[tokio::test]
    async fn every_process_beside_a_sidecar_tells_what_it_has_counted_and_only_a_proxy_reloads() {
        let place = tempfile::tempdir().unwrap();
        let feed = place.path().join("feed.sock");
        let scraper = Scraper::new(feed.clone());
        assert!(scraper.metrics().await.is_empty());
        std::fs::write(&feed, "").unwrap();
        let (dns, app) =
            (serve_metrics(&feed, "dns", || "d".into()), serve_metrics(&feed, "app", || "a".into()));
        let asking = async {
            while scraper.metrics().await != ["d", "a"] {
                sleep(Duration::from_millis(5)).await;
            }
            let mut odd = UnixStream::connect(path(&feed, "dns")).await.unwrap();
            odd.write_all(b"what?\n").await.unwrap();
            let mut told = String::new();
            odd.read_to_string(&mut told).await.unwrap();
            (told, ask(&feed, "dns", Question::Reload).await)
        };
        let (told, reload) = tokio::select! {
            never = dns => match never {},
            never = app => match never {},
            answers = asking => answers,
        };
        assert_eq!(Answer::parse(&told), Some(Answer::Refused(NotAQuestion.to_string())));
        assert_eq!(reload.unwrap_err().kind(), ErrorKind::UnexpectedEof);
    }
}
