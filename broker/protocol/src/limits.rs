//! Every bound of the protocol; what is configurable has its default and its widest value here.

/// The longest name of a topic, group or plugin that a user may choose, in bytes.
pub const NAME_BYTES_MAX: usize = 127;
/// The longest tag, in bytes.
pub const TAG_BYTES_MAX: usize = 128;
/// The longest key, in bytes.
pub const KEY_BYTES_MAX: usize = 128;
/// The longest property name, in bytes.
pub const PROPERTY_NAME_BYTES_MAX: usize = 128;
/// The longest property value, in bytes: what its length field holds.
pub const PROPERTY_VALUE_BYTES_MAX: usize = u16::MAX as usize;
/// Keys of one message.
pub const KEYS_MAX: usize = 16;
/// Properties that a producer may give one message.
pub const PROPERTIES_MAX: usize = 128;
/// The highest priority of a message; the lowest, and the ordinary one, is 0.
pub const PRIORITY_MAX: u8 = 9;
/// The longest delay of a message, in milliseconds: ten years of 366 days.
pub const DELAY_MS_MAX: i64 = 10 * 366 * 24 * 60 * 60 * 1_000;
/// The longest time to live of a message, in milliseconds: as long as the longest delay.
pub const TTL_MS_MAX: u64 = DELAY_MS_MAX as u64;
/// Bytes of the name of a message group.
pub const MESSAGE_GROUP_BYTES_MAX: usize = 128;
/// Bytes of an id that a producer gives a message.
pub const GIVEN_ID_BYTES_MAX: usize = 128;
/// Properties that a stored message may have: those of its producer and those that the broker adds to a dead letter.
pub const PROPERTIES_STORED_MAX: usize = u8::MAX as usize;
/// The attributes of one message as its row, in bytes.
pub const ATTRIBUTES_BYTES_MAX: usize = 64 * 1024;
/// The largest body unless configured otherwise, in bytes.
pub const BODY_BYTES_DEFAULT: usize = 4 * 1024 * 1024;
/// The largest body that can be configured, in bytes.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;
/// Messages of one published batch.
pub const BATCH_MESSAGES_MAX: usize = 4096;
/// Different property names in one batch.
pub const BATCH_NAMES_MAX: usize = 4096;
/// The largest batch that is ever formed or read, in bytes: a published one, or one that the broker merged.
pub const BATCH_BYTES_MAX: usize = 256 * 1024 * 1024;
/// The largest payload of a frame unless configured otherwise, in bytes.
pub const FRAME_BYTES_DEFAULT: usize = 8 * 1024 * 1024;
/// The largest payload of a frame that can be configured, in bytes.
pub const FRAME_BYTES_MAX: usize = 128 * 1024 * 1024;
/// The largest payload of a frame before the welcome told the limits, and of every frame without messages or modules, in bytes.
pub const CONTROL_FRAME_BYTES_MAX: usize = 1024 * 1024;
/// Files of a backup that one frame lists.
pub const BACKUP_FILES_MAX: usize = 1_024;
/// The longest path of a file in a backup.
pub const BACKUP_PATH_BYTES_MAX: usize = 255;
/// The bytes of a backup's file that one frame holds.
pub const BACKUP_PIECE_BYTES_MAX: usize = 256 * 1024;
/// Ranges of offsets in one delivery.
pub const DELIVERY_RANGES_MAX: usize = BATCH_MESSAGES_MAX;
/// The longest receipt handle, in bytes: what its length field holds.
pub const HANDLE_BYTES_MAX: usize = u8::MAX as usize;
/// Messages that one receive may ask for.
pub const RECEIVE_MESSAGES_MAX: usize = 32;
/// Prepared messages that one request may decide about.
pub const DECIDE_MESSAGES_MAX: usize = 1_000;
/// Messages that one page of a reading without a group may ask for.
pub const PAGE_MESSAGES_MAX: usize = 1_000;
/// The longest wait of a receive, in milliseconds.
pub const RECEIVE_WAIT_MS_MAX: u32 = 20_000;
/// The shortest invisible time, in milliseconds.
pub const INVISIBLE_MS_MIN: u64 = 1_000;
/// The longest invisible time, in milliseconds.
pub const INVISIBLE_MS_MAX: u64 = 12 * 60 * 60 * 1_000;
/// Sends of one producer that may be unconfirmed at once.
pub const PRODUCER_UNCONFIRMED_MAX: usize = 1024;
/// How far a birth date may lie from 1970, in milliseconds (over 2,000 years): two such dates differ by less than 48 bits hold.
pub const BORN_MS_MAX: i64 = 1 << 46;

const _: () = assert!(TAG_BYTES_MAX <= u8::MAX as usize, "a tag's length is one byte");
const _: () = assert!(KEY_BYTES_MAX <= u8::MAX as usize, "a key's length is one byte");
const _: () = assert!(KEYS_MAX <= u8::MAX as usize, "the count of keys is one byte");
const _: () = assert!(PROPERTY_NAME_BYTES_MAX <= u8::MAX as usize, "a property name's length is one byte");
const _: () = assert!(
    PROPERTIES_MAX < PROPERTIES_STORED_MAX,
    "a dead letter has room for what the broker adds"
);
const _: () = assert!(BATCH_NAMES_MAX <= u16::MAX as usize, "a name's index is two bytes");
const _: () = assert!(BATCH_BYTES_MAX <= u32::MAX as usize, "lengths in a batch are four bytes");
const _: () = assert!(DELIVERY_RANGES_MAX <= u16::MAX as usize, "the count of ranges is two bytes");
const _: () = assert!(PAGE_MESSAGES_MAX <= BATCH_MESSAGES_MAX, "a page is one batch");
const _: () = assert!(
    BODY_BYTES_DEFAULT + 2 * ATTRIBUTES_BYTES_MAX <= FRAME_BYTES_DEFAULT,
    "a frame holds the largest message"
);
const _: () = assert!(
    BODY_BYTES_MAX + 2 * ATTRIBUTES_BYTES_MAX <= FRAME_BYTES_MAX,
    "a frame holds the largest message"
);
const _: () = assert!(FRAME_BYTES_MAX <= BATCH_BYTES_MAX, "a batch that arrives can be stored");
const _: () = assert!(
    PRODUCER_UNCONFIRMED_MAX <= BATCH_MESSAGES_MAX,
    "a batch can use up what a producer may have unconfirmed"
);
const _: () = assert!(BACKUP_FILES_MAX * (BACKUP_PATH_BYTES_MAX + 64) <= CONTROL_FRAME_BYTES_MAX);
const _: () = assert!(BACKUP_PIECE_BYTES_MAX <= FRAME_BYTES_DEFAULT / 8);
