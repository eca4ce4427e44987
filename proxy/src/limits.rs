//! Every limit of the proxy, with its reason. What exceeds one is refused by name; see [`crate::http1::Reject`].

use std::time::Duration;

/// Room for a message head and, at first, the body bytes behind it. What HAProxy and nginx grant (16 KiB, 4 × 8 KiB);
/// offsets into it fit in 16 bits.
pub const HEAD_BYTES_MAX: usize = 16 * 1024;

/// Fields in one head. Real clients send about 20; the sets of kept and dropped fields are one 128-bit mask.
pub const FIELDS_COUNT_MAX: usize = 100;

/// Bytes of a request target: what nginx grants one line of a head, and most origins no more.
pub const TARGET_BYTES_MAX: usize = 8 * 1024;

/// Bytes of one field name. No registered name is over 50.
pub const FIELD_NAME_BYTES_MAX: usize = 256;

/// Bytes read at a time from an upstream. A response of 64 KiB then takes one read and one write where the kernel has it whole.
pub const RESPONSE_BUFFER_BYTES: usize = 64 * 1024;

/// Bytes that a TLS record may carry (RFC 8446 5.1).
pub const RECORD_BYTES_MAX: usize = 16 * 1024;

/// Bytes that sealing may add to a record: its head, and what RFC 8446 5.2 grants the rest.
pub const RECORD_OVERHEAD_BYTES_MAX: usize = 5 + 256;

/// Sealed bytes that are read or written at a time: a response of [`RESPONSE_BUFFER_BYTES`], whose head makes a fifth record of it, and
/// messages of TLS itself.
pub const SEALED_BUFFER_BYTES: usize = 5 * (RECORD_BYTES_MAX + RECORD_OVERHEAD_BYTES_MAX) + 4 * 1024;

/// Handshakes that a worker computes before its other clients have their turn: each takes 130 µs, so that nobody waits for longer than
/// a millisecond on that account.
pub const HANDSHAKES_COUNT_MAX: usize = 8;

/// Handshakes of a worker that clients have begun and not ended: each holds 30 KiB, all of them 30 MiB. At 7,500 a second on a core they come
/// to an eighth of a second, and an honest one lasts two round trips.
pub const HANDSHAKES_UNDER_WAY_MAX: usize = 1024;

/// Certificates whose ends are told: a scrape stays short, and those that end first are what it is for.
pub const CERTIFICATES_TOLD_COUNT_MAX: usize = 1000;

/// How near the end of a certificate is warned of: ACME clients renew a month before it, and two weeks are time to see why one did not.
pub const CERTIFICATE_ENDS_SOON_SECONDS: u64 = 14 * 24 * 3600;

/// Bytes that rustls keeps of a session in a ticket, and those of the ticket: a host's name and secrets, without any client's certificate, are
/// below 500.
pub const TICKET_STATE_BYTES_MAX: usize = 1024;
/// See [`TICKET_STATE_BYTES_MAX`]. What is longer is not looked into.
pub const TICKET_BYTES_MAX: usize = TICKET_STATE_BYTES_MAX + 56;

/// Sessions that one worker keeps of one upstream to resume them: as many tickets as rustls keeps of one server.
pub const TLS_ORIGIN_SESSIONS_COUNT_MAX: usize = 8;

/// The rest of a body from which on it is moved by splice(2). What is left of 64 KiB is cheaper to copy through a warm buffer
/// than to move page by page.
pub const SPLICE_BYTES_MIN: u64 = 64 * 1024;

/// Slices in one write: a head with a dozen cuts and every field that can be added, or a run of chunks whose extensions are cut
/// out.
pub const PIECES_COUNT_MAX: usize = 40;

/// Bytes of a client's X-Request-ID: as long as a SHA-256 in hexadecimal; UUIDs have 36. A longer one is replaced, for each is kept
/// in records of fixed size.
pub const REQUEST_ID_BYTES_MAX: usize = 64;

/// Bytes of a `traceparent` of version 00, and the least of every later version (W3C Trace Context Level 2, 3.2.2 and 4.3).
pub const TRACEPARENT_BYTES: usize = 55;

/// Digits of a chunk size: 13 hex digits are 52 bits, the largest integer that every peer reads alike, those included
/// that parse into floating point.
pub const CHUNK_SIZE_DIGITS_MAX: usize = 13;

/// Bytes of extensions on all chunks of one body. They carry nothing that anybody uses, and are dropped.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 4 * 1024;

/// Bytes of one body's trailer section.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Bytes of a trailer's name, which is held until it is whole. No registered one is over 50; a longer one is dropped.
pub const TRAILER_NAME_BYTES_MAX: usize = 64;

