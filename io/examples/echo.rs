//! A WebSocket that says back whatever it hears, with the server's own settings but for the size of messages: what
//! `make conformance` sets the Autobahn suite on, whose largest messages have 16 MiB.
//!
//! ```text
//! cargo run --release -p acdit-io --example echo -- 9001
//! ```

use acdit_io::testing;
use axum::{Router, extract::WebSocketUpgrade, routing::any};

const LARGEST: usize = 16 << 20;

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let port: u16 = std::env::args().nth(1).unwrap_or_else(|| "9001".to_owned()).parse()?;
    let listener = tokio::net::TcpListener::bind(("127.0.0.1", port)).await?;
    println!("ws://{}", listener.local_addr()?);
    let echo = async |upgrade: WebSocketUpgrade| testing::limited(upgrade, LARGEST).on_upgrade(testing::echo);
    axum::serve(listener, Router::new().route("/", any(echo))).await?;
    Ok(())
}
