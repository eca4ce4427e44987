//! Whoever asks a running proxy something over the socket beside the feed's: to read its file again, what it has counted, its load,
//! what it would do with a request, or what has become of one.
//!
//! All of it is the main thread's: the workers, who have the data, notice nothing of a scrape.

use std::future::pending;

use feed::control::{Answer, Desk, PROXY, Question, path};

use crate::{
    config::Args,
    explain::{explain, recall},
    proxy::Proxy,
};

/// Answers whoever asks, one after another; never ends. A proxy with neither a file nor a sidecar is asked nothing.
pub(crate) async fn serve(proxy: &Proxy, args: &Args) {
    if args.config.is_none() && !proxy.has_sidecar() {
        return pending().await;
    }
    let feed = &proxy.plan().fixed.feed;
    let mut desk = match Desk::open(feed, PROXY).await {
        Ok(desk) => desk,
        Err(error) => {
            tracing::warn!(
                path = %path(feed, PROXY).display(), %error,
                "neither metrics nor `concertina proxy reload` reach this proxy; SIGUSR1 and SIGHUP do"
            );
            return pending().await;
        }
    };
    // Room that every scrape needs.
    let mut last = String::new();
    loop {
        let asked = desk.next().await;
        let is_scrape = asked.question == Question::Metrics;
        let answer = match &asked.question {
            Question::Metrics => Answer::Done(proxy.metrics_in_place_of(std::mem::take(&mut last))),
            Question::Load => Answer::Done(proxy.load()),
            Question::Explain(inquiry) => Answer::Done(explain(proxy, inquiry).await),
            Question::Recall(which) => Answer::Done(recall(proxy, which).await),
            Question::Reload if args.config.is_none() => {
                Answer::Refused("it was started without --config, so there is no file to read".to_owned())
            }
            Question::Reload => match proxy.reload(args).await {
                Ok(change) => Answer::Done(change.to_string()),
                Err(error) => Answer::Refused(format!("{error:#}")),
            },
        };
        desk.answer(asked, &answer).await;
        if let Answer::Done(text) = answer
            && is_scrape
        {
            last = text;
        }
    }
}
