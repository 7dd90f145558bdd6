//! The ways on which publications leave the load process.

use std::collections::VecDeque;
use std::future::poll_fn;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::task::Poll;
use std::thread;
use std::time::SystemTime;

use anyhow::{Context, Result};
use fanout_core::{Channel, Data, Publication, PublishError, Publisher, Receipt};
use serde::{Deserialize, Serialize};
use tokio::runtime::{Builder, Runtime};
use tokio::task::JoinHandle;
use tokio::task::coop::unconstrained;

use super::commits::Commits;
use super::fleet::user;
use super::marker::Marker;
use super::publisher::Publish;
use crate::emitter;

/// Most batches of the library that have not been answered.
const UNANSWERED: usize = 16;

/// The way in.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Via {
    /// Griot's library, on the Redis at this URL.
    Publisher(String),
    /// A plain `PUBLISH` at this address for Griot to route: the topic, and JSON that names the user.
    Raw(SocketAddr),
    /// `PUBLISH` at this address, of all that Griot's clients would be sent, so that others write as many bytes.
    Wrapped(SocketAddr),
    /// The same as other processes of a site publish to socket.io's Redis adapter.
    SocketIo(SocketAddr),
    /// The same as another nginx publishes it to nchan.
    Nchan(SocketAddr),
    /// Rows of the table `notices (user_id, body)` in the database at this URL: rules publish them.
    Commits(String),
}

/// What collects publications and sends them.
pub(super) enum Outlet {
    Library(Box<Library>),
    Socket(TcpStream, Vec<u8>),
    Commits(Commits),
}

/// Griot's library, as a site with much to publish uses it: the next batch leaves before the last is answered.
pub(super) struct Library {
    publisher: Publisher,
    runtime: Runtime,
    batch: Vec<Publication>,
    unanswered: VecDeque<JoinHandle<Receipts>>,
    answered: bool,
}

type Receipts = Vec<Result<Receipt, PublishError>>;

impl Outlet {
    pub(super) fn new(via: &Via) -> Result<Self> {
        match via {
            Via::Publisher(url) => Ok(Self::Library(Box::new(Library::new(url)?))),
            Via::Commits(url) => Ok(Self::Commits(Commits::connect(url)?)),
            Via::Raw(redis) | Via::Wrapped(redis) | Via::SocketIo(redis) | Via::Nchan(redis) => {
                let socket = TcpStream::connect(redis).with_context(|| format!("connecting to Redis at {redis}"))?;
                socket.set_nodelay(true)?;
                let mut answers = socket.try_clone()?;
                // What Redis answers says nothing, but has to be read.
                thread::spawn(move || while answers.read(&mut [0; 4096]).is_ok_and(|read| read > 0) {});
                Ok(Self::Socket(socket, Vec::new()))
            }
        }
    }

    pub(super) fn add(&mut self, publish: &Publish, marker: Marker) -> Result<()> {
        let mut data = Vec::new();
        marker.write(publish.bytes, &mut data);
        let own = || user(marker.user as usize);
        let name = || publish.channel.clone().unwrap_or_else(|| format!("{}:#{}", publish.topic, own()));
        match self {
            Self::Library(library) => {
                library.batch.push(Publication::new(Channel::parse(&name())?, Data::parse(data)?));
            }
            Self::Commits(commits) => commits.add(marker.user, own(), &data)?,
            Self::Socket(_, bytes) => {
                let mut channel = publish.channel.clone().unwrap_or_else(own);
                let wrapped = || wrap(&name(), &data, marker.number);
                match publish.via {
                    Via::Raw(_) => {
                        channel.clone_from(&publish.topic);
                        data = [format!("{{\"user_id\":\"{}\",\"of\":", own()).as_bytes(), &data, b"}"].concat();
                    }
                    Via::SocketIo(_) => {
                        data = emitter::socket_io(&channel, &String::from_utf8_lossy(&wrapped())).unwrap_or_default();
                        channel = emitter::socket_io_channel(&channel);
                    }
                    Via::Nchan(_) => {
                        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
                        data = emitter::nchan(&wrapped(), now.as_secs() as u32);
                        channel = emitter::nchan_channel(&channel);
                    }
                    Via::Wrapped(_) => data = wrapped(),
                    Via::Publisher(_) | Via::Commits(_) => {}
                }
                let head = format!("*3\r\n$7\r\nPUBLISH\r\n${}\r\n{channel}\r\n${}\r\n", channel.len(), data.len());
                bytes.extend([head.as_bytes(), &data, b"\r\n"].concat());
            }
        }
        Ok(())
    }

    /// Sends what was added. It may not have been taken when this returns.
    pub(super) fn flush(&mut self) -> Result<()> {
        match self {
            Self::Library(library) => library.flush(),
            // They leave as they come.
            Self::Commits(_) => Ok(()),
            Self::Socket(socket, bytes) => {
                socket.write_all(bytes)?;
                bytes.clear();
                Ok(())
            }
        }
    }

    /// Waits until what was sent has been taken, where somebody says so.
    pub(super) fn finish(&mut self) -> Result<()> {
        match self {
            Self::Library(library) => library.answers(0),
            Self::Commits(commits) => commits.finish(),
            Self::Socket(..) => Ok(()),
        }
    }
}

impl Library {
    fn new(url: &str) -> Result<Self> {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        let publisher = runtime.block_on(async { griot_tests::bridge::publisher(url) })?;
        Ok(Self { publisher, runtime, batch: Vec::new(), unanswered: VecDeque::new(), answered: false })
    }

    fn flush(&mut self) -> Result<()> {
        if !self.batch.is_empty() {
            let (publisher, batch) = (self.publisher.clone(), std::mem::take(&mut self.batch));
            let mut call = Box::pin(async move { publisher.publish_all(batch).await });
            // By the first poll all of it is on its way, before the next batch: tasks begin in any order.
            let begin = poll_fn(|context| Poll::Ready(call.as_mut().poll(context)));
            match self.runtime.block_on(unconstrained(begin)) {
                Poll::Ready(receipts) => self.take(receipts)?,
                Poll::Pending => self.unanswered.push_back(self.runtime.spawn(call)),
            }
        }
        // The first may have to bring its script to Redis, and nothing must overtake it.
        self.answers(if self.answered { UNANSWERED } else { 0 })
    }

    /// Takes the answers that are there, and waits until no more than `most` are missing.
    fn answers(&mut self, most: usize) -> Result<()> {
        while self.unanswered.len() > most || self.unanswered.front().is_some_and(JoinHandle::is_finished) {
            let Some(batch) = self.unanswered.pop_front() else { break };
            let receipts = self.runtime.block_on(batch)?;
            self.take(receipts)?;
        }
        Ok(())
    }

    fn take(&mut self, receipts: Receipts) -> Result<()> {
        self.answered = true;
        receipts.into_iter().try_for_each(|receipt| Ok(receipt.map(drop)?))
    }
}

/// What Griot's clients are sent for `data`.
fn wrap(channel: &str, data: &[u8], offset: u64) -> Vec<u8> {
    let head = format!("{{\"push\":{{\"channel\":\"{channel}\",\"pub\":{{\"data\":");
    let tail = format!(",\"offset\":{offset},\"tags\":{{\"id\":\"0b0b7c0e-6a3b-4f6e-9d53-0f6d0c1f2a3b\"}}}}}}}}");
    [head.as_bytes(), data, tail.as_bytes()].concat()
}
