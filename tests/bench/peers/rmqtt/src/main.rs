//! `bench-rmqtt ADDR`: the rmqtt library as a broker on that address, as its own first example makes one; queues
//! and windows as large as the other servers of the benchmark have them.

use std::net::SocketAddr;

use rmqtt::{Result, context::ServerContext, net::Builder, server::MqttServer};

#[tokio::main]
async fn main() -> Result<()> {
    let addr: SocketAddr = match std::env::args().nth(1).map(|addr| addr.parse()) {
        Some(Ok(addr)) => addr,
        _ => {
            eprintln!("bench-rmqtt: give the address to listen on and nothing else, as in `bench-rmqtt 127.0.0.1:PORT`");
            std::process::exit(2);
        }
    };
    let context = ServerContext::new().build().await;
    let listener = Builder::new()
        .name("bench")
        .laddr(addr)
        .max_connections(100_000)
        .max_handshaking_limit(10_000)
        .max_inflight(std::num::NonZeroU16::new(1_024).expect("it is not zero"))
        .max_mqueue_len(1_000_000)
        .bind()?
        .tcp()?;
    MqttServer::new(context).listener(listener).build().run().await?;
    Ok(())
}
