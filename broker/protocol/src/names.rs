//! The rules for names and for the texts of a message: what may stand on the wire and in the log.

use crate::errors::{ErrorCode, Refusal};
use crate::limits::{GIVEN_ID_BYTES_MAX, KEY_BYTES_MAX, MESSAGE_GROUP_BYTES_MAX, NAME_BYTES_MAX, PROPERTY_NAME_BYTES_MAX, TAG_BYTES_MAX};

/// What the name of a group's dead-letter topic begins with.
pub const DEAD_LETTER_PREFIX: &str = "%DLQ%";
/// What the name of a topic of the broker's own begins with.
pub const SYSTEM_PREFIX: &str = "%SYS%";
/// Where the copies of prepared messages lie that were rolled back because nobody decided.
pub const ROLLED_BACK_TOPIC: &str = "%SYS%rolled-back";

/// Whose a name is: users create their own, the broker alone those with a reserved prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Owner {
    /// A name that users may create, 1 to 127 bytes.
    User,
    /// The dead-letter topic of the group whose name follows the prefix.
    DeadLetters,
    /// A topic of the broker's own.
    System,
}

/// Says whose the name of a topic, group or plugin is.
///
/// # Errors
/// `BadName` when it breaks the rule: 1 to 127 letters, digits, `_`, `-`, `.` and `%`, not counting a reserved prefix.
pub fn owner(name: &str) -> Result<Owner, Refusal> {
    let (owner, rest) = if let Some(rest) = name.strip_prefix(DEAD_LETTER_PREFIX) {
        (Owner::DeadLetters, rest)
    } else if let Some(rest) = name.strip_prefix(SYSTEM_PREFIX) {
        (Owner::System, rest)
    } else {
        (Owner::User, name)
    };
    if rest.is_empty() || rest.len() > NAME_BYTES_MAX {
        return Err(Refusal::new(
            ErrorCode::BadName,
            format!("a name has 1 to {NAME_BYTES_MAX} characters, this one has {}", rest.len()),
        ));
    }
    let allowed = |letter: char| letter.is_ascii_alphanumeric() || matches!(letter, '_' | '-' | '.' | '%');
    match rest.chars().find(|&letter| !allowed(letter)) {
        None => Ok(owner),
        Some(letter) => {
            let text = format!("the character {letter:?} is not allowed in a name; letters, digits, '_', '-', '.' and '%' are");
            Err(Refusal::new(ErrorCode::BadName, text))
        }
    }
}

/// Checks a name that a user wants to create, or to use for a group or plugin.
///
/// # Errors
/// `BadName` as [`owner`], `ReservedName` when it begins with a reserved prefix.
pub fn check_user_name(name: &str) -> Result<(), Refusal> {
    match owner(name)? {
        Owner::User => Ok(()),
        Owner::DeadLetters | Owner::System => Err(Refusal::plain(ErrorCode::ReservedName)),
    }
}

/// What stands between the name of a broadcast group and that of a member. No name has it.
const MEMBER_SEPARATOR: char = '/';

/// The name of the group of one member of a broadcast group.
pub fn member_group(group: &str, member: &str) -> String {
    format!("{group}{MEMBER_SEPARATOR}{member}")
}

/// The name of the member whose group this is; `None` of any other group.
pub fn member_of(group: &str) -> Option<&str> {
    group.split_once(MEMBER_SEPARATOR).map(|(_, member)| member)
}

/// Checks the name of a group, or of a member of a broadcast group behind the name of that: `GROUP/MEMBER`.
///
/// # Errors
/// `BadName`.
pub fn check_group(name: &str) -> Result<(), Refusal> {
    let (group, member) = name.split_once(MEMBER_SEPARATOR).unwrap_or((name, "member"));
    owner(group).and_then(|_| owner(member)).map(|_| ())
}

/// The name of the dead-letter topic of a group.
pub fn dead_letter_topic(group: &str) -> String {
    format!("{DEAD_LETTER_PREFIX}{group}")
}

