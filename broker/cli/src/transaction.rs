//! `sluice transaction`: lists, commits and rolls back prepared messages.

use clap::Subcommand;
use serde_json::{Value, json};
use sluice_client::{Decision, TransactionHandle, TransactionInfo};

use crate::connect::Broker;
use crate::failure::Failure;
use crate::output::Output;
use crate::times;

/// What to do with prepared messages.
#[derive(Subcommand)]
pub(crate) enum Transaction {
    /// Print the messages of a topic that wait for a decision, and those that were rolled back because nobody decided
    List {
        /// The topic
        topic: String,
    },
    /// Have prepared messages delivered, all that are named or none; also those that were rolled back because nobody decided
    Commit {
        /// Their handles
        #[arg(required = true)]
        handles: Vec<TransactionHandle>,
    },
    /// Have prepared messages never delivered, all that are named or none
    Rollback {
        /// Their handles
        #[arg(required = true)]
        handles: Vec<TransactionHandle>,
    },
}

impl Transaction {
    /// Does it.
    pub(crate) async fn run(self, broker: &Broker, output: &mut Output) -> Result<(), Failure> {
        let client = broker.connect().await?;
        match self {
            Self::List { topic } => {
                for transaction in client.transactions(&topic).await? {
                    output.show(|| to_json(&transaction), || vec![to_line(&transaction)])?;
                }
            }
            Self::Commit { handles } => {
                client.decide_as_operator(&handles, Decision::Commit).await?;
                tell(handles.len(), "committed", output)?;
            }
            Self::Rollback { handles } => {
                client.decide_as_operator(&handles, Decision::RollBack).await?;
                tell(handles.len(), "rolled_back", output)?;
            }
        }
        client.close().await;
        Ok(())
    }
}

fn tell(count: usize, done: &str, output: &mut Output) -> Result<(), Failure> {
    let human = || vec![format!("{count} prepared messages {}", done.replace('_', " "))];
    output.show(|| json!({ done: count }), human)
}

fn handle(transaction: &TransactionInfo) -> TransactionHandle {
    TransactionHandle(transaction.handle.clone())
}

fn to_json(transaction: &TransactionInfo) -> Value {
    let mut json = json!({
        "handle": handle(transaction).to_string(), "id": transaction.id, "given_up": transaction.given_up, "tag": transaction.tag,
        "keys": transaction.keys, "body_bytes": transaction.body_bytes,
    });
    if !transaction.given_up {
        json["prepared_ms"] = json!(transaction.prepared_wall_ms);
        json["asks"] = json!(transaction.asks);
        if transaction.next_ask_wall_ms > 0 {
            json["next_ask_ms"] = json!(transaction.next_ask_wall_ms);
        }
    }
    if transaction.deliver_at_ms > 0 {
        json["deliver_at_ms"] = json!(transaction.deliver_at_ms);
    }
    json
}

fn to_line(transaction: &TransactionInfo) -> String {
    let state = match transaction.given_up {
        true => "rolled back, since nobody decided".to_owned(),
        false => {
            let prepared = times::shown(transaction.prepared_wall_ms);
            let next = match transaction.next_ask_wall_ms {
                0 => "not asked again".to_owned(),
                next_ms => format!("next ask {}", times::shown(next_ms)),
            };
            format!("prepared {prepared} asked {} times {next}", transaction.asks)
        }
    };
    format!("{} {state} transaction {}", transaction.id, handle(transaction))
}