/// Names in Connection, beside its own options, that are remembered until the trailers come. With more, no trailer passes:
/// no honest sender names so many, and each costs every body room.
pub const NOMINATED_TRAILERS_COUNT_MAX: usize = 4;

/// Idle connections kept to one upstream by one worker.
pub const POOL_IDLE_COUNT_MAX: usize = 1024;

/// Upstreams of which each may have received the request, the first included: two that vanish while they have it, and one that answers.
pub const SENT_COUNT_MAX: u8 = 3;

/// Roles that a proxy routes to: more than a cluster of thousands of nodes has, and a bound on what members can make a proxy keep.
pub const ROUTED_ROLES_COUNT_MAX: usize = 1024;

/// Proxies in front of this one that can be believed: a CDN, a firewall, two balancers and one to spare. Each may have added a
/// line of its own to what is passed on, and all must fit in [`PIECES_COUNT_MAX`].
pub const TRUSTED_HOPS_COUNT_MAX: usize = 5;

/// Bytes of a request that are read and thrown away: after a refusal, so that closing with bytes unread does not reset the connection
/// before the client has seen the answer; and after an answer whose origin reads no more, so that the client's connection can be kept.
/// Go's net/http reads as many.
pub const DISCARDED_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a method in the access log: no registered one is over 17.
pub const LOG_METHOD_BYTES_MAX: usize = 17;

/// Bytes of a target in the access log: nearly every one whole, and a record in a handful of cache lines.
pub const LOG_TARGET_BYTES_MAX: usize = 256;

/// Bytes of a host and its port in a span: nearly every one whole. Of a longer one nothing is told, for a part of it would be another.
pub const LOG_HOST_BYTES_MAX: usize = 72;

/// Records that a worker keeps until they are written: what 40,000 requests a second make in the writer's period, in 3 MB.
pub const LOG_RING_COUNT_MAX: usize = 4096;

/// Batches of 64 KiB of lines that wait for a disk or a pipe: what 40,000 requests a second make in a third of a second, in 4 MB.
pub const LOG_BATCHES_COUNT_MAX: usize = 64;

/// Spans in one message to a collector, as OpenTelemetry has it; some 500 KB.
pub const SPANS_BATCH_COUNT_MAX: usize = 512;

/// Messages that wait until the collector has taken the one before: together 2048 spans, as OpenTelemetry has it.
pub const SPANS_BATCHES_COUNT_MAX: usize = 4;

/// Bytes of a collector's answer that are looked at.
pub const SPANS_ANSWER_BYTES_MAX: usize = 16 * 1024;

/// Requests that a worker keeps of those that an upstream has failed: those of 40 s with a dozen a second, in some 800 KB. Memory is
/// touched only as they come.
pub const RECALL_FAILED_COUNT_MAX: usize = 512;

/// The same of those that were refused, or whose clients went away.
pub const RECALL_REFUSED_COUNT_MAX: usize = 256;

/// The same of the sample: of 1,000 requests a second at a worker, those of the last half a minute.
pub const RECALL_SAMPLED_COUNT_MAX: usize = 512;

/// Bytes of a host that are kept of a request: names of servers are shorter, if not those that machines make up.
pub const RECALL_HOST_BYTES_MAX: usize = 64;

/// Bytes of a path that are kept: enough to see what was asked for.
pub const RECALL_PATH_BYTES_MAX: usize = 128;

/// Upstreams that are kept of a request: as many as may have received it ([`SENT_COUNT_MAX`]), and one that refused.
pub const RECALL_ATTEMPTS_COUNT_MAX: usize = SENT_COUNT_MAX as usize + 1;

/// Draining nodes that are kept by name: more than drain at a time where one follows another.
pub const RECALL_DRAINING_COUNT_MAX: usize = 4;

/// Connections at a time for one worker, unless told otherwise: two descriptors each, below the usual limit of 20,000.
pub const CLIENTS_COUNT_MAX: usize = 16 * 1024;

/// Streams that a client of HTTP/2 may have at a time. RFC 9113 6.5.2 recommends no fewer than a hundred.
pub const H2_STREAMS_COUNT_MAX: u32 = 128;

/// Bytes of a request's body that a client of HTTP/2 may send before an upstream has taken them.
pub const H2_STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// The same of all streams of a connection: what a client can make a worker hold.
pub const H2_CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// Bytes of fields, each with the 32 that HPACK counts besides (RFC 7541 4.1): a head of [`HEAD_BYTES_MAX`] with as many fields as there may be.
/// What is longer is answered with 431 by `h2`, which keeps HPACK in step.
pub const H2_HEADERS_BYTES_MAX: u32 = 32 * 1024;

