//! Every bound of the shell that is not a setting, in one place.

use std::time::Duration;

use sluice_core::limits::ASKS_MAX;
use sluice_plugin_host::limits::MODULE_BYTES_MAX;
use sluice_protocol::limits::{BATCH_MESSAGES_MAX, INVISIBLE_MS_MAX, INVISIBLE_MS_MIN};

/// Attempts to open or close in good order end after this long.
pub const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection on which nothing arrives for so long is lost.
pub const IDLE_TIMEOUT: Duration = Duration::from_secs(30);

/// The server asks for a sign of life this often, so that a lost client is noticed within `IDLE_TIMEOUT`.
pub const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Flow-control window of a connection in each direction: 100 ms of 1 Gbit/s, rounded up.
pub const CONNECTION_WINDOW_BYTES: u32 = 16 << 20;

/// Flow-control window of one stream: 100 ms of 1 Gbit/s, rounded up, so that one producer can use the whole of such a path.
pub const STREAM_WINDOW_BYTES: u32 = 14 << 20;

/// Streams that a connection may open before it is given more: what one producer and a few subscriptions use. A fifteenth doubles what the
/// QUIC library's tables take.
const STREAMS_AT_FIRST: u32 = 14;

/// Of `most` streams, those that a connection may open at first: all, if there are few.
pub fn streams_at_first(most: u32) -> u32 {
    if most < 2 * STREAMS_AT_FIRST { most } else { STREAMS_AT_FIRST }
}

/// The largest datagram that path MTU discovery tries: what loopback carries well (+45 % throughput over 1,452 bytes).
pub const DATAGRAM_BYTES_MAX: u16 = 6_500;

/// The largest datagram that is taken from a client: what a loopback carries.
pub const DATAGRAM_BYTES_TAKEN_MAX: u16 = 9_000;

/// What the socket may hold in each direction while the endpoint's task is busy; the system may allow less. With the system's default, bursts
/// are lost and sent again.
pub const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// A frame up to this size is taken without asking for room.
pub const SMALL_FRAME_BYTES: u32 = 16 << 10;

/// A frame may take a second more for so many bytes of it: half a megabit a second is slower than any path that a broker is used over.
pub const FRAME_BYTES_PER_SECOND_MIN: u32 = 64 << 10;

/// A frame that loads a plugin is taken up to this size, whatever other frames may have: the largest module with its name and limits.
pub const PLUGIN_FRAME_BYTES_MAX: u32 = MODULE_BYTES_MAX as u32 + (4 << 10);

/// Answers and deliveries that one connection may have read and not yet written, in units of the largest frame.
pub const OUTGOING_FRAMES_MAX: u32 = 4;

/// Messages that one connection may have published without reading their confirms; beyond it no further publish of it is read.
pub const CONFIRMS_UNWRITTEN_MAX: u32 = 1 << 16;

/// Backups that are read at once: one keeps the disk busy enough.
pub const BACKUPS_AT_ONCE: usize = 1;

/// How long a client may leave its backup alone, taking nothing and asking for nothing, since no segment is let go meanwhile.
pub const BACKUP_PATIENCE: Duration = Duration::from_secs(60);

/// Dead letters on one page of a list, and in one record that sends them back.
pub const LETTERS_OF_PAGE_MAX: usize = 256;

/// Events of a message's history that an explanation tells.
pub const HISTORY_EVENTS_MAX: usize = 256;
/// Dead letters, from the newest on, among which a copy is looked for.
pub const LETTERS_LOOKED_THROUGH_MAX: u64 = 1_024;
/// Far-off messages, those of the newest parts first, among which one is looked for by its id when the log has it no more: about a second.
pub const FAR_OFF_LOOKED_THROUGH_MAX: u64 = 4 << 20;
/// Prepared messages on one page of a list.
pub const TRANSACTIONS_OF_PAGE_MAX: usize = 256;

/// Asks that wait to be written to one client: all that the core has under way for one topic.
pub const ASKS_WAITING_MAX: usize = ASKS_MAX;
/// A client has heard what it is asked within this time, or it was not asked.
pub const HEARD_WITHIN: Duration = Duration::from_secs(10);

/// A delivery frame carries at most so many messages.
pub const DELIVERY_MESSAGES_MAX: usize = 256;

/// A delivery frame carries at most so many bytes of bodies, one message excepted.
pub const DELIVERY_BODY_BYTES_MAX: usize = 512 << 10;

/// Deliveries are read together until they have so many bytes of batches; a queue's task holds no more than this and one frame while the
/// client's window is full.
pub const DELIVERY_READ_BYTES_MAX: usize = 1 << 20;

/// The invisible time of a receive that names none.
pub const RECEIVE_INVISIBLE_MS_DEFAULT: u64 = 60_000;

/// The invisible time of a stream that names none: 15 minutes.
pub const STREAM_INVISIBLE_MS_DEFAULT: u64 = 15 * 60_000;

