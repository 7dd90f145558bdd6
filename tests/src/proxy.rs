//! A TCP proxy that breaks connections in the ways networks do.

use std::{
    io,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{ReadHalf, WriteHalf},
    },
    sync::{Mutex as AsyncMutex, mpsc, watch},
    time::{Instant, sleep_until},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use crate::servers::free_addr;

/// Chunks on their way in one direction. Bounded, so that a stalled or slow link pushes back on its sender.
const CHUNKS_IN_FLIGHT: usize = 64;
const CHUNK_BYTES: usize = 16 * 1024;

/// A link between clients and one upstream address. It passes everything on until told otherwise, and ends with its
/// connections when it is dropped.
#[derive(Debug)]
pub struct Proxy {
    addr: SocketAddr,
    link: Arc<Link>,
    /// `None` while the link is cut.
    listening: AsyncMutex<Option<Listening>>,
}

/// What the proxy shares with its tasks.
#[derive(Debug)]
struct Link {
    conditions: watch::Sender<Conditions>,
    /// The connections that [`Proxy::cut`] and [`Proxy::reset`] end; those who come later belong to the next.
    generation: Mutex<Arc<Generation>>,
}

#[derive(Debug, Clone, Copy)]
struct Conditions {
    upstream: SocketAddr,
    stalled: bool,
    delay: Duration,
}

#[derive(Debug, Default)]
struct Generation {
    over: watch::Sender<Option<Ending>>,
    connections: TaskTracker,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Ending {
    /// FIN: the peers read the end of the stream.
    Close,
    /// RST: the peers get "connection reset".
    Reset,
}

#[derive(Debug)]
struct Listening {
    stop: CancellationToken,
    task: TaskTracker,
}

impl Proxy {
    /// Listens on a free loopback port and connects to `upstream` for each connection.
    pub async fn start(upstream: SocketAddr) -> Result<Self> {
        let conditions = Conditions { upstream, stalled: false, delay: Duration::ZERO };
        let link = Link { conditions: watch::Sender::new(conditions), generation: Mutex::default() };
        let proxy = Self { addr: free_addr()?, link: Arc::new(link), listening: AsyncMutex::new(None) };
        proxy.restore().await?;
        Ok(proxy)
    }

    /// Where clients connect; the same for the proxy's whole life.
    #[must_use]
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Closes all connections and refuses new ones. When this returns it has happened.
    pub async fn cut(&self) {
        let mut listening = self.listening.lock().await;
        if let Some(Listening { stop, task }) = listening.take() {
            stop.cancel();
            task.close();
            task.wait().await;
            self.link.end_connections(Ending::Close).await;
        }
    }

    /// Accepts connections again after [`Proxy::cut`].
    pub async fn restore(&self) -> Result<()> {
        let mut listening = self.listening.lock().await;
        if listening.is_none() {
            let listener = TcpListener::bind(self.addr).await?;
            let (stop, task) = (CancellationToken::new(), TaskTracker::new());
            task.spawn(stop.clone().run_until_cancelled_owned(accept(listener, Arc::clone(&self.link))));
            *listening = Some(Listening { stop, task });
        }
        Ok(())
    }

    /// Resets all connections at both ends; new ones are accepted. When this returns it has happened.
    pub async fn reset(&self) {
        self.link.end_connections(Ending::Reset).await;
    }

    /// Stops the flow of bytes both ways. Connections stay, and new ones are accepted.
    pub fn stall(&self) {
        self.link.conditions.send_modify(|conditions| conditions.stalled = true);
    }

    /// Ends a [`Proxy::stall`]; what was held back flows on.
    pub fn resume(&self) {
        self.link.conditions.send_modify(|conditions| conditions.stalled = false);
    }

    /// Delays each byte by this much each way, without limiting how many are on their way.
    pub fn delay(&self, delay: Duration) {
        self.link.conditions.send_modify(|conditions| conditions.delay = delay);
    }

