//! What an exchange tells of itself at its stages: how long it took, and what the access log is to know. Without a log there is no record.
//! The clock is read three times a request, more often only where it waits or there is a log. Bytes are counted once for each exchange.

use std::time::Instant;

use super::{
    client::Session,
    exchange::{Exchange, Outcome, RequestSide, Step},
    timing::Timing,
};
use crate::{
    log::{
        Record,
        record::{End, Tried},
    },
    stats::Phase,
};

impl Exchange {
    /// A request begins whose first bytes may be there.
    pub(crate) fn begin_record(&mut self, session: &Session) {
        let started = Instant::now();
        self.timing = Timing::begin(started);
        self.record = session.worker.log.as_ref().map(|_| Record {
            scheme: session.client.scheme(),
            is_http2: session.client.is_http2(),
            ..Record::new(session.peer, session.role, started)
        });
    }

    /// Takes note of where the last stage has led.
    #[inline]
    pub(super) fn note_step(&mut self, step: &Step, session: &Session) {
        if self.timing.wait.is_some() {
            self.end_wait(step, session);
        }
        match step {
            Step::Connect => self.timing.wait = Some((Phase::Connect, Instant::now())),
            Step::Refuse(refusal) => {
                self.timing.is_refused = true;
                self.notes.refusal = Some(*refusal);
            }
            Step::End(Outcome::Abort) => self.end_timing(End::Truncated, session),
            Step::Linger | Step::End(_) => self.end_timing(End::ClientGone, session),
            Step::Pick | Step::Relay | Step::Rest => {}
        }
        if self.record.is_some() {
            self.record_step(step, session);
        }
        if matches!(step, Step::End(_)) {
            self.count_bytes(session);
        }
    }

    /// Takes note that it waits for an upstream.
    pub(super) fn note_queued(&mut self) {
        self.timing.wait.get_or_insert_with(|| (Phase::Queue, Instant::now()));
    }

    fn end_wait(&mut self, step: &Step, session: &Session) {
        let Some((phase, since)) = self.timing.wait.take() else { return };
        // A connection that failed says nothing of how long it takes to connect.
        if phase == Phase::Queue || matches!(step, Step::Relay) {
            let time = since.elapsed();
            session.worker.note_time(session.role, phase, time);
            let times = &mut self.notes.times;
            *if phase == Phase::Queue { &mut times.queue } else { &mut times.connect } = Some(time);
        }
    }

    /// Times a request that is over, if it was answered, and keeps what is kept of it. How long a tunnel stood is no latency.
    fn end_timing(&mut self, unless_whole: End, session: &Session) {
        let Some(started) = self.timing.started.take() else { return };
        if self.timing.is_refused || (self.is_answered() && !self.is_tunnel()) {
            let whole = started.elapsed();
            session.worker.note_time(session.role, Phase::Whole, whole);
            self.timing.whole = Some(whole);
        }
        self.keep(started, unless_whole, session);
    }

    /// Counts what has moved of the bodies of an exchange that is over.
    fn count_bytes(&self, session: &Session) {
        let stats = &session.worker.stats;
        stats.bytes_in.add(self.request.half.data_bytes_in());
        stats.bytes_out.add(self.response.half.data_bytes_out());
    }

    /// Takes note of the first byte of a response.
    #[inline]
    pub(super) fn note_first_byte(&mut self, session: &Session) {
        let Some(started) = self.timing.started else { return };
        let time = started.elapsed();
        session.worker.note_time(session.role, Phase::FirstByte, time);
        self.notes.times.first_byte = Some(time);
        if let Some(record) = &mut self.record {
            record.phases.first_byte.get_or_insert(time);
        }
    }

    fn record_step(&mut self, step: &Step, session: &Session) {
        let Some(record) = &mut self.record else { return };
        match step {
            Step::Pick if record.phases.head.is_some() => record.retries += 1,
            Step::Pick => {
                record.role = session.role;
                record.phases.head = Some(record.started.elapsed());
                note_request(record, &self.request);
            }
            Step::Connect | Step::Relay => {
                let endpoint = self.lease.as_ref().map(|lease| &lease.upstream.endpoint);
                record.upstream = endpoint.map(|e| Tried { instance: e.id.instance, addr: e.addr.clone() });
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
            Step::Rest => {}
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
        let response = &self.response.half;
        if !matches!(record.end, End::Refused(_)) {
            record.end = if self.is_answered() { End::Done } else { unless_whole };
            record.status = response.head.map(|head| head.status);
            record.bytes_out = response.data_bytes_out();
        }
        (record.id, record.trace) = (self.id, self.trace);
        record.bytes_in = self.request.half.data_bytes_in();
        record.phases.end = self.timing.whole.unwrap_or_else(|| record.started.elapsed());
        if let Some(log) = &session.worker.log {
            log.note(record, &session.worker.stats);
        }
    }

    /// Takes the first line of a request that has not come as far as an upstream, and has not been refused: what is in the buffer then may be
    /// another one.
    fn note_beheaded(&mut self) {
        let is_unknown = |record: &&mut Record| record.phases.head.is_none() && record.status.is_none();
        if let Some(record) = self.record.as_mut().filter(is_unknown) {
            note_request(record, &self.request);
        }
    }
}

/// Takes what there is of the first line. That of a head which was parsed names the version that its upstream is told.
fn note_request(record: &mut Record, request: &RequestSide) {
    if let Some(buffer) = &request.half.buffer {
        record.note_line(buffer.filled());
    }
    record.version = request.half.head.map(|head| head.version).or(record.version);
}