/// Streams that a client has reset before they were looked at (rapid reset, CVE-2023-44487); more end the connection.
pub const H2_RESETS_COUNT_MAX: usize = 20;

/// Streams that this proxy had to reset for a client's fault (MadeYouReset, CVE-2025-8671); more end the connection.
pub const H2_LOCAL_RESETS_COUNT_MAX: usize = 100;

/// Bytes that frames of data may fall short of 256 each, of those that no stream has looked at yet: a stream's whole window may come at once in
/// pieces of 16 bytes, as messages of gRPC do. `h2` holds some hundred bytes for each, two megabytes in all.
pub const H2_DATA_SHORTFALL_BYTES_MAX: usize = H2_STREAM_WINDOW_BYTES as usize / 16 * (256 - 16);

/// Frames of a client of HTTP/2 that ask for nothing and bring nothing, and that no answer has paid for: pings, settings, priorities, grants of
/// room, and at twice the price resets. A browser that leaves a page of a hundred streams needs 200; more than these end the connection.
/// The same holds for an upstream, whose heads cost as much, too: each may be an interim answer. What it is asked and sent pays for them.
pub const H2_CREDIT_MAX: i32 = 1000;

/// How many of them each second pays for: clients ping a few times a second, if at all.
pub const H2_CREDIT_A_SECOND: u128 = 100;

/// Bytes of a frame of an answer that are too few to pay for anything where there is little room: whoever grants it in crumbs is answered by such.
pub const H2_CRUMB_BYTES_MAX: usize = 15;

/// Room of a stream, or of the whole connection, below which a crumb may be all that its client takes.
pub const H2_ROOM_BYTES_MIN: i64 = 1024;

/// Bytes of answers of which a client may still grant the room anew for nothing: the window of one that is far away. Each message of gRPC has
/// five bytes at least, and one that is read by itself is granted anew twice, by stream and by connection.
pub const H2_UNGRANTED_BYTES_MAX: usize = 1024 * 1024;

/// How long the peer's kernel may leave what was sent to an upstream of HTTP/2 without a word: a connection whose packets are lost would
/// be given streams for a quarter of an hour.
pub const H2_ORIGIN_ACK_TIMEOUT: Duration = Duration::from_secs(10);

/// How long an upstream of HTTP/2 that has streams may say nothing before it is asked whether it is there. Its kernel acknowledges what a frozen
/// process is sent.
pub const H2_ORIGIN_SILENCE: Duration = Duration::from_secs(10);

/// How long it has for its answer.
pub const H2_ORIGIN_PONG_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it is not asked again unless it has served something since: what servers of gRPC bear without being told otherwise.
pub const H2_ORIGIN_PING_PERIOD: Duration = Duration::from_secs(5 * 60);

/// Bytes of a response of which a client has to take as many within the `body` timeout: of a hundred streams over a slow line each gets little.
pub const H2_PACE_BYTES: usize = 4 * 1024;

/// Bytes of a stream's response that wait for the client's connection.
pub const H2_SEND_BUFFER_BYTES_MAX: usize = 128 * 1024;

/// Interim answers (1xx) of a stream that wait for the client's connection, as no window bounds them. A page has one or two. Of an upstream of
/// HTTP/2 as many wait behind those that fill the client's connection; with more its stream is reset.
pub const H2_INTERIMS_COUNT_MAX: usize = 16;

/// Streams under way on one connection to an upstream of HTTP/2, where that bears more: what most servers bear. Another connection is made
/// for others, so that none waits for the congestion of one.
pub const H2_ORIGIN_STREAMS_COUNT_MAX: u32 = 100;

/// Bytes of a response that an upstream may send before its client has taken them.
pub const H2_ORIGIN_STREAM_WINDOW_BYTES: u32 = 256 * 1024;

/// The same of all streams of a connection, each of which may have all of its own: those whose clients are slow hold up no others.
pub const H2_ORIGIN_CONNECTION_WINDOW_BYTES: u32 =
    H2_ORIGIN_STREAM_WINDOW_BYTES * H2_ORIGIN_STREAMS_COUNT_MAX;

/// Bytes that one route adds to a message: a policy for scripts and a dozen short fields.
pub const CHANGED_BYTES_MAX: usize = 1024;

/// Fields that one route takes out: each costs a piece of the message.
pub const CHANGED_COUNT_MAX: usize = 16;
