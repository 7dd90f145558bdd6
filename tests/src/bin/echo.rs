//! `echo [PORT]`: a WebSocket server on 127.0.0.1 that sends back what it is sent. Its handshake, its reading and its
//! writing are the bridge's own, so that what is found here (by `just autobahn`) is true there.

use std::convert::Infallible;
use std::future::poll_fn;
use std::net::Ipv4Addr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use clap::Parser;
use hyper::Request;
use hyper::body::Incoming as Body;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use subscriber_bridge::codes::Disconnect;
use subscriber_bridge::frame::{self, Received};
use subscriber_bridge::handshake;
use subscriber_bridge::incoming::Incoming;
use subscriber_bridge::outbox::{Outbox, Sink, Turn};
use subscriber_bridge::wire::Wire;
use tokio::net::{TcpListener, TcpStream};
use tokio_util::task::TaskTracker;

/// Most bytes of one message.
const MAX_MESSAGE: usize = 64 * 1024 * 1024;
/// Most bytes that may wait for a client.
const MAX_WAITING: usize = 4 * MAX_MESSAGE;
const CLOSE_PATIENCE: Duration = Duration::from_secs(5);

/// Sends WebSocket messages back.
#[derive(Debug, Parser)]
struct Arguments {
    /// Where to listen on 127.0.0.1; 0 for any free port.
    #[arg(default_value_t = 9001)]
    port: u16,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(Arguments::parse().port).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("echo: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(port: u16) -> Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port)).await;
    let listener = listener.with_context(|| format!("127.0.0.1:{port} cannot be had; name another port"))?;
    println!("echo: listening on {}", listener.local_addr()?);
    let connections = TaskTracker::new();
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        connections.spawn(connection(stream));
    }
}

async fn connection(stream: TcpStream) {
    let answer = |request: Request<Body>| {
        std::future::ready(Ok::<_, Infallible>(handshake::accept(&request).unwrap_or_else(handshake::refuse)))
    };
    let mut http = http1::Builder::new().serve_connection(TokioIo::new(stream), service_fn(answer));
    if let Err(error) = poll_fn(|cx| http.poll_without_shutdown(cx)).await {
        eprintln!("echo: {error}");
        return;
    }
    let parts = http.into_parts();
    let outbox = Arc::new(Outbox::new(Sink::Socket(parts.io.into_inner()), Wire::USUAL, MAX_WAITING, MAX_WAITING));
    let mut incoming = Incoming::new(Arc::clone(&outbox), parts.read_buf, MAX_MESSAGE);
    match echo(&outbox, &mut incoming).await {
        Ok(()) => {}
        Err(disconnect) => outbox.close(disconnect),
    }
    outbox.finish(CLOSE_PATIENCE).await;
    incoming.finish(CLOSE_PATIENCE).await;
}

/// Until either side closes.
async fn echo(outbox: &Outbox, incoming: &mut Incoming) -> Result<(), Disconnect> {
    loop {
        tokio::select! {
            biased;
            turn = outbox.drive() => if let Turn::Closed(_) = turn {
                return Ok(());
            },
            received = incoming.next() => match received? {
                Some(Received::Text(text)) => outbox.send(frame::text(&text)),
                Some(Received::Binary(data)) => outbox.send(frame::binary(&data)),
                Some(Received::Ping(_) | Received::Pong(_)) => {}
                Some(Received::Close(_)) | None => return Ok(()),
            },
        }
    }
}
