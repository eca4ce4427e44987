//! Pipes that carry large bodies from socket to socket inside the kernel (splice(2)): their bytes are never copied to the
//! proxy's memory.

use std::{
    cell::{Cell, RefCell},
    io,
    os::fd::OwnedFd,
    rc::Rc,
    task::{Context, Poll, ready},
};

use rustix::pipe::{PipeFlags, SpliceFlags, fcntl_setpipe_size, pipe_with, splice};

use crate::socket::Socket;

/// What a pipe is asked to hold. The kernel counts pages, of which a segment may fill a small part: with its usual 64 KiB a pipe
/// is full after a few segments. An unprivileged process gets 64 MiB of such pipes, then small ones (pipe(7)).
const PIPE_BYTES: usize = 256 * 1024;

/// Pipes that a worker keeps for reuse; two descriptors each.
const KEPT_COUNT_MAX: usize = 128;

/// A pipe, empty between transfers.
#[derive(Debug)]
pub(crate) struct Pipe {
    output: OwnedFd,
    input: OwnedFd,
    /// What is inside.
    bytes: usize,
    /// How many pipes the worker has.
    count: Rc<Cell<usize>>,
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.count.set(self.count.get() - 1);
    }
}

impl Pipe {
    fn new(count: &Rc<Cell<usize>>) -> io::Result<Self> {
        let (output, input) = pipe_with(PipeFlags::CLOEXEC | PipeFlags::NONBLOCK)?;
        // Refused to those who have many: theirs stay as they are.
        let _ = fcntl_setpipe_size(&input, PIPE_BYTES);
        count.set(count.get() + 1);
        Ok(Self { output, input, bytes: 0, count: count.clone() })
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.bytes == 0
    }

    /// What is inside.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Takes in up to `bytes_max` of what there is; 0 is the end.
    ///
    /// A pipe that is full would look like a socket that is empty, therefore only an empty one is filled.
    pub(crate) fn poll_fill(
        &mut self,
        context: &mut Context<'_>,
        from: &mut Socket,
        bytes_max: usize,
    ) -> Poll<io::Result<usize>> {
        debug_assert!(self.is_empty() && bytes_max > 0);
        let bytes_max = bytes_max.min(PIPE_BYTES);
        let fill = |socket: std::os::fd::BorrowedFd<'_>| {
            splice(socket, None, &self.input, None, bytes_max, SpliceFlags::NONBLOCK)
        };
        let count = ready!(from.poll_read_with(context, fill))?;
        self.bytes = count;
        Poll::Ready(Ok(count))
    }

    /// Writes once of what is inside.
    pub(crate) fn poll_drain(
        &mut self,
        context: &mut Context<'_>,
        to: &mut Socket,
    ) -> Poll<io::Result<usize>> {
        let drain = |socket: std::os::fd::BorrowedFd<'_>| {
            splice(&self.output, None, socket, None, self.bytes, SpliceFlags::NONBLOCK)
        };
        let count = ready!(to.poll_write_with(context, drain))?;
        if count == 0 {
            return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
        }
        self.bytes -= count;
        Poll::Ready(Ok(count))
    }
}

/// The pipes of a worker: those not in use, the most recent on top, and how many there are in all.
#[derive(Debug)]
pub(crate) struct Pipes {
    kept: RefCell<Vec<Pipe>>,
    count: Rc<Cell<usize>>,
    count_max: usize,
}

impl Pipes {
    /// At most so many at a time, kept ones included: descriptors are for connections first.
    pub(crate) fn new(count_max: usize) -> Self {
        Self { kept: RefCell::default(), count: Rc::default(), count_max }
    }

    /// None when there are to be no more: bytes are copied then.
    pub(crate) fn take(&self) -> Option<Pipe> {
        let kept = self.kept.borrow_mut().pop();
        kept.or_else(|| (self.count.get() < self.count_max).then(|| Pipe::new(&self.count).ok())?)
    }

    /// One with bytes inside belongs to a transfer that was broken off, and goes with them.
    pub(crate) fn put(&self, pipe: Pipe) {
        let mut kept = self.kept.borrow_mut();
        if pipe.is_empty() && kept.len() < KEPT_COUNT_MAX {
            kept.push(pipe);
        }
    }

    /// Closes those not in use.
    pub(crate) fn clear(&self) {
        self.kept.borrow_mut().clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_are_as_many_pipes_as_may_be_and_no_more() {
        let pipes = Pipes::new(2);
        let (first, _second) = (pipes.take().unwrap(), pipes.take().unwrap());
        assert!(pipes.take().is_none());
        pipes.put(first);
        let again = pipes.take();
        assert!(again.is_some() && pipes.take().is_none());
        drop(again);
        assert!(pipes.take().is_some());
    }
}
