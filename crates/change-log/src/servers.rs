//! The servers that may hold the database, and connections to the one that can be written to.
//!
//! After a failover another one is the primary, and the old one may come back believing that it still is: whoever asks
//! them all finds the one on the highest timeline.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use futures::future::join_all;
use sqlx::postgres::{PgConnectOptions, PgPoolOptions};
use sqlx::{Connection, PgConnection, PgPool, Row};
use uuid::Uuid;

use crate::addresses;
use crate::error::{Error, Refusal};

/// How long a call may wait for a connection.
const ACQUIRE: Duration = Duration::from_secs(3);
/// How long a server may take to say what it is.
const ANSWER: Duration = Duration::from_secs(2);

/// The servers of a database. Clones share the choice and the connections.
#[derive(Debug, Clone)]
pub struct Servers {
    servers: Arc<[PgConnectOptions]>,
    pool: PgPool,
    choice: Arc<Mutex<Choice>>,
}

/// Which server the pool connects to.
#[derive(Debug)]
struct Choice {
    server: usize,
    /// Connections from before lead to another server.
    since: Instant,
}

impl Servers {
    /// The servers at `addresses`: `postgres://USER:PASSWORD@HOST:PORT/DATABASE`, several of them with commas between,
    /// or several `HOST:PORT` in one. Does no I/O: until [`choose`](Self::choose) the pool connects to the first one.
    ///
    /// # Errors
    /// [`Error::Address`] when one is not a PostgreSQL address.
    pub fn new(addresses: &str, application_name: &str) -> Result<Self, Error> {
        let servers: Arc<[_]> = addresses::parse(addresses, application_name)?.into();
        let first = servers.first().cloned().ok_or_else(|| Error::Address("it is empty".into()))?;
        let choice = Arc::new(Mutex::new(Choice { server: 0, since: Instant::now() }));
        let present = Arc::clone(&choice);
        let pool = PgPoolOptions::new()
            .max_connections(4)
            .acquire_timeout(ACQUIRE)
            .before_acquire(move |_, connection| {
                let since = present.lock().unwrap_or_else(PoisonError::into_inner).since;
                let good = connection.age <= since.elapsed();
                Box::pin(async move { Ok(good) })
            })
            .connect_lazy_with(first);
        Ok(Self { servers, pool, choice })
    }

    /// A few connections to the chosen server, opened when first needed.
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Asks all servers at once what they are, and lets the pool connect to the one that can be written to: of several,
    /// to the one on the highest timeline, which was promoted last. To be repeated when the pool fails, while nobody
    /// else uses it.
    ///
    /// # Errors
    /// [`Error::NoServer`] with what each of them answered.
    pub async fn choose(&self) -> Result<(), Error> {
        let answers = join_all(self.servers.iter().map(timeline)).await;
        let mut best: Option<(usize, String)> = None;
        let mut refusals = Vec::new();
        for (index, (server, answer)) in self.servers.iter().zip(answers).enumerate() {
            match answer {
                Ok(timeline) if best.as_ref().is_none_or(|(_, other)| timeline > *other) => {
                    best = Some((index, timeline));
                }
                Ok(_) => {}
                Err(error) => refusals.push(Refusal { server: addresses::name(server), error }),
            }
        }
        let (server, _) = best.ok_or(Error::NoServer(refusals))?;
        let mut choice = self.choice.lock().unwrap_or_else(PoisonError::into_inner);
        if choice.server != server {
            self.pool.set_connect_options(self.servers[server].clone());
            *choice = Choice { server, since: Instant::now() };
        }
        Ok(())
    }
}

/// The timeline of a primary, as 8 hexadecimal digits.
///
/// A pooler is found by what it cannot do: a setting that comes with the connection reaches PostgreSQL itself, but a
/// pooler's connections to PostgreSQL were opened before, by itself, and are lent to many. It either refuses such
/// settings or forgets them, whatever its mode; and only a mode that lends for whole sessions would do, which nobody
/// can tell from outside by asking once.
async fn timeline(server: &PgConnectOptions) -> Result<String, Error> {
    const ASK: &str = "select case when pg_is_in_recovery() then null
                              else left(pg_walfile_name(pg_current_wal_lsn()), 8) end as timeline,
                              coalesce(current_setting('griot.session', true), '') as session";
    let session = Uuid::new_v4().to_string();
    let marked = server.clone().options([("griot.session", &session)]);
    let answer = async {
        let mut connection = PgConnection::connect_with(&marked).await.map_err(refused)?;
        // The simple protocol: a pooler that does not know prepared statements is to be recognised as well.
        let row = sqlx::raw_sql(ASK).fetch_one(&mut connection).await?;
        let timeline: Option<String> = row.try_get("timeline")?;
        let own = row.try_get::<String, _>("session")? == session;
        // It has answered; how it parts does not matter.
        let _ = connection.close().await;
        if own { timeline.ok_or(Error::Standby) } else { Err(Error::Pooler) }
    };
    tokio::time::timeout(ANSWER, answer).await.unwrap_or(Err(Error::Timeout { what: "connect", after: ANSWER }))
}

/// PostgreSQL knows every one of our settings; what does not is something else.
fn refused(error: sqlx::Error) -> Error {
    let text = error.as_database_error().map(|error| error.message().to_ascii_lowercase()).unwrap_or_default();
    if text.contains("startup parameter") { Error::Pooler } else { error.into() }
}
