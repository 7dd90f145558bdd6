//! Real servers, private to whoever starts them: free ports on loopback, temporary folders, and gone with this process
//! in every case.

use std::{
    collections::HashSet,
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    ops::RangeInclusive,
    process::Command,
    sync::{LazyLock, Mutex, PoisonError},
};

use anyhow::{Context, Result, ensure};
use tokio::sync::OnceCell;

mod database;
mod pooler;
mod postgres;
mod redis;
mod server;

pub use self::{database::Database, pooler::Pooler, postgres::Postgres, redis::Redis};

/// One Redis and one PostgreSQL, shared by the tests of a binary.
#[derive(Debug)]
pub struct Servers {
    /// Shared: no test stops it or empties it. A test's own keys begin with [`prefix`].
    pub redis: Redis,
    /// Shared: each test works in its own [`Database`].
    pub postgres: Postgres,
}

impl Servers {
    /// Starts both.
    pub async fn start() -> Result<Self> {
        let (redis, postgres) = tokio::try_join!(Redis::start(), Postgres::start())?;
        Ok(Self { redis, postgres })
    }
}

/// The servers of this test binary, started on first use.
///
/// # Panics
///
/// When a server cannot be started; the panic shows its output.
pub async fn shared() -> &'static Servers {
    static SHARED: OnceCell<Servers> = OnceCell::const_new();
    SHARED.get_or_try_init(Servers::start).await.unwrap_or_else(|error| panic!("{error:#}"))
}

/// A random prefix for the Redis keys of one test.
#[must_use]
pub fn prefix() -> String {
    format!("test-{}:", uuid::Uuid::new_v4().simple())
}

/// A port on loopback that nobody uses and that this process has not been given before.
///
/// It lies below the range from which the kernel picks ports for outgoing connections. A port inside it could be taken
/// by any connection while its server restarts, and a client that keeps connecting to it could end up connected to
/// itself.
pub fn free_port() -> Result<u16> {
    static GIVEN: LazyLock<Mutex<HashSet<u16>>> = LazyLock::new(Mutex::default);
    let ports = server_ports();
    for _ in 0..1_000 {
        let random = usize::from(uuid::Uuid::new_v4().as_fields().1);
        let port = ports.start() + u16::try_from(random % ports.len()).context("a range of ports holds a port")?;
        if !GIVEN.lock().unwrap_or_else(PoisonError::into_inner).insert(port) {
            continue;
        }
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    anyhow::bail!("no free port between {} and {}", ports.start(), ports.end())
}

/// [`free_port`] as a loopback address.
pub fn free_addr() -> Result<SocketAddr> {
    Ok(SocketAddr::from((Ipv4Addr::LOCALHOST, free_port()?)))
}

fn server_ports() -> RangeInclusive<u16> {
    const LOWEST: u16 = 10_000;
    let first_outgoing = fs::read_to_string("/proc/sys/net/ipv4/ip_local_port_range")
        .ok()
        .and_then(|range| range.split_whitespace().next()?.parse::<u16>().ok());
    match first_outgoing {
        Some(first) if first > LOWEST + 1_000 => LOWEST..=first - 1,
        _ => LOWEST..=u16::MAX,
    }
}

/// The standard output of a program that must succeed.
fn run(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("running {program}"))?;
    let complaints = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{program} {}: {}\n{complaints}", arguments.join(" "), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

#[cfg(test)]
mod tests;
