//! Listens to `NOTIFY`: at most once. What is notified while nobody listens is gone, and a lost connection is told.

use std::time::Duration;

use sqlx::postgres::{PgListener, PgNotification, PgPoolOptions};
use sqlx::{Executor, PgPool};
use tokio::time::timeout;

use crate::error::Error;

/// Bytes of a channel's name: PostgreSQL cuts longer ones in `listen` and refuses them in `pg_notify`.
const CHANNEL_BYTES: usize = 63;
/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(3);
/// After so much silence the server is asked whether it is still there: nothing else would tell of a dead peer.
const SILENCE: Duration = Duration::from_secs(20);
/// And this long it may take to answer.
const ANSWER: Duration = Duration::from_secs(5);

/// What is heard.
#[derive(Debug)]
pub enum Heard {
    /// Somebody's transaction that notified was committed.
    Notification {
        /// The channel.
        channel: String,
        /// The text that `pg_notify` was given; at most 7,999 bytes.
        text: String,
    },
    /// The connection was lost: what is notified until the next call has connected again is never heard.
    Lost {
        /// What happened to it.
        cause: String,
    },
}

/// Listens on a connection of its own.
#[derive(Debug)]
pub struct Listener {
    server: PgPool,
    channels: Vec<String>,
    connected: Option<PgListener>,
}

impl Listener {
    /// A listener on `channels` of the database that `server` leads to. Does no I/O.
    pub fn new(server: PgPool, channels: Vec<String>) -> Self {
        Self { server, channels, connected: None }
    }

    /// The next that is heard; connects when it has to. Cancel safe. To be repeated after an error, with a pause.
    ///
    /// # Errors
    /// No connection could be had.
    pub async fn next(&mut self) -> Result<Heard, Error> {
        let connected = match &mut self.connected {
            Some(connected) => connected,
            none => none.insert(connect(&self.server, &self.channels).await?),
        };
        Ok(match notification(connected).await {
            Ok(notification) => Heard::Notification {
                channel: notification.channel().to_owned(),
                text: notification.payload().to_owned(),
            },
            Err(cause) => {
                self.connected = None;
                Heard::Lost { cause }
            }
        })
    }
}

/// Whether `name` can be a channel of `NOTIFY`.
pub fn is_channel(name: &str) -> bool {
    (1..=CHANNEL_BYTES).contains(&name.len()) && !name.contains('\0')
}

/// Not a connection of the pool itself, which has few and lends them.
async fn connect(server: &PgPool, channels: &[String]) -> Result<PgListener, Error> {
    let options = server.connect_options().as_ref().clone();
    let name = format!("{} listens", options.get_application_name().unwrap_or("griot"));
    let options = options.application_name(&name);
    let own = PgPoolOptions::new().max_connections(1).acquire_timeout(CONNECT).connect_lazy_with(options);
    let mut listener = PgListener::connect_with(&own).await?;
    // It would connect again by itself and, when that fails once, not tell that anything was lost.
    listener.eager_reconnect(false);
    listener.listen_all(channels.iter().map(String::as_str)).await?;
    Ok(listener)
}

/// The next notification, or why there will be none on this connection.
async fn notification(listener: &mut PgListener) -> Result<PgNotification, String> {
    loop {
        match timeout(SILENCE, listener.try_recv()).await {
            Ok(Ok(Some(notification))) => return Ok(notification),
            Ok(Ok(None)) => return Err("the server closed the connection".to_owned()),
            Ok(Err(error)) => return Err(error.to_string()),
            Err(_silence) => match timeout(ANSWER, listener.execute("select 1")).await {
                Ok(Ok(_)) => {}
                Ok(Err(error)) => return Err(error.to_string()),
                Err(_) => return Err(format!("the server did not answer within {ANSWER:?}")),
            },
        }
    }
}
