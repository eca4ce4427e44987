//! A connection in memory, within one thread: between an HTTP/2 stream and the exchange that serves it, or that it serves.
//!
//! It ends as a socket does: in order, after which the other way goes on, or broken, which is never taken for an end.

use std::{
    cell::{RefCell, RefMut},
    io::{self, IoSlice},
    rc::Rc,
    task::{Context, Poll, Waker, ready},
};

use bytes::{Buf, BytesMut};
use tokio::io::ReadBuf;

/// Bytes that wait in one way: what is read of a body at once.
const LANE_BYTES_MAX: usize = 64 * 1024;

/// One side of a connection. Dropping it ends both ways: what this side has sent is still read.
#[derive(Debug)]
pub(crate) struct Memory {
    /// What comes to the one side, and to the other.
    lanes: Rc<[RefCell<Lane>; 2]>,
    side: usize,
}

/// One way.
#[derive(Debug, Default)]
struct Lane {
    bytes: BytesMut,
    end: Option<End>,
    /// Nobody reads any more.
    is_deaf: bool,
    reader: Option<Waker>,
    writer: Option<Waker>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum End {
    Orderly,
    Broken,
}

impl Lane {
    fn end(&mut self, end: End) {
        if self.end.is_none() || end == End::Broken {
            self.end = Some(end);
        }
        if end == End::Broken {
            self.bytes.clear();
        }
        wake(&mut self.reader);
    }
}

fn wake(waker: &mut Option<Waker>) {
    if let Some(waker) = waker.take() {
        waker.wake();
    }
}

/// Both sides of a connection.
pub(crate) fn pair() -> (Memory, Memory) {
    let lanes = Rc::<[RefCell<Lane>; 2]>::default();
    (Memory { lanes: Rc::clone(&lanes), side: 0 }, Memory { lanes, side: 1 })
}

impl Memory {
    fn incoming(&self) -> RefMut<'_, Lane> {
        self.lanes[self.side].borrow_mut()
    }

    fn outgoing(&self) -> RefMut<'_, Lane> {
        self.lanes[1 - self.side].borrow_mut()
    }

    /// Whether there is something to read, the end included.
    pub(crate) fn poll_recv_ready(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        let lane = &mut *self.incoming();
        if !lane.bytes.is_empty() || lane.end.is_some() {
            return Poll::Ready(Ok(()));
        }
        lane.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Ready when the other side sends nothing more, be there something to read or not.
    pub(crate) fn poll_ended(&mut self, context: &mut Context<'_>) -> Poll<()> {
        let lane = &mut *self.incoming();
        if lane.end.is_some() {
            return Poll::Ready(());
        }
        lane.reader = Some(context.waker().clone());
        Poll::Pending
    }

    /// Looks at what has come, and takes as much of it as is said; nothing is the end.
    pub(crate) fn poll_read_with<T>(
        &mut self,
        context: &mut Context<'_>,
        read: impl FnOnce(&[u8]) -> (usize, T),
    ) -> Poll<io::Result<T>> {
        let lane = &mut *self.incoming();
        if lane.bytes.is_empty() {
            match lane.end {
                None => {
                    lane.reader = Some(context.waker().clone());
                    return Poll::Pending;
                }
                Some(End::Broken) => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
                Some(End::Orderly) => {}
            }
        }
        let (count, value) = read(&lane.bytes);
        lane.bytes.advance(count);
        if count > 0 {
            wake(&mut lane.writer);
        }
        Poll::Ready(Ok(value))
    }

    /// Reads once; 0 is the end.
    pub(crate) fn poll_recv(
        &mut self,
        context: &mut Context<'_>,
        into: &mut [u8],
    ) -> Poll<io::Result<usize>> {
        self.poll_read_with(context, |bytes| {
            let count = bytes.len().min(into.len());
            into[..count].copy_from_slice(&bytes[..count]);
            (count, count)
        })
    }

    /// Reads once into a buffer that need not be cleared.
    pub(crate) fn poll_read(
        &mut self,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.poll_read_with(context, |bytes| {
            let count = bytes.len().min(into.remaining());
            into.put_slice(&bytes[..count]);
            (count, ())
        })
    }

    /// Takes all that has come, behind what is there already; 0 is the end. Where nothing is there the lane hands its memory over.
    pub(crate) fn poll_take(
        &mut self,
        context: &mut Context<'_>,
        into: &mut BytesMut,
    ) -> Poll<io::Result<usize>> {
        if !into.is_empty() {
            return self.poll_read_with(context, |bytes| {
                into.extend_from_slice(bytes);
                (bytes.len(), bytes.len())
            });
        }
        ready!(self.poll_read_with(context, |_| (0, ())))?;
        let lane = &mut *self.incoming();
        std::mem::swap(&mut lane.bytes, into);
        wake(&mut lane.writer);
        Poll::Ready(Ok(into.len()))
    }

    /// Hands over what is sent first, which fits.
    pub(crate) fn begin(&self, bytes: BytesMut) {
        debug_assert!(bytes.len() <= LANE_BYTES_MAX && self.unread_bytes() == 0, "it is the first");
        self.outgoing().bytes = bytes;
    }

    /// Writes as much as there is room for.
    pub(crate) fn poll_send(&mut self, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_send_slices(context, &[IoSlice::new(bytes)])
    }

    /// The same for several slices.
    pub(crate) fn poll_send_slices(
        &mut self,
        context: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let lane = &mut *self.outgoing();
        if lane.is_deaf || lane.end.is_some() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let asked: usize = slices.iter().map(|slice| slice.len()).sum();
        let room = LANE_BYTES_MAX.saturating_sub(lane.bytes.len());
        let mut written = 0;
        lane.bytes.reserve(asked.min(room));
        for slice in slices {
            let count = slice.len().min(room - written);
            lane.bytes.extend_from_slice(&slice[..count]);
            written += count;
        }
        if written == 0 && asked > 0 {
            lane.writer = Some(context.waker().clone());
            return Poll::Pending;
        }
        wake(&mut lane.reader);
        Poll::Ready(Ok(written))
    }

    /// What the other side has not read yet.
    pub(crate) fn unread_bytes(&self) -> usize {
        self.outgoing().bytes.len()
    }

    /// Says that nothing more will be sent.
    pub(crate) fn finish(&self) {
        self.outgoing().end(End::Orderly);
    }

    /// Breaks both ways: what has not been read is lost, and the other side sees no end.
    pub(crate) fn abort(&self) {
        self.outgoing().end(End::Broken);
        self.close_incoming();
    }

    fn close_incoming(&self) {
        let lane = &mut *self.incoming();
        lane.is_deaf = true;
        wake(&mut lane.writer);
    }
}

