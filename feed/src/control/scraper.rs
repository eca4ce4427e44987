//! The asker of metrics: one connection to each process, from one scrape to the next.

use std::{
    cell::RefCell,
    io::{self, ErrorKind},
    path::PathBuf,
};

use futures_util::future::join_all;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::UnixStream,
    time::timeout,
};

use super::{ANSWER_BYTES_MAX, Answer, COUNTING, KEEP, Question, ask, path};

/// Bytes of the line before a text: a word and a number.
const HEAD_BYTES_MAX: u64 = 32;

/// Who asks the processes whose feed is there what they have counted. A connection for each scrape would cost them more than its text.
#[derive(Debug)]
pub struct Scraper {
    feed: PathBuf,
    kept: [RefCell<Option<UnixStream>>; COUNTING.len()],
}

impl Scraper {
    /// Asks beside this feed.
    pub fn new(feed: PathBuf) -> Self {
        Self { feed, kept: Default::default() }
    }

    /// What they have counted, a document each.
    pub async fn metrics(&self) -> Vec<String> {
        let asking = COUNTING.iter().zip(&self.kept).map(|(program, kept)| {
            let asking = self.ask(program, kept);
            async { timeout(Question::Metrics.timeout(), asking).await.ok()?.ok() }
        });
        let answers = join_all(asking).await.into_iter().flatten();
        let document = |answer| match answer {
            Answer::Done(document) => Some(document),
            Answer::Refused(_) => None,
        };
        answers.filter_map(document).collect()
    }

    async fn ask(&self, program: &str, kept: &RefCell<Option<UnixStream>>) -> io::Result<Answer> {
        if let Some(mut stream) = kept.take()
            && let Ok(answer) = ask_once(&mut stream).await
        {
            kept.replace(Some(stream));
            return Ok(answer);
        }
        // It is the first time, or the process is another one by now.
        let mut stream = UnixStream::connect(path(&self.feed, program)).await?;
        match ask_once(&mut stream).await {
            Ok(answer) => {
                kept.replace(Some(stream));
                Ok(answer)
            }
            // One of before answers on connections of their own alone.
            Err(_) => ask(&self.feed, program, Question::Metrics).await,
        }
    }
}

/// Asks, and leaves the connection as it was.
async fn ask_once(stream: &mut UnixStream) -> io::Result<Answer> {
    stream.write_all(format!("{KEEP}{}\n", Question::Metrics.line()).as_bytes()).await?;
    let mut answer = BufReader::new(stream.take(HEAD_BYTES_MAX + ANSWER_BYTES_MAX));
    let mut head = String::new();
    answer.read_line(&mut head).await?;
    let (word, bytes) = parse_head(&head).ok_or(ErrorKind::InvalidData)?;
    let mut text = vec![0; bytes];
    answer.read_exact(&mut text).await?;
    let text = String::from_utf8(text).map_err(|_| ErrorKind::InvalidData)?;
    Answer::of(word, text).ok_or(ErrorKind::InvalidData.into())
}

/// The word, and how long the text is.
fn parse_head(head: &str) -> Option<(&str, usize)> {
    let (word, bytes) = head.strip_suffix('\n')?.split_once(' ')?;
    let bytes: usize = bytes.parse().ok()?;
    (bytes as u64 <= ANSWER_BYTES_MAX).then_some((word, bytes))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::time::sleep;

    use super::*;
    use crate::control::{Desk, serve_metrics};

    /// Until there is somebody to be asked.
    async fn told(scraper: &Scraper) -> Vec<String> {
        loop {
            let told = scraper.metrics().await;
            if !told.is_empty() {
                return told;
            }
            sleep(Duration::from_millis(5)).await;
        }
    }

    #[test]
    fn an_answer_of_so_many_bytes_is_read_and_no_longer_one() {
        let parse = |bytes| parse_head(&format!("done {bytes}\n")).map(|(_, bytes)| bytes as u64);
        let longest = format!("refused {ANSWER_BYTES_MAX}\n");
        assert!(longest.len() as u64 <= HEAD_BYTES_MAX);
        assert_eq!(
            [0, ANSWER_BYTES_MAX, ANSWER_BYTES_MAX + 1].map(parse),
            [Some(0), Some(ANSWER_BYTES_MAX), None]
        );
        for odd in ["", "done", "done\n", "done 1", "done x\n", "refused\nwhat\n"] {
            assert_eq!(parse_head(odd), None, "{odd:?}");
        }
    }

    #[tokio::test]
    async fn one_connection_is_enough_for_many_scrapes_and_another_process_gets_another() {
        let place = tempfile::tempdir().unwrap();
        let feed = place.path().join("feed.sock");
        std::fs::write(&feed, "").unwrap();
        let scraper = Scraper::new(feed.clone());
        assert!(scraper.metrics().await.is_empty());
        // As long as what a process may say, and nothing.
        for text in ["x\n".repeat(100_000), String::new()] {
            let mut desk = Desk::open(&feed, "proxy").await.unwrap();
            let answering = async {
                for _ in 0..5 {
                    let asked = desk.next().await;
                    assert!(asked.is_kept && asked.question == Question::Metrics);
                    desk.answer(asked, &Answer::Done(text.clone())).await;
                    assert_eq!(desk.kept.len(), 1);
                }
                desk
            };
            let asking = async {
                for _ in 0..5 {
                    assert_eq!(told(&scraper).await, [text.as_str()]);
                }
            };
            let (desk, ()) = tokio::join!(answering, asking);
            drop(desk);
        }
    }

    #[tokio::test]
    async fn a_process_of_before_is_asked_on_a_connection_for_each_scrape() {
        let place = tempfile::tempdir().unwrap();
        let feed = place.path().join("feed.sock");
        let listener = tokio::net::UnixListener::bind(path(&feed, "proxy")).unwrap();
        let before = async {
            loop {
                let mut asker = listener.accept().await.unwrap().0;
                let mut line = String::new();
                BufReader::new(&mut asker).read_line(&mut line).await.unwrap();
                let answer: &[u8] = if line == "metrics\n" { b"done\nold\n" } else { b"refused\nwhat?\n" };
                asker.write_all(answer).await.unwrap();
            }
        };
        let scraper = Scraper::new(feed.clone());
        let asking = async {
            for _ in 0..2 {
                assert_eq!(told(&scraper).await, ["old"]);
            }
        };
        tokio::select! {
            () = before => {}
            () = asking => {}
        }
    }

    #[tokio::test]
    async fn who_asks_once_is_told_beside_those_that_ask_again() {
        let place = tempfile::tempdir().unwrap();
        let feed = place.path().join("feed.sock");
        std::fs::write(&feed, "").unwrap();
        let serving = serve_metrics(&feed, "app", || "a".into());
        let asking = async {
            let scrapers: Vec<_> = (0..6).map(|_| Scraper::new(feed.clone())).collect();
            for scraper in scrapers.iter().chain(&scrapers) {
                // Of so many, some have lost their place, and connect anew.
                assert_eq!(told(scraper).await, ["a"]);
                let once = ask(&feed, "app", Question::Metrics).await.unwrap();
                assert_eq!(once, Answer::Done("a".into()));
            }
        };
        tokio::select! {
            never = serving => match never {},
            () = asking => {}
        }
    }
}
