//! `sluice group dead-letters`: list what a group gave up, send it back, or discard it.

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use sluice_client::Client;
use sluice_client::admin::{DeadLetter, DeadLettersDealt};

use crate::failure::Failure;
use crate::output::Output;
use crate::times;

/// Dead letters of a group.
#[derive(Subcommand)]
pub(crate) enum Letters {
    /// List the dead letters that were neither sent back nor discarded
    List {
        /// Name of the group
        name: String,
        /// From this offset of the dead-letter topic on
        #[arg(long, default_value_t = 0)]
        from: u64,
        /// Up to and including this offset
        #[arg(long)]
        to: Option<u64>,
        /// The most to list
        #[arg(long, default_value_t = 1000)]
        limit: usize,
    },
    /// Deliver dead letters to their group again, where they came from
    Resend {
        /// Name of the group
        name: String,
        #[command(flatten)]
        which: Which,
    },
    /// Take dead letters off the list
    Discard {
        /// Name of the group
        name: String,
        #[command(flatten)]
        which: Which,
    },
}

// Not a documentation comment, since clap would take it for the command's.
#[derive(Args)]
pub(crate) struct Which {
    /// All of them
    #[arg(long, conflicts_with_all = ["from", "to"], required_unless_present_any = ["from", "to"])]
    all: bool,
    /// From this offset of the dead-letter topic on
    #[arg(long)]
    from: Option<u64>,
    /// Up to and including this offset
    #[arg(long)]
    to: Option<u64>,
    /// No more than so many
    #[arg(long, value_parser = clap::value_parser!(u64).range(1..))]
    limit: Option<u64>,
}

impl Which {
    fn span(&self) -> (u64, Option<u64>, u64) {
        (self.from.unwrap_or(0), end(self.to), self.limit.unwrap_or(u64::MAX))
    }
}

/// The offset behind the last one that is meant.
fn end(to: Option<u64>) -> Option<u64> {
    to.map(|to| to.saturating_add(1))
}

impl Letters {
    /// Does what is asked.
    pub(super) async fn run(self, client: &Client, output: &mut Output) -> Result<(), Failure> {
        match self {
            Letters::List { name, from, to, limit } => {
                let letters = client.dead_letters(&name, from, end(to), limit).await?;
                let in_json = output.is_json();
                output.table(HEADS, &letters.iter().map(|letter| row(letter, in_json)).collect::<Vec<_>>())
            }
            Letters::Resend { name, which } => {
                let (from, to, most) = which.span();
                let dealt = client.resend_dead_letters(&name, from, to, most).await?;
                output.show(
                    || {
                        json!({
                            "group": name, "sent_back": dealt.sent_back, "under_way": dealt.under_way, "gone": dealt.gone,
                            "left": dealt.left, "next": dealt.next,
                        })
                    },
                    || resent(&name, &dealt),
                )
            }
            Letters::Discard { name, which } => {
                let (from, to, most) = which.span();
                let dealt = client.discard_dead_letters(&name, from, to, most).await?;
                let human = || vec![format!("{} dead letters of group {name} discarded", dealt.discarded)];
                output.show(|| json!({ "group": name, "discarded": dealt.discarded, "next": dealt.next }), human)
            }
        }
    }
}

fn resent(name: &str, dealt: &DeadLettersDealt) -> Vec<String> {
    let mut lines = vec![format!("{} dead letters sent back to group {name}", dealt.sent_back)];
    let others = [
        (dealt.under_way, "were under way already"),
        (
            dealt.gone,
            "are no longer where they came from; discard them, or read them from the dead-letter topic",
        ),
        (dealt.left, "are left: the group holds as many messages there as it may"),
    ];
    let others = others.iter().filter(|(count, _)| *count > 0);
    lines.extend(others.map(|(count, what)| format!("{count} {what}")));
    lines
}

const HEADS: &[&str] = &[
    "offset",
    "id",
    "topic",
    "queue",
    "origin_offset",
    "attempts",
    "reason",
    "plugin",
    "dead_since",
    "tag",
    "keys",
    "body_bytes",
];

fn row(letter: &DeadLetter, in_json: bool) -> Vec<Value> {
    let text = |text: &str| if text.is_empty() { Value::Null } else { json!(text) };
    vec![
        json!(letter.offset),
        json!(letter.id),
        json!(letter.topic),
        json!(letter.queue),
        json!(letter.origin_offset),
        json!(letter.attempts),
        json!(letter.reason),
        text(&letter.plugin),
        match in_json {
            true => json!(letter.stored_wall_ms),
            false => json!(times::shown(letter.stored_wall_ms)),
        },
        text(&letter.tag),
        text(&letter.keys.join(" ")),
        json!(letter.body_bytes),
    ]
}
