//! A WebSocket client of the Centrifugal protocol, in JSON, that shows a test everything in the order it came.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use anyhow::{Context, Result, anyhow, bail};
use futures::{
    SinkExt, StreamExt,
    stream::{SplitSink, SplitStream},
};
use serde_json::{Value, json};
use tokio::{
    net::TcpStream,
    sync::{Mutex as AsyncMutex, watch},
    time::timeout,
};
use tokio_tungstenite::{
    MaybeTlsStream, WebSocketStream,
    tungstenite::{Message, client::IntoClientRequest},
};
use tokio_util::task::{AbortOnDropHandle, TaskTracker};

/// The bare WebSocket, for tests that send what no client would, or read nothing.
pub type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// The official clients give up on a command after 5 s; a busy test machine gets more.
const PATIENCE: Duration = Duration::from_secs(20);

/// Opens a WebSocket and nothing more. Headers are added to the handshake, such as `("Origin", "https://…")`.
pub async fn open(url: &str, headers: &[(&'static str, &str)]) -> Result<Socket> {
    let mut request = url.into_client_request()?;
    for (name, value) in headers {
        request.headers_mut().insert(*name, value.parse()?);
    }
    let opened = timeout(PATIENCE, tokio_tungstenite::connect_async(request)).await;
    let (socket, _) = opened.with_context(|| format!("{url}: no handshake"))?.with_context(|| url.to_owned())?;
    Ok(socket)
}

/// One thing that the server sent.
#[derive(Debug, Clone, PartialEq)]
pub enum Received {
    /// The answer to a command, with its `id` in it.
    Reply(Value),
    /// What stood under `push`.
    Push(Value),
    /// A ping of the protocol, which the client has answered unless told not to.
    Ping,
    /// The end. Nothing follows.
    Closed(Closed),
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("closed with {code} {reason:?}")]
pub struct Closed {
    /// The code of the close frame, or 1006 when the connection ended without one.
    pub code: u16,
    /// The reason of the close frame, or the transport's error.
    pub reason: String,
}

/// An error reply: a command that the server refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("refused with {code} {message:?}")]
pub struct Refused {
    /// The protocol's error code.
    pub code: u64,
    /// Its text.
    pub message: String,
}

/// A connection. It is closed when it is dropped, without a close frame, as by a browser that vanishes.
///
/// What the server sends waits in one queue, with the moment it came, until a method takes it out. [`Client::next`]
/// takes whatever is first; the others leave what they do not look for in its place.
#[derive(Debug)]
pub struct Client {
    sender: Sender,
    inbox: Arc<Inbox>,
    ids: AtomicU32,
    _reader: AbortOnDropHandle<()>,
}

type Sender = Arc<AsyncMutex<SplitSink<Socket, Message>>>;

#[derive(Debug)]
struct Inbox {
    queue: Mutex<VecDeque<(Instant, Received)>>,
    /// Changes with each arrival.
    arrivals: watch::Sender<u64>,
    behaviour: watch::Sender<Behaviour>,
}

#[derive(Debug, Clone, Copy)]
struct Behaviour {
    answers_pings: bool,
    reads: bool,
}

impl Client {
    /// Opens a WebSocket and sends `connect` with the token; an empty one is left out.
    ///
    /// The error is a [`Refused`] or a [`Closed`] when the server turned the client away; see [`refused`] and
    /// [`closed`].
    pub async fn connect(url: &str, token: &str) -> Result<(Self, Value)> {
        let client = Self::over(open(url, &[]).await?);
        let request = if token.is_empty() { json!({}) } else { json!({ "token": token }) };
        let connected = client.command("connect", request).await?;
        Ok((client, connected))
    }

    /// Takes over a WebSocket on which nothing was sent yet.
    #[must_use]
    pub fn over(socket: Socket) -> Self {
        let (sender, receiver) = socket.split();
        let sender = Arc::new(AsyncMutex::new(sender));
        let inbox = Arc::new(Inbox {
            queue: Mutex::default(),
            arrivals: watch::Sender::new(0),
            behaviour: watch::Sender::new(Behaviour { answers_pings: true, reads: true }),
        });
        let reader = TaskTracker::new().spawn(read(receiver, Arc::clone(&sender), Arc::clone(&inbox)));
        Self { sender, inbox, ids: AtomicU32::new(0), _reader: AbortOnDropHandle::new(reader) }
    }

    /// Sends a command and returns its result: `command("subscribe", json!({"channel": "orders"}))`.
    ///
    /// The error is a [`Refused`] when the server answered with one, and [`Closed`] when it closed instead.
    pub async fn command(&self, method: &str, request: Value) -> Result<Value> {
        let id = self.send(method, request).await?;
        self.reply(id, method).await
    }

    /// Sends a command and returns its id; the answer comes as [`Received::Reply`].
    pub async fn send(&self, method: &str, request: Value) -> Result<u32> {
        let id = self.ids.fetch_add(1, Ordering::Relaxed) + 1;
        self.send_text(json!({ "id": id, method: request }).to_string()).await?;
        Ok(id)
    }

    /// Sends a text message as it is, which may hold several commands or nonsense.
    pub async fn send_text(&self, text: impl Into<String>) -> Result<()> {
        self.send_message(Message::text(text.into())).await
    }

    /// Sends any WebSocket message.
    pub async fn send_message(&self, message: Message) -> Result<()> {
        let mut sender = self.sender.lock().await;
        timeout(PATIENCE, sender.send(message)).await.context("the server reads nothing")??;
        Ok(())
    }

    /// Subscribes to a channel and returns the result.
    pub async fn subscribe(&self, channel: &str) -> Result<Value> {
        self.command("subscribe", json!({ "channel": channel, "flag": 1 })).await
    }

    /// Subscribes to a channel from a position.
    pub async fn recover(&self, channel: &str, epoch: &str, offset: u64) -> Result<Value> {
        let request = json!({ "channel": channel, "flag": 1, "recover": true, "epoch": epoch, "offset": offset });
        self.command("subscribe", request).await
    }

    /// Unsubscribes from a channel.
    pub async fn unsubscribe(&self, channel: &str) -> Result<Value> {
        self.command("unsubscribe", json!({ "channel": channel })).await
    }

    /// The next thing of any kind, and when it came.
    pub async fn next(&self, within: Duration) -> Result<(Instant, Received)> {
        self.take(within, "anything", |_| true).await
    }

    /// The next push, and when it came. An error when the connection ends first.
    pub async fn next_push(&self, within: Duration) -> Result<(Instant, Value)> {
        let wanted = |received: &Received| matches!(received, Received::Push(_) | Received::Closed(_));
        match self.take(within, "a push", wanted).await? {
            (at, Received::Push(push)) => Ok((at, push)),
            (_, other) => bail!("instead of a push: {other:?}"),
        }
    }

    /// The channel and the publication (`data`, `offset`, `tags`) of the next push, which must be one.
    pub async fn next_publication(&self, within: Duration) -> Result<(String, Value)> {
        let (_, mut push) = self.next_push(within).await?;
        let publication = push.get_mut("pub").map(Value::take);
        let channel = push["channel"].as_str().map(str::to_owned);
        channel.zip(publication).with_context(|| format!("not a publication: {push}"))
    }

    /// Waits for the end of the connection. What came before stays in the queue.
    pub async fn closed(&self, within: Duration) -> Result<Closed> {
        match self.take(within, "the end", |received| matches!(received, Received::Closed(_))).await? {
            (_, Received::Closed(closed)) => Ok(closed),
            (_, other) => bail!("instead of the end: {other:?}"),
        }
    }

    /// Whether pings are answered; they are at first.
    pub fn answer_pings(&self, answers: bool) {
        self.inbox.behaviour.send_modify(|behaviour| behaviour.answers_pings = answers);
    }

    /// Stops or continues to read the socket. At most one more message comes after `false`.
    pub fn keep_reading(&self, reads: bool) {
        self.inbox.behaviour.send_modify(|behaviour| behaviour.reads = reads);
    }

    /// Closes the connection as a well-behaved client does.
    pub async fn close(self) -> Result<()> {
        self.send_message(Message::Close(None)).await?;
        self.closed(PATIENCE).await.map(drop)
    }

    async fn reply(&self, id: u32, method: &str) -> Result<Value> {
        let wanted = |received: &Received| match received {
            Received::Reply(reply) => reply["id"] == id,
            Received::Closed(_) => true,
            Received::Push(_) | Received::Ping => false,
        };
        let mut reply = match self.take(PATIENCE, method, wanted).await? {
            (_, Received::Reply(reply)) => reply,
            (_, Received::Closed(closed)) => return Err(closed.into()),
            (_, other) => bail!("instead of a reply: {other:?}"),
        };
        if let Some(error) = reply.get("error") {
            let code = error["code"].as_u64().with_context(|| format!("an error without a code: {reply}"))?;
            let message = error["message"].as_str().unwrap_or_default().to_owned();
            return Err(Refused { code, message }.into());
        }
        reply.get_mut(method).map(Value::take).with_context(|| format!("a reply without {method}: {reply}"))
    }

    /// Takes the first thing that is wanted out of the queue. The end is seen by all who wait, and stays.
    async fn take(
        &self,
        within: Duration,
        what: &str,
        wanted: impl Fn(&Received) -> bool,
    ) -> Result<(Instant, Received)> {
        let mut arrivals = self.inbox.arrivals.subscribe();
        let search = async {
            loop {
                arrivals.borrow_and_update();
                if let Some(found) = self.inbox.take(&wanted) {
                    return Ok(found);
                }
                arrivals.changed().await.map_err(|_| anyhow!("nobody reads any more"))?;
            }
        };
        timeout(within, search).await.with_context(|| format!("{what} did not come within {within:?}"))?
    }
}

/// The error as a [`Refused`], if it is one.
#[must_use]
pub fn refused(error: &anyhow::Error) -> Option<&Refused> {
    error.downcast_ref()
}

/// The error as a [`Closed`], if it is one.
#[must_use]
pub fn closed(error: &anyhow::Error) -> Option<&Closed> {
    error.downcast_ref()
}

impl Inbox {
    fn take(&self, wanted: impl Fn(&Received) -> bool) -> Option<(Instant, Received)> {
        let mut queue = self.queue.lock().unwrap_or_else(PoisonError::into_inner);
        let index = queue.iter().position(|(_, received)| wanted(received))?;
        if matches!(queue[index].1, Received::Closed(_)) {
            return queue.get(index).cloned();
        }
        queue.remove(index)
    }

    fn push(&self, received: Received) {
        let arrival = (Instant::now(), received);
        self.queue.lock().unwrap_or_else(PoisonError::into_inner).push_back(arrival);
        self.arrivals.send_modify(|count| *count += 1);
    }
}

/// Reads until the end, whether or not a test looks, so that pings are answered and arrival times are true.
async fn read(mut receiver: SplitStream<Socket>, sender: Sender, inbox: Arc<Inbox>) {
    let mut behaviour = inbox.behaviour.subscribe();
    let mut ending = Closed { code: 1006, reason: "the connection ended".to_owned() };
    loop {
        // The inbox holds the sender, so this ends only with reading.
        let _ = behaviour.wait_for(|behaviour| behaviour.reads).await;
        match receiver.next().await {
            Some(Ok(Message::Text(text))) => {
                for line in text.split('\n') {
                    let received = classify(line);
                    let is_ping = received == Received::Ping;
                    inbox.push(received);
                    if is_ping && behaviour.borrow().answers_pings {
                        // A failure shows as the end of the connection on the next read.
                        let _ = sender.lock().await.send(Message::text("{}")).await;
                    }
                }
            }
            Some(Ok(Message::Close(Some(frame)))) => {
                ending = Closed { code: frame.code.into(), reason: frame.reason.to_string() };
            }
            Some(Ok(Message::Close(None))) => ending = Closed { code: 1005, reason: String::new() },
            Some(Ok(Message::Binary(bytes))) => inbox.push(Received::Push(json!({ "binary": bytes.len() }))),
            Some(Ok(_)) => {}
            Some(Err(error)) => {
                if ending.code == 1006 {
                    ending.reason = error.to_string();
                }
                break;
            }
            None => break,
        }
    }
    inbox.push(Received::Closed(ending));
}

/// A line that is not a JSON object comes as a push of its text, which no test will take for what it waits for.
fn classify(line: &str) -> Received {
    match serde_json::from_str::<Value>(line) {
        Ok(mut reply) if reply.is_object() => {
            if reply.get("id").is_some() {
                Received::Reply(reply)
            } else if let Some(push) = reply.get_mut("push") {
                Received::Push(push.take())
            } else if reply == json!({}) {
                Received::Ping
            } else {
                Received::Push(json!({ "unknown": reply }))
            }
        }
        _ => Received::Push(json!({ "unreadable": line })),
    }
}

#[cfg(test)]
mod tests;
