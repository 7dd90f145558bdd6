//! Publishing, on the main thread of the load process: open loop at a rate, or closed loop with a window.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::{Duration, Instant, SystemTime};

use anyhow::{Context, Result};
use fanout_core::{Channel, Data, Publication, Publisher};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};

use super::fleet::user;
use super::marker::{EVERYBODY, Marker, now};
use super::tally::Tally;
use super::{Answer, Counted};
use crate::emitter;

/// How often what is due goes out.
const TICK: Duration = Duration::from_millis(1);
/// Nothing more is expected when nothing came for so long.
const QUIET: Duration = Duration::from_secs(5);

/// What to publish.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Publish {
    /// How.
    pub via: Via,
    /// To this channel; without, to users at random.
    pub channel: Option<String>,
    /// So many users there are, from this one on.
    pub users: (usize, usize),
    /// The topic of users' channels, where they have one.
    pub topic: String,
    /// How fast.
    pub pace: Pace,
    /// For how many seconds.
    pub seconds: f64,
    /// So many deliveries each publication makes.
    pub deliveries: u64,
    /// Bytes of each publication's data.
    pub bytes: usize,
}

/// The way into Redis.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Griot's library, on the Redis at this URL.
    Publisher(String),
    /// `PUBLISH` at this address, of all that Griot's clients would be sent, so that others write as many bytes.
    Wrapped(SocketAddr),
    /// The same as other processes of a site publish to socket.io's Redis adapter.
    SocketIo(SocketAddr),
    /// The same as another nginx publishes it to nchan.
    Nchan(SocketAddr),
}

/// How fast.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Pace {
    /// So many per second, whatever becomes of them; latency counts from when each should have left.
    PerSecond(f64),
    /// At most so many that have not arrived everywhere.
    Window(u64),
}

/// Publishes, and waits until everything has arrived.
pub(super) fn run(publish: &Publish, tally: &Tally) -> Answer {
    let since = Instant::now();
    match Outlet::new(publish).and_then(|outlet| spread(publish, outlet, tally)) {
        Ok(published) => {
            let counted = tally.counted();
            Answer { error: None, seconds: since.elapsed().as_secs_f64(), published, counted, own_cpu: 0.0 }
        }
        Err(error) => Answer { counted: Counted::default(), ..Answer::failed(format!("publishing: {error:#}")) },
    }
}

fn spread(publish: &Publish, mut outlet: Outlet, tally: &Tally) -> Result<u64> {
    let arrived = || tally.deliveries.load(Relaxed);
    let before = arrived();
    let mut numbers = vec![0; publish.users.1.max(1)];
    let mut random = fastrand::Rng::with_seed(6);
    let (begin, mut published) = (Instant::now(), 0_u64);
    let begin_nanos = now();
    let seconds = Duration::from_secs_f64(publish.seconds);
    while begin.elapsed() < seconds {
        let due = match publish.pace {
            Pace::PerSecond(rate) => (begin.elapsed().as_secs_f64() * rate) as u64 + 1,
            Pace::Window(window) => (arrived() - before) / publish.deliveries.max(1) + window,
        };
        for index in published..due {
            let nanos = match publish.pace {
                Pace::PerSecond(rate) => begin_nanos + (index as f64 / rate * 1e9) as u64,
                Pace::Window(_) => now(),
            };
            let which = random.usize(..publish.users.1.max(1));
            let which = if publish.channel.is_some() { 0 } else { which };
            numbers[which] += 1;
            let user = if publish.channel.is_some() { EVERYBODY } else { (publish.users.0 + which) as u64 };
            outlet.add(publish, Marker { user, number: numbers[which], nanos });
        }
        published = due.max(published);
        outlet.flush()?;
        match publish.pace {
            Pace::PerSecond(_) => thread::sleep(TICK),
            Pace::Window(_) => thread::sleep(Duration::from_micros(100)),
        }
    }
    let (mut last, mut moved) = (arrived(), Instant::now());
    while last - before < published * publish.deliveries && moved.elapsed() < QUIET {
        thread::sleep(TICK);
        let now = arrived();
        if now > last {
            (last, moved) = (now, Instant::now());
        }
    }
    Ok(published)
}

/// What collects publications and sends them.
enum Outlet {
    Library(Box<Publisher>, Runtime, Vec<Publication>),
    Socket(TcpStream, Vec<u8>),
}

impl Outlet {
    fn new(publish: &Publish) -> Result<Self> {
        match &publish.via {
            Via::Publisher(url) => {
                let runtime = Builder::new_current_thread().enable_all().build()?;
                let publisher = runtime.block_on(async { griot_tests::bridge::publisher(url) })?;
                Ok(Self::Library(Box::new(publisher), runtime, Vec::new()))
            }
            Via::Wrapped(redis) | Via::SocketIo(redis) | Via::Nchan(redis) => {
                let socket = TcpStream::connect(redis).with_context(|| format!("connecting to Redis at {redis}"))?;
                socket.set_nodelay(true)?;
                let mut answers = socket.try_clone()?;
                // What Redis answers says nothing, but has to be read.
                thread::spawn(move || while answers.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {});
                Ok(Self::Socket(socket, Vec::new()))
            }
        }
    }

    fn add(&mut self, publish: &Publish, marker: Marker) {
        let mut data = Vec::new();
        marker.write(publish.bytes, &mut data);
        let own = || user(marker.user as usize);
        match self {
            Self::Library(_, _, publications) => {
                let channel = publish.channel.clone().unwrap_or_else(|| format!("{}:#{}", publish.topic, own()));
                if let (Ok(channel), Ok(data)) = (Channel::parse(&channel), Data::parse(data)) {
                    publications.push(Publication::new(channel, data));
                }
            }
            Self::Socket(_, bytes) => {
                let name = publish.channel.clone().unwrap_or_else(|| format!("{}:#{}", publish.topic, own()));
                let mut channel = publish.channel.clone().unwrap_or_else(own);
                data = wrap(&name, &data, marker.number);
                match publish.via {
                    Via::SocketIo(_) => {
                        data = emitter::socket_io(&channel, &String::from_utf8_lossy(&data)).unwrap_or_default();
                        channel = emitter::socket_io_channel(&channel);
                    }
                    Via::Nchan(_) => {
                        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                        data = emitter::nchan(&data, now.as_secs() as u32);
                        channel = emitter::nchan_channel(&channel);
                    }
                    Via::Publisher(_) | Via::Wrapped(_) => {}
                }
                let head = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), data.len());
                bytes.extend([head.as_bytes(), &data, b"\r\n"].concat());
            }
        }
    }

    fn flush(&mut self) -> Result<()> {
        match self {
            Self::Library(publisher, runtime, publications) if !publications.is_empty() => {
                let publications = std::mem::take(publications);
                for receipt in runtime.block_on(publisher.publish_all(publications)) {
                    receipt?;
                }
            }
            Self::Socket(socket, bytes) if !bytes.is_empty() => {
                socket.write_all(bytes)?;
                bytes.clear();
            }
            _ => {}
        }
        Ok(())
    }
}

/// What Griot's clients are sent for `data`.
fn wrap(channel: &str, data: &[u8], offset: u64) -> Vec<u8> {
    let head = format!("{{\"push\":{{\"channel\":\"{channel}\",\"pub\":{{\"data\":");
    let tail = format!(",\"offset\":{offset},\"tags\":{{\"id\":\"0b0b7c0e-6a3b-4f6e-9d53-0f6d0c1f2a3b\"}}}}}}}}");
    [head.as_bytes(), data, tail.as_bytes()].concat()
}