/// Checks a tag: 1 to 128 bytes without control characters, and without `||`, which separates tags in a filter.
///
/// # Errors
/// `BadMessage`.
pub fn check_tag(tag: &str) -> Result<(), Refusal> {
    if tag.contains("||") {
        return Err(Refusal::new(
            ErrorCode::BadMessage,
            "a tag cannot contain \"||\", which separates tags in a filter",
        ));
    }
    check_text("tag", tag, TAG_BYTES_MAX)
}

/// Checks a key: 1 to 128 bytes without control characters.
///
/// # Errors
/// `BadMessage`.
pub fn check_key(key: &str) -> Result<(), Refusal> {
    check_text("key", key, KEY_BYTES_MAX)
}

/// Checks the name of a message group: 1 to 128 bytes without control characters.
///
/// # Errors
/// `BadMessage`.
pub fn check_message_group(group: &str) -> Result<(), Refusal> {
    check_text("message group", group, MESSAGE_GROUP_BYTES_MAX)
}

/// Checks an id that a producer gives a message: 1 to 128 bytes without control characters.
///
/// # Errors
/// `BadMessage`.
pub fn check_given_id(id: &str) -> Result<(), Refusal> {
    check_text("given id", id, GIVEN_ID_BYTES_MAX)
}

/// Checks the name of a property: 1 to 128 bytes without control characters.
///
/// # Errors
/// `BadMessage`.
pub fn check_property_name(name: &str) -> Result<(), Refusal> {
    check_text("property name", name, PROPERTY_NAME_BYTES_MAX)
}

fn check_text(what: &str, text: &str, bytes_max: usize) -> Result<(), Refusal> {
    if text.is_empty() || text.len() > bytes_max {
        return Err(Refusal::new(
            ErrorCode::BadMessage,
            format!("a {what} has 1 to {bytes_max} bytes, this one has {}", text.len()),
        ));
    }
    // ASCII control characters are found bytewise; those above it are two bytes, C2 80 to C2 9F.
    let control = |pair: &[u8]| pair[0] < 0x20 || pair[0] == 0x7f || (pair[0] == 0xc2 && pair.get(1).is_some_and(|&next| next < 0xa0));
    let bytes = text.as_bytes();
    if (0..bytes.len()).any(|place| control(&bytes[place..])) {
        return Err(Refusal::new(
            ErrorCode::BadMessage,
            format!("a {what} cannot contain control characters"),
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_apart_by_their_prefix() {
        assert_eq!(owner("orders.eu-1_%"), Ok(Owner::User));
        assert_eq!(owner("%DLQ%billing"), Ok(Owner::DeadLetters));
        assert_eq!(owner("%SYS%audit"), Ok(Owner::System));
        assert_eq!(owner(&dead_letter_topic(&"g".repeat(127))), Ok(Owner::DeadLetters));
        assert_eq!(
            check_user_name("%SYS%audit").map_err(|refusal| refusal.code),
            Err(ErrorCode::ReservedName)
        );
    }

    #[test]
    fn a_name_that_breaks_the_rule_is_refused() {
        for name in ["", "a b", "grüße", "a/b", "%DLQ%", "a\n", &"n".repeat(128)] {
            assert_eq!(owner(name).map_err(|refusal| refusal.code), Err(ErrorCode::BadName), "{name}");
        }
        assert_eq!(owner(&"n".repeat(127)), Ok(Owner::User));
    }

    #[test]
    fn texts_of_a_message_have_no_control_characters() {
        assert!(check_tag("größer").is_ok() && check_key("a b").is_ok() && check_property_name("x.y").is_ok());
        assert!(check_tag("a||b").is_err());
        for text in ["", "a\tb", "\u{7f}", "\u{85}", &"k".repeat(129)] {
            assert!(
                check_tag(text).is_err() && check_key(text).is_err() && check_property_name(text).is_err(),
                "{text:?}"
            );
        }
    }
}