    /// Sends new connections elsewhere; those that exist stay where they are.
    pub fn retarget(&self, upstream: SocketAddr) {
        self.link.conditions.send_modify(|conditions| conditions.upstream = upstream);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(Listening { stop, .. }) = self.listening.get_mut().take() {
            stop.cancel();
        }
        self.link.next_generation().over.send_replace(Some(Ending::Close));
    }
}

impl Link {
    /// Begins the next generation and returns the one before.
    fn next_generation(&self) -> Arc<Generation> {
        std::mem::take(&mut *self.generation.lock().unwrap_or_else(PoisonError::into_inner))
    }

    async fn end_connections(&self, ending: Ending) {
        let generation = self.next_generation();
        generation.over.send_replace(Some(ending));
        generation.connections.close();
        generation.connections.wait().await;
    }
}

async fn accept(listener: TcpListener, link: Arc<Link>) {
    // An error ends the listener: the tests that use it then see refused connections.
    while let Ok((client, _)) = listener.accept().await {
        let generation = link.generation.lock().unwrap_or_else(PoisonError::into_inner);
        let over = generation.over.subscribe();
        generation.connections.spawn(connection(client, link.conditions.subscribe(), over));
    }
}

async fn connection(
    mut client: TcpStream,
    conditions: watch::Receiver<Conditions>,
    mut over: watch::Receiver<Option<Ending>>,
) {
    let upstream = conditions.borrow().upstream;
    let Ok(mut server) = TcpStream::connect(upstream).await else { return };
    let ending = tokio::select! {
        biased;
        // The sender lives as long as a connection of its generation is waited for.
        ending = over.wait_for(Option::is_some) => ending.ok().and_then(|ending| *ending).unwrap_or(Ending::Close),
        passed = pass(&mut client, &mut server, &conditions) => match passed {
            Ok(()) => Ending::Close,
            // Nearly always a reset by one end, which the other must see as one.
            Err(_) => Ending::Reset,
        }
    };
    if ending == Ending::Reset {
        // A socket that fails here is gone already.
        let _ = (client.set_zero_linger(), server.set_zero_linger());
    }
}

async fn pass(
    client: &mut TcpStream,
    server: &mut TcpStream,
    conditions: &watch::Receiver<Conditions>,
) -> io::Result<()> {
    client.set_nodelay(true)?;
    server.set_nodelay(true)?;
    let (from_client, to_client) = client.split();
    let (from_server, to_server) = server.split();
    tokio::try_join!(
        pass_one_way(from_client, to_server, conditions.clone()),
        pass_one_way(from_server, to_client, conditions.clone()),
    )?;
    Ok(())
}

/// Two loops with a queue between them, so that a delay does not limit the throughput.
async fn pass_one_way(
    mut from: ReadHalf<'_>,
    mut to: WriteHalf<'_>,
    conditions: watch::Receiver<Conditions>,
) -> io::Result<()> {
    let (queue, mut chunks) = mpsc::channel::<(Instant, Vec<u8>)>(CHUNKS_IN_FLIGHT);
    let mut arriving = conditions.clone();
    let read = async move {
        let mut buffer = vec![0; CHUNK_BYTES];
        loop {
            flowing(&mut arriving).await;
            let length = from.read(&mut buffer).await?;
            let due = Instant::now() + arriving.borrow().delay;
            if length == 0 || queue.send((due, buffer[..length].to_vec())).await.is_err() {
                return Ok(());
            }
        }
    };
    let mut leaving = conditions;
    let write = async move {
        while let Some((due, chunk)) = chunks.recv().await {
            sleep_until(due).await;
            flowing(&mut leaving).await;
            to.write_all(&chunk).await?;
        }
        flowing(&mut leaving).await;
        to.shutdown().await
    };
    tokio::try_join!(read, write)?;
    Ok(())
}

/// Waits for the end of a stall.
async fn flowing(conditions: &mut watch::Receiver<Conditions>) {
    // Without a sender the proxy is gone, and the connection about to end.
    let _ = conditions.wait_for(|conditions| !conditions.stalled).await;
}

#[cfg(test)]
mod tests;
