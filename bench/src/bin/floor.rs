//! `floor --listen ADDRESS --redis ADDRESS`: see [`griot_bench::floor`].

use std::net::SocketAddr;

use clap::Parser;
use griot_bench::floor::Floor;

/// The least that a server can do: one write per delivery. Clients connect to `/?channel=NAME`, any number of them.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where clients connect.
    #[arg(long)]
    listen: SocketAddr,
    /// Where Redis is.
    #[arg(long)]
    redis: SocketAddr,
}

fn main() -> anyhow::Result<()> {
    let arguments = Arguments::parse();
    Floor::new(arguments.listen, arguments.redis)?.run()
}
