//! `sluice demo shop`: the shop's day of the client's example, told on a broker of its own.

#[path = "../../../../client/examples/shop/story/mod.rs"]
mod story;

use std::path::PathBuf;

use anyhow::Result;
use sluice_client::Client;

use super::Folder;
use crate::child::Broker;

// How it is run. Not a documentation comment, since clap would take it for the whole command's.
#[derive(clap::Args)]
pub(super) struct Shop {
    /// Keep the data here instead of in a folder that goes away
    #[arg(long, value_name = "DIR")]
    keep: Option<PathBuf>,
}

impl Shop {
    /// Runs it on a broker of its own.
    pub(super) async fn show(self) -> Result<()> {
        let folder = Folder::open(self.keep)?;
        println!("Sluice demonstration of a shop, data in {}\n", folder.path().display());
        let broker = Broker::start(folder.path(), &[]).await?;
        let client = Client::connect(broker.endpoint().client_name("demo")).await?;
        story::tell(&client, "shop").await?;
        client.close().await;
        drop(broker);
        println!("\nAll as expected; nothing lost, nothing twice, nothing early.");
        Ok(())
    }
}