impl Drop for Memory {
    fn drop(&mut self) {
        self.finish();
        self.close_incoming();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn context() -> Context<'static> {
        Context::from_waker(Waker::noop())
    }

    fn read(memory: &mut Memory, most: usize) -> Poll<io::Result<Vec<u8>>> {
        let mut room = vec![0; most];
        memory.poll_recv(&mut context(), &mut room).map_ok(|count| room[..count].to_vec())
    }

    fn error(polled: Poll<io::Result<Vec<u8>>>) -> Option<io::ErrorKind> {
        match polled {
            Poll::Ready(Err(error)) => Some(error.kind()),
            _ => None,
        }
    }

    #[test]
    fn bytes_arrive_in_order_and_one_way_ends_while_the_other_goes_on() {
        let (mut near, mut far) = pair();
        assert!(read(&mut far, 9).is_pending() && far.poll_recv_ready(&mut context()).is_pending());
        let slices = [IoSlice::new(b"ab"), IoSlice::new(b"c")];
        assert!(matches!(near.poll_send_slices(&mut context(), &slices), Poll::Ready(Ok(3))));
        assert!(matches!(read(&mut far, 2), Poll::Ready(Ok(bytes)) if bytes == b"ab"));
        near.finish();
        assert!(matches!(read(&mut far, 2), Poll::Ready(Ok(bytes)) if bytes == b"c"));
        assert!(matches!(read(&mut far, 2), Poll::Ready(Ok(bytes)) if bytes.is_empty()), "the end");
        assert!(matches!(far.poll_send(&mut context(), b"d"), Poll::Ready(Ok(1))));
        assert!(matches!(read(&mut near, 2), Poll::Ready(Ok(bytes)) if bytes == b"d"));
        assert!(
            matches!(near.poll_send(&mut context(), b"e"), Poll::Ready(Err(_))),
            "it said that it was over"
        );
    }

    #[test]
    fn what_is_taken_whole_comes_in_order_behind_what_is_there_and_makes_room() {
        let (mut near, mut far) = pair();
        near.begin(BytesMut::from(&b"ab"[..]));
        let mut taken = BytesMut::new();
        for (sent, all) in [(&b"c"[..], &b"abc"[..]), (b"d", b"abcd")] {
            assert!(near.poll_send(&mut context(), sent).is_ready());
            assert!(matches!(far.poll_take(&mut context(), &mut taken), Poll::Ready(Ok(1..))));
            assert_eq!(taken, all);
        }
        assert!(far.poll_take(&mut context(), &mut BytesMut::new()).is_pending());
        assert!(near.poll_send(&mut context(), &vec![7; LANE_BYTES_MAX]).is_ready());
        assert!(near.poll_send(&mut context(), b"e").is_pending());
        taken.clear();
        assert!(matches!(far.poll_take(&mut context(), &mut taken), Poll::Ready(Ok(LANE_BYTES_MAX))));
        assert!(near.poll_send(&mut context(), b"e").is_ready(), "there is room again");
        near.finish();
        assert!(matches!(far.poll_take(&mut context(), &mut taken), Poll::Ready(Ok(1))));
        taken.clear();
        assert!(matches!(far.poll_take(&mut context(), &mut taken), Poll::Ready(Ok(0))), "the end");
        near.abort();
        assert!(matches!(far.poll_take(&mut context(), &mut taken), Poll::Ready(Err(_))));
    }

    #[test]
    fn what_is_broken_has_no_end_and_what_is_dropped_has_one() {
        let (mut near, far) = pair();
        far.abort();
        drop(far);
        assert_eq!(error(read(&mut near, 1)), Some(io::ErrorKind::ConnectionReset));
        assert!(matches!(near.poll_send(&mut context(), b"a"), Poll::Ready(Err(_))));
        let (mut near, mut far) = pair();
        assert!(far.poll_send(&mut context(), b"a").is_ready());
        drop(far);
        assert!(matches!(read(&mut near, 9), Poll::Ready(Ok(bytes)) if bytes == b"a"));
        assert!(matches!(read(&mut near, 9), Poll::Ready(Ok(bytes)) if bytes.is_empty()));
    }

    #[test]
    fn so_much_waits_and_no_more() {
        let (mut near, mut far) = pair();
        let all = vec![7; LANE_BYTES_MAX + 1];
        assert!(matches!(near.poll_send(&mut context(), &all), Poll::Ready(Ok(LANE_BYTES_MAX))));
        assert!(near.poll_send(&mut context(), &all[..1]).is_pending());
        assert_eq!(near.unread_bytes(), LANE_BYTES_MAX);
        assert!(matches!(read(&mut far, 1), Poll::Ready(Ok(_))));
        assert!(matches!(near.poll_send(&mut context(), &all[..2]), Poll::Ready(Ok(1))));
    }
}
