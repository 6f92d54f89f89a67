//! Every bound of the client that the broker's welcome does not set, with the reason for it.

use std::time::Duration;

/// Events that a slow listener may fall behind before it loses the oldest.
pub const EVENTS_KEPT: usize = 256;

/// Messages that wait in a producer for a place in a batch; a further send waits.
pub const PRODUCER_QUEUE_MESSAGES: usize = 4_096;

/// Bytes of attributes and bodies in one batch, unless the producer asks otherwise. Well below the frame limit, and large enough that
/// the cost of a frame no longer shows.
pub const BATCH_BYTES_DEFAULT: usize = 256 * 1024;

/// Messages in one batch, unless the producer asks otherwise: a quarter of the window of unconfirmed sends, so that four are under way.
pub const BATCH_MESSAGES_DEFAULT: u32 = 256;

/// What one send may wait for its confirmation, reconnects included, unless the producer asks otherwise.
pub const CONFIRM_WITHIN_DEFAULT: Duration = Duration::from_secs(120);

/// Reads of confirms ahead of the producer's task, each of at most what is taken from QUIC at once.
pub const CONFIRMS_READ_AHEAD: usize = 8;

/// Batches are encoded one behind the other and written together up to so many bytes; one batch may be larger.
pub const WRITE_BYTES_MAX: usize = 64 * 1024;

/// The broker may spread a batch over queues where its sequences cross a multiple of this, and stores it as it is where they do not.
pub const SEQUENCE_BLOCK: u32 = 256;

/// Room for encoded batches is made for so many bytes at once.
pub const ROOM_BYTES: usize = 16 * 1024;

/// Messages that a stream lets the broker push ahead, unless it asks otherwise.
pub const STREAM_CREDIT_DEFAULT: u32 = 1_024;

/// Bytes that a stream holds for an application that does not take them; beyond it, QUIC's flow control holds the broker back.
pub const STREAM_BUFFER_BYTES_DEFAULT: usize = 16 * 1024 * 1024;

/// Delivery frames that wait for the application, beside the bound in bytes.
pub const STREAM_FRAMES_READ_AHEAD: usize = 64;

/// Settlements that wait to be written to one stream; a further one waits.
pub const SETTLEMENTS_QUEUED: usize = 1_024;

/// Settlements joined into one write.
pub const SETTLEMENTS_A_WRITE: usize = 256;

/// Delivery streams that the broker may have open on one connection: one for each queue and subscription.
pub const DELIVERY_STREAMS_MAX: u32 = 8_192;

/// Delivery streams kept for a subscription whose answer has not been read yet.
pub const DELIVERY_STREAMS_EARLY_MAX: usize = 1_024;

/// Prepared messages that one producer checks at a time; what more the broker asks it waits, and is asked of another in the end.
pub const CHECKS_MAX: usize = 64;

/// Requests under way that commit, and as many that roll back; decisions that come meanwhile go together in the next.
pub const DECISIONS_UNDER_WAY: usize = 2;

/// The time to build one connection, its handshake and its welcome.
pub const CONNECT_WITHIN: Duration = Duration::from_secs(5);

/// The time that a request waits for its answer, unless the endpoint asks otherwise. A long poll adds its own wait.
pub const ANSWER_WITHIN_DEFAULT: Duration = Duration::from_secs(30);

/// The time that a graceful close of a stream waits for the broker's word.
pub const CLOSE_WITHIN: Duration = Duration::from_secs(5);

/// The wait before the first try to connect again; it doubles with each further one.
pub const RECONNECT_FIRST: Duration = Duration::from_millis(20);

/// The longest wait between two tries to connect.
pub const RECONNECT_MAX: Duration = Duration::from_secs(5);

/// The first wait after the broker asked to come back later; it doubles with each further time.
pub const RETRY_FIRST: Duration = Duration::from_millis(5);

/// The longest wait after the broker asked to come back later.
pub const RETRY_MAX: Duration = Duration::from_secs(2);

/// A connection on which nothing is heard for so long is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(15);

/// A connection on which nothing is to be said says this often that it lives.
pub const KEEP_ALIVE: Duration = Duration::from_secs(4);

/// What one QUIC stream may carry unread: 100 ms at 1 Gbit/s.
pub const STREAM_WINDOW_BYTES: u32 = 16 * 1024 * 1024;

/// What one connection may carry unread.
pub const CONNECTION_WINDOW_BYTES: u32 = 64 * 1024 * 1024;

/// The largest datagram that is taken, and that path MTU discovery tries: what a loopback carries.
pub const DATAGRAM_BYTES_MAX: u16 = 9_000;

/// What the socket may hold in each direction while the client's task is busy; the system may allow less. With the system's default,
/// bursts are lost and sent again.
pub const SOCKET_BUFFER_BYTES: usize = 4 << 20;

const _: () = assert!(STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(ROOM_BYTES <= WRITE_BYTES_MAX);
const _: () = assert!(SETTLEMENTS_A_WRITE <= SETTLEMENTS_QUEUED);
const _: () = assert!(KEEP_ALIVE.as_millis() * 3 < IDLE_TIMEOUT.as_millis());
