//! What an exchange tells the access log of itself, at each of its stages. Without a log there is no record, and a stage costs
//! one look.

use std::time::Instant;

use super::{
    exchange::{Exchange, Outcome, Step},
    http::Session,
};
use crate::log::{
    Record,
    record::{End, Tried},
};

impl Exchange {
    /// Begins the record of a request whose first bytes may be there.
    pub(crate) fn begin_record(&mut self, session: &Session) {
        let started = session.worker.log.as_ref().map(|_| Instant::now());
        self.record = started.map(|started| Record::new(session.peer, session.role, started));
    }

    /// Takes note of where the last stage has led.
    #[inline]
    pub(super) fn note_step(&mut self, step: &Step, session: &Session) {
        if self.record.is_some() {
            self.record_step(step, session);
        }
    }

    /// Takes note of the first byte of a response.
    #[inline]
    pub(super) fn note_first_byte(&mut self) {
        if let Some(record) = &mut self.record {
            record.phases.first_byte.get_or_insert_with(|| record.started.elapsed());
        }
    }

    fn record_step(&mut self, step: &Step, session: &Session) {
        let Some(record) = &mut self.record else { return };
        match step {
            Step::Pick if record.phases.head.is_some() => record.retries += 1,
            Step::Pick => {
                record.phases.head = Some(record.started.elapsed());
                record.version = self.request.head.map(|head| head.version);
                if let Some(buffer) = &self.request.buffer {
                    record.note_line(buffer.filled());
                }
            }
            Step::Connect | Step::Relay => {
                let endpoint = self.lease.as_ref().map(|lease| &lease.upstream.endpoint);
                record.upstream = endpoint.map(|e| Tried { instance: e.instance, addr: e.addr });
                if matches!(step, Step::Relay) {
                    record.phases.upstream = Some(record.started.elapsed());
                }
            }
            Step::Refuse(refusal) => {
                self.note_beheaded();
                let Some(record) = &mut self.record else { return };
                record.end = End::Refused(*refusal);
                record.status = Some(refusal.status().0);
                if record.method.bytes() != b"HEAD" {
                    record.bytes_out = refusal.reason(&session.role_name).len() as u64;
                }
            }
            Step::End(Outcome::Abort) => self.end_record(End::Truncated, session),
            Step::Linger | Step::End(_) => self.end_record(End::ClientGone, session),
        }
    }

    /// Ends the record, if it has not ended, and gives it to the log. `unless_whole` is what became of a request that was
    /// neither answered whole nor refused. Where nothing came, there was no request.
    pub(crate) fn end_record(&mut self, unless_whole: End, session: &Session) {
        self.note_beheaded();
        let Some(mut record) = self.record.take() else { return };
        if record.method.bytes().is_empty() && !self.has_more() && record.status.is_none() {
            return;
        }
        let response = &self.response;
        if !matches!(record.end, End::Refused(_)) {
            let is_whole = response.body.is_done() && response.pieces.is_written();
            record.end = if response.head.is_some() && is_whole { End::Done } else { unless_whole };
            record.status = response.head.map(|head| head.status);
            record.bytes_out = response.body.data_bytes();
        }
        record.bytes_in = self.request.body.data_bytes();
        record.phases.end = record.started.elapsed();
        let worker = &session.worker;
        if !worker.log.as_ref().is_some_and(|log| log.push(record)) {
            worker.stats.log_dropped.add(1);
        }
    }

    /// Takes the first line of a head that never became one.
    fn note_beheaded(&mut self) {
        let record = self.record.as_mut().filter(|record| record.phases.head.is_none());
        if let (Some(record), Some(buffer)) = (record, &self.request.buffer) {
            record.note_line(buffer.filled());
        }
    }
}