/// The longest delay that a nack may ask for: 12 hours.
pub const NACK_DELAY_MS_MAX: u64 = INVISIBLE_MS_MAX;

/// A stream's credit never exceeds so many messages.
pub const CREDIT_MESSAGES_MAX: u32 = 65_536;

/// One settlement names at most so many messages.
pub const SETTLE_MAX: usize = 4_096;

/// Settlements of one subscription that may be unanswered at a time; further ones are read when these are answered.
pub const SETTLEMENTS_UNANSWERED_MAX: usize = 1_024;

/// Answers and confirms are written together up to so many bytes.
pub const WRITE_BYTES_MAX: usize = 64 << 10;

/// Pieces of a stream, a datagram's part each, that are taken from QUIC at once.
pub const READ_CHUNKS: usize = 8;

/// Publishes that arrive together are asked together until they have so many messages.
pub const GROUP_MESSAGES_MAX: u32 = 512;
/// Subscriptions that are judged from one reading of the same messages; further ones are taken by another thread.
pub const JUDGED_TOGETHER_MAX: usize = 16;

/// Pages of readings without a group that are put together at a time; further ones wait.
pub const PAGES_AT_ONCE: usize = 2;

/// What one page may look at: a message that the filter is asked about counts 1, one that the index alone passes over 1/64. When it is used up
/// the page ends, and says from where to go on.
pub const PAGE_WORK_MAX: u64 = 64 << 10;

/// Messages of a queue that a page looks at before it looks at the next queue again.
pub const PAGE_PIECE_MESSAGES: u64 = 256;

/// As many, where the index alone passes over most of them.
pub const PAGE_PIECE_PRUNED_MESSAGES: u64 = 64 << 10;

/// Expressions that are kept compiled.
pub const COMPILED_EXPRESSIONS_MAX: usize = 1_024;

/// A client's name has at most so many bytes.
pub const CLIENT_NAME_BYTES_MAX: usize = 128;

/// Where durability is asynchronous, the log is synced this often.
pub const ASYNC_SYNC_INTERVAL: Duration = Duration::from_millis(50);

/// A write for which the disk had no room is tried again this often.
pub const FULL_RETRY_INTERVAL: Duration = Duration::from_millis(100);

/// After so long without work the disk's thread prepares for the next write.
pub const DISK_IDLE: Duration = Duration::from_millis(5);

/// Retention is looked after this often.
pub const RETENTION_INTERVAL: Duration = Duration::from_secs(60);

/// Delayed messages that are read ahead together end when they hold so many bytes.
pub const DUE_BATCH_BYTES_MAX: usize = 4 << 20;

/// The longest sleep of the shard thread, whatever the core's next deadline is.
pub const SHARD_SLEEP_MAX: Duration = Duration::from_secs(1);

/// The longest sleep of the disk's thread.
pub const DISK_SLEEP_MAX: Duration = Duration::from_secs(60);

/// A certificate's files are looked at for a change this often.
pub const CERTIFICATE_INTERVAL: Duration = Duration::from_secs(10);

/// Topics that have series of their own in the metrics, and pairs of a group and a topic, four series each.
pub const METRIC_ENTRIES_MAX: usize = 1_000;

/// The core has this long to answer for a scrape; then the rest is shown without it.
pub const SURVEY_TIMEOUT: Duration = Duration::from_secs(2);

/// When the shard's thread has not finished a turn for so long, `/live` says so. It never sleeps longer than `SHARD_SLEEP_MAX`.
pub const STALL_MAX: Duration = Duration::from_secs(10);

/// Connections to metrics and health at a time; further ones wait.
pub const MONITOR_CONNECTIONS_MAX: usize = 32;

/// A connection to metrics and health is closed after so long.
pub const MONITOR_CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// Inputs taken in one turn at most, so that a turn stays short.
pub const TURN_INPUTS_MAX: usize = 8_192;

const _: () = assert!(INVISIBLE_MS_MIN <= RECEIVE_INVISIBLE_MS_DEFAULT && STREAM_INVISIBLE_MS_DEFAULT <= INVISIBLE_MS_MAX);
const _: () = assert!(CONFIRMS_UNWRITTEN_MAX as usize >= BATCH_MESSAGES_MAX);
const _: () = assert!(SHARD_SLEEP_MAX.as_secs() * 2 < STALL_MAX.as_secs());
const _: () = assert!(STREAM_WINDOW_BYTES <= CONNECTION_WINDOW_BYTES);
const _: () = assert!(KEEP_ALIVE.as_secs() * 2 < IDLE_TIMEOUT.as_secs());
const _: () = assert!(DELIVERY_MESSAGES_MAX <= u16::MAX as usize);
const _: () = assert!(GROUP_MESSAGES_MAX as usize <= BATCH_MESSAGES_MAX);
