//! One question to a sidecar: connect, ask, read the answers.

use std::path::Path;

use futures_util::{SinkExt, StreamExt};
use tokio::net::UnixStream;
use tokio_util::codec::Framed;

use crate::{
    FromSidecar, ToSidecar,
    frame::{ConsumerCodec, FeedError},
};

/// The answers to a question, of which there may be one or many.
#[derive(Debug)]
pub struct Answers(Framed<UnixStream, ConsumerCodec>);

/// Asks the sidecar at `path`.
///
/// # Errors
/// Nobody listens there, or the socket fails.
pub async fn ask(path: &Path, question: ToSidecar) -> Result<Answers, FeedError> {
    let mut socket = Framed::new(UnixStream::connect(path).await?, ConsumerCodec::default());
    socket.send(question).await?;
    Ok(Answers(socket))
}

impl Answers {
    /// The next answer.
    ///
    /// # Errors
    /// The sidecar refused, closed, or the socket failed.
    pub async fn next(&mut self) -> Result<FromSidecar, FeedError> {
        match self.0.next().await.ok_or(FeedError::Closed)?? {
            FromSidecar::Refused { why } => Err(FeedError::Refused(why)),
            answer => Ok(answer),
        }
    }
}
