//! The numbers of the kinds of record: none is ever used again for another kind.

pub(super) const OPENED: u16 = 1;
pub(super) const TOPIC_CREATED: u16 = 2;
pub(super) const TOPIC_DELETED: u16 = 3;
pub(super) const GROUP_CREATED: u16 = 4;
pub(super) const GROUP_DELETED: u16 = 5;
pub(super) const SUBSCRIBED: u16 = 6;
pub(super) const PLUGIN_BOUND: u16 = 7;
pub(super) const APPENDED: u16 = 8;
pub(super) const GRANTED: u16 = 9;
pub(super) const FRONTIER_MOVED: u16 = 10;
pub(super) const SETTLED: u16 = 11;
pub(super) const RETURNED: u16 = 12;
pub(super) const EXTENDED: u16 = 13;
pub(super) const DEAD_LETTERED: u16 = 14;
pub(super) const SOUGHT: u16 = 15;
pub(super) const TRIMMED: u16 = 16;
pub(super) const PRODUCER_FORGOTTEN: u16 = 17;
pub(super) const CULPRIT_DECIDED: u16 = 18;
pub(super) const SUBSCRIPTION_HELD: u16 = 19;
pub(super) const SUBSCRIPTION_RESUMED: u16 = 20;
pub(super) const DELAYED: u16 = 21;
pub(super) const RELEASED: u16 = 22;
pub(super) const RECALLED: u16 = 23;
pub(super) const PRIORITIZED: u16 = 30;
pub(super) const EXPIRING: u16 = 54;
pub(super) const DEADLINES_FOUND: u16 = 55;
pub(super) const EXPIRED: u16 = 56;

/// What a kind's number stands for, for reports; `None` when it is not known.
pub fn kind_name(number: u16) -> Option<&'static str> {
    Some(match number {
        OPENED => "opened",
        TOPIC_CREATED => "topic-created",
        TOPIC_DELETED => "topic-deleted",
        GROUP_CREATED => "group-created",
        GROUP_DELETED => "group-deleted",
        SUBSCRIBED => "subscribed",
        PLUGIN_BOUND => "plugin-bound",
        APPENDED => "appended",
        GRANTED => "granted",
        FRONTIER_MOVED => "frontier-moved",
        SETTLED => "settled",
        RETURNED => "returned",
        EXTENDED => "extended",
        DEAD_LETTERED => "dead-lettered",
        SOUGHT => "sought",
        TRIMMED => "trimmed",
        PRODUCER_FORGOTTEN => "producer-forgotten",
        CULPRIT_DECIDED => "culprit-decided",
        SUBSCRIPTION_HELD => "subscription-held",
        SUBSCRIPTION_RESUMED => "subscription-resumed",
        DELAYED => "delayed",
        RELEASED => "released",
        RECALLED => "recalled",
        PRIORITIZED => "prioritized",
        EXPIRING => "expiring",
        DEADLINES_FOUND => "deadlines-found",
        EXPIRED => "expired",
        super::restoration::RESTORED => "restored",
        other => {
            return super::operated::kind_name(other)
                .or_else(|| super::transaction::kind_name(other))
                .or_else(|| super::given_ids::kind_name(other))
                .or_else(|| super::parts::kind_name(other));
        }
    })
}
