//! Records in and out of rustls.

use std::io::IoSlice;

use rustls::{
    client::{ClientConnectionData, UnbufferedClientConnection},
    server::{ServerConnectionData, UnbufferedServerConnection},
    unbuffered::{ConnectionState, EncryptError, UnbufferedStatus, WriteTraffic},
};

use super::{CONTROL_BYTES, Heard, Sealed, Shelves, shelves::give_back_if_empty};
use crate::{
    buffer::Buffer,
    limits::{RECORD_BYTES_MAX, RECORD_OVERHEAD_BYTES_MAX},
};

/// A side of a connection, as rustls has it.
pub(crate) trait Side {
    /// What it knows that the other does not.
    type Data;

    /// See rustls.
    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data>;

    /// It has something to say that is sealed next, before anything is opened.
    fn has_word(&self) -> bool;
}

impl Side for UnbufferedServerConnection {
    type Data = ServerConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_word(&self) -> bool {
        self.wants_write()
    }
}

impl Side for UnbufferedClientConnection {
    type Data = ClientConnectionData;

    fn process<'c, 'i>(&'c mut self, incoming: &'i mut [u8]) -> UnbufferedStatus<'c, 'i, Self::Data> {
        self.process_tls_records(incoming)
    }

    fn has_word(&self) -> bool {
        self.wants_write()
    }
}

/// What is to be said.
#[derive(Clone, Copy)]
pub(super) enum Word<'a> {
    Nothing,
    Slices(&'a [IoSlice<'a>]),
    /// close_notify.
    End,
}

/// What one round has brought.
#[derive(Debug, Default)]
pub(super) struct Driven {
    /// So much was opened into the reader's buffer,
    pub(super) opened_bytes: usize,
    /// and so much of the writer's slices was sealed.
    pub(super) taken_bytes: usize,
}

impl<C: Side, P> Sealed<C, P> {
    /// Opens what has come whole, and seals what has to be said to it and then what is to be said.
    pub(super) fn drive(&mut self, into: &mut [u8], word: Word<'_>) -> Result<Driven, rustls::Error> {
        let Self { connection, incoming, opened, outgoing, shelf, heard, .. } = self;
        let mut driven = Driven::default();
        let result = loop {
            let filled = incoming.as_mut().map_or(&mut [][..], Buffer::filled_mut);
            let UnbufferedStatus { mut discard, state } = connection.process(filled);
            let mut result = None;
            match state {
                Ok(ConnectionState::ReadTraffic(mut traffic)) => {
                    while let Some(Ok(record)) = traffic.next_record() {
                        discard += record.discard;
                        let room =
                            if opened.is_some() { &mut [][..] } else { &mut into[driven.opened_bytes..] };
                        let (now, later) = record.payload.split_at(record.payload.len().min(room.len()));
                        room[..now.len()].copy_from_slice(now);
                        driven.opened_bytes += now.len();
                        if !later.is_empty() {
                            let buffer = opened.get_or_insert_with(|| shelf.take());
                            buffer.spare_mut()[..later.len()].copy_from_slice(later);
                            buffer.fill(later.len());
                        }
                    }
                }
                Ok(ConnectionState::EncodeTlsData(mut message)) => {
                    let buffer = outgoing.get_or_insert_with(|| shelf.take());
                    match message.encode(buffer.spare_mut()) {
                        Ok(count) => buffer.fill(count),
                        Err(error) => result = Some(Err(rustls::Error::General(error.to_string()))),
                    }
                }
                // It has not left, but it is before everything that will be sealed.
                Ok(ConnectionState::TransmitTlsData(message)) => message.done(),
                Ok(ConnectionState::PeerClosed) => *heard = Heard::End,
                Ok(ConnectionState::WriteTraffic(mut traffic)) => {
                    let sealed = seal(&mut traffic, word, outgoing, shelf);
                    result = Some(sealed.map(|taken| driven.taken_bytes = taken));
                }
                Ok(ConnectionState::BlockedHandshake | ConnectionState::Closed) => result = Some(Ok(())),
                // Early data is not accepted, and there are no other states.
                Ok(_) => result = Some(Err(rustls::Error::HandshakeNotComplete)),
                Err(error) => result = Some(Err(error)),
            }
            if let Some(buffer) = incoming {
                buffer.consume(discard);
            }
            if let Some(result) = result {
                break result;
            }
        };
        if result.is_err() {
            *heard = Heard::Nonsense;
            seal_rest(connection, incoming, outgoing, shelf);
        }
        if *heard != Heard::Nothing {
            // What comes behind an end is nothing (RFC 8446 6.1).
            if let Some(buffer) = incoming {
                buffer.clear();
            }
        }
        give_back_if_empty(incoming, shelf);
        give_back_if_empty(outgoing, shelf);
        if driven.opened_bytes > 0 || opened.is_some() {
            // What came before an error is read first.
            return Ok(driven);
        }
        result.map(|()| driven)
    }
}

