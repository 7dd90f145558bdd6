//! Everything that a stranger, or somebody with a token, may try at once.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{SinkExt, StreamExt};
use griot_tests::bridge::SECRET;
use griot_tests::client::open;
use griot_tests::token;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::interval;
use tokio_tungstenite::tungstenite::Message;
use tokio_util::task::TaskTracker;

/// Connections that never speak.
const SILENT: usize = 5_000;
/// WebSockets that never send a command.
const MUTE: usize = 1_000;
/// Connections that send their handshake a byte at a time.
const LORIS: usize = 100;

/// Attacks until standard input ends. Says so once all silent connections are open.
pub(crate) async fn run(socket: &str) -> Result<()> {
    let addr = socket.split('/').nth(2).context("ws://HOST:PORT/…")?.to_owned();
    let tasks = TaskTracker::new();
    let mut silent = Vec::with_capacity(SILENT);
    for _ in 0..SILENT {
        silent.push(TcpStream::connect(&addr).await?);
    }
    let mut mute = Vec::with_capacity(MUTE);
    for _ in 0..MUTE {
        mute.push(open(socket, &[]).await?);
    }
    for _ in 0..LORIS {
        tasks.spawn(loris(addr.clone()));
    }
    tasks.spawn(garbage(addr.clone()));
    tasks.spawn(too_large(socket.to_owned()));
    tasks.spawn(many_subscriptions(socket.to_owned()));
    println!("attacking");
    let (mut input, mut nothing) = (tokio::io::stdin(), Vec::new());
    input.read_to_end(&mut nothing).await?;
    drop((silent, mute));
    Ok(())
}

async fn loris(addr: String) {
    let mut pace = interval(Duration::from_millis(100));
    loop {
        let Ok(mut stream) = TcpStream::connect(&addr).await else { return };
        for byte in b"GET /connection/websocket HTTP/1.1\r\nX-Slow: ".iter().chain(std::iter::repeat(&b'x')) {
            pace.tick().await;
            if stream.write_all(&[*byte]).await.is_err() {
                break;
            }
        }
    }
}

/// Random bytes on new connections, and within WebSockets.
async fn garbage(addr: String) {
    let mut pace = interval(Duration::from_millis(10));
    loop {
        pace.tick().await;
        let Ok(mut stream) = TcpStream::connect(&addr).await else { return };
        let bytes: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(..)).take(300).collect();
        // It may have been closed meanwhile, which is what the bridge is there for.
        let _ = stream.write_all(&bytes).await;
        if let Ok(mut socket) = open(&format!("ws://{addr}/connection/websocket"), &[]).await {
            let _ = socket.send(Message::binary(bytes)).await;
        }
    }
}

async fn too_large(url: String) {
    let mut pace = interval(Duration::from_millis(100));
    let text = "x".repeat(100_000);
    loop {
        pace.tick().await;
        if let Ok(mut socket) = open(&url, &[]).await {
            let _ = socket.send(Message::text(text.clone())).await;
            while let Some(Ok(_)) = socket.next().await {}
        }
    }
}

/// Ten thousand subscriptions on one connection, again and again.
async fn many_subscriptions(url: String) {
    loop {
        let Ok(socket) = open(&url, &[]).await else { return };
        let (mut sink, mut stream) = socket.split();
        let connect = json!({"id": 1, "connect": {"token": token::token(SECRET, "hostile")}});
        let mut commands = vec![connect.to_string()];
        commands.extend((2..10_000).map(|id| json!({"id": id, "subscribe": {"channel": "products"}}).to_string()));
        let send = async {
            for batch in commands.chunks(500) {
                if sink.send(Message::text(batch.join("\n"))).await.is_err() {
                    break;
                }
            }
        };
        let receive = async {
            let mut replies = 0;
            while let Some(Ok(Message::Text(text))) = stream.next().await {
                replies += text.split('\n').count();
                if replies >= 9_999 {
                    break;
                }
            }
        };
        futures::join!(send, receive);
    }
}
