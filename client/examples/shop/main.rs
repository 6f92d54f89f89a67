//! The shop's story against a running broker: `shop [NAME]`, at the broker whose ready file SLUICE_READY_FILE names. Its topics and groups
//! begin with the name, `shop` unless told otherwise; each telling needs a name of its own. `sluice demo shop` tells it on a broker of its own.

mod story;

use sluice_client::{Client, Endpoint};

#[tokio::main]
async fn main() -> anyhow::Result<()> {
    let name = std::env::args().nth(1).unwrap_or_else(|| "shop".to_owned());
    let ready_file = std::env::var("SLUICE_READY_FILE").unwrap_or_else(|_| "sluice-data/ready.json".to_owned());
    let client = Client::connect(Endpoint::ready_file(ready_file)).await?;
    story::tell(&client, &name).await?;
    client.close().await;
    Ok(())
}