/// Seals a word, or as much of it as there is room for; how much that was.
fn seal<D>(
    traffic: &mut WriteTraffic<'_, D>,
    word: Word<'_>,
    outgoing: &mut Option<Buffer>,
    shelf: &Shelves,
) -> Result<usize, rustls::Error> {
    let sealed = match word {
        Word::Nothing => Ok(0),
        Word::Slices(slices) => seal_slices(traffic, slices, outgoing, shelf),
        Word::End => {
            let outgoing = outgoing.get_or_insert_with(|| shelf.take());
            traffic.queue_close_notify(outgoing.spare_mut()).map(|count| {
                outgoing.fill(count);
                0
            })
        }
    };
    sealed.map_err(|error| rustls::Error::General(error.to_string()))
}

/// What is short is gathered into one record: each record costs as much as copying all of it.
fn seal_slices<D>(
    traffic: &mut WriteTraffic<'_, D>,
    slices: &[IoSlice<'_>],
    outgoing: &mut Option<Buffer>,
    shelf: &Shelves,
) -> Result<usize, EncryptError> {
    let (mut taken, mut position, mut start) = (0, 0, 0);
    let mut scratch = None;
    if let Some(rest) = outgoing {
        // A little that is left at the buffer's end must not look like no room.
        rest.compact();
    }
    while let Some(slice) = slices.get(position) {
        let rest = &slice[start..];
        if rest.is_empty() {
            (position, start) = (position + 1, 0);
            continue;
        }
        let outgoing = outgoing.get_or_insert_with(|| shelf.take());
        let records = outgoing.spare_mut().len().saturating_sub(CONTROL_BYTES / 2)
            / (RECORD_BYTES_MAX + RECORD_OVERHEAD_BYTES_MAX);
        if records == 0 {
            break;
        }
        let is_last = position + 1 == slices.len();
        let plain = if is_last || rest.len() >= RECORD_BYTES_MAX {
            let whole = if is_last { rest.len() } else { rest.len() / RECORD_BYTES_MAX * RECORD_BYTES_MAX };
            let plain = &rest[..whole.min(records * RECORD_BYTES_MAX)];
            start += plain.len();
            plain
        } else {
            let gathered: &mut Buffer = scratch.get_or_insert_with(|| shelf.take());
            gathered.clear();
            while let Some(slice) = slices.get(position)
                && gathered.filled().len() < RECORD_BYTES_MAX
            {
                let count = (slice.len() - start).min(RECORD_BYTES_MAX - gathered.filled().len());
                gathered.spare_mut()[..count].copy_from_slice(&slice[start..start + count]);
                gathered.fill(count);
                start += count;
                if start == slice.len() {
                    (position, start) = (position + 1, 0);
                }
            }
            gathered.filled()
        };
        let count = traffic.encrypt(plain, outgoing.spare_mut());
        outgoing.fill(count?);
        taken += plain.len();
    }
    if let Some(scratch) = scratch {
        shelf.put(scratch);
    }
    Ok(taken)
}

/// Seals what rustls has to say to what it has refused, and what it wanted to say before. What has come is
/// shown to it for its place alone: opened once more, it would be refused once more.
fn seal_rest(
    connection: &mut impl Side,
    incoming: &mut Option<Buffer>,
    outgoing: &mut Option<Buffer>,
    shelf: &Shelves,
) {
    while connection.has_word() {
        let filled = incoming.as_mut().map_or(&mut [][..], Buffer::filled_mut);
        let Ok(ConnectionState::EncodeTlsData(mut message)) = connection.process(filled).state else {
            return;
        };
        let buffer = outgoing.get_or_insert_with(|| shelf.take());
        let count = message.encode(buffer.spare_mut()).unwrap_or(0);
        buffer.fill(count);
    }
}
