//! Every limit of the proxy, with its reason. What exceeds one is refused by name; see [`crate::http1::Reject`].

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

/// The rest of a body from which on it is moved by splice(2). What is left of 64 KiB is cheaper to copy through a warm buffer
/// than to move page by page.
pub const SPLICE_BYTES_MIN: u64 = 64 * 1024;

/// Slices in one write: a head with a dozen cuts, or a run of chunks whose extensions are cut out.
pub const PIECES_COUNT_MAX: usize = 32;

/// Digits of a chunk size: 13 hex digits are 52 bits, the largest integer that every peer reads alike, those included
/// that parse into floating point.
pub const CHUNK_SIZE_DIGITS_MAX: usize = 13;

/// Bytes of extensions on all chunks of one body. They carry nothing that anybody uses, and are dropped.
pub const CHUNK_EXTENSION_BYTES_MAX: usize = 4 * 1024;

/// Bytes of one body's trailer section.
pub const TRAILER_BYTES_MAX: usize = 8 * 1024;

/// Idle connections kept to one upstream by one worker.
pub const POOL_IDLE_COUNT_MAX: usize = 1024;

/// Upstreams tried for one request, the first included.
pub const ATTEMPTS_COUNT_MAX: u8 = 3;

/// Proxies in front of this one that can be believed: a CDN, a firewall, two balancers and one to spare. Each may have added a
/// line of its own to what is passed on, and all must fit in [`PIECES_COUNT_MAX`].
pub const TRUSTED_HOPS_COUNT_MAX: usize = 5;

/// Bytes read and thrown away after a refusal, so that closing with bytes unread does not reset the connection before the
/// client has seen the answer.
pub const LINGER_BYTES_MAX: usize = 256 * 1024;

/// Bytes of a method in the access log: no registered one is over 17.
pub const LOG_METHOD_BYTES_MAX: usize = 17;

/// Bytes of a target in the access log: nearly every one whole, and a record in a handful of cache lines.
pub const LOG_TARGET_BYTES_MAX: usize = 256;

/// Records that a worker keeps until they are written: what 40,000 requests a second make in the writer's period, in 2 MB.
pub const LOG_RING_COUNT_MAX: usize = 4096;

/// Connections at a time for one worker, unless told otherwise: two descriptors each, below the usual limit of 20,000.
pub const CLIENTS_COUNT_MAX: usize = 16 * 1024;
