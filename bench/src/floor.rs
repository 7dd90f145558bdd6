//! The floor server: accepts upgrades, subscribes in Redis, and for each publication makes one frame and one write per
//! subscriber. Nothing else: no tokens, no history, no recovery. It is the least that a correct server can do with one write
//! per delivery, and what Griot's costs are divided by.

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read, Write};
use std::net::SocketAddr;

use anyhow::{Context, Result};
use mio::net::{TcpListener, TcpStream};
use mio::{Events, Interest, Poll, Token};

use crate::websocket::{self, CLOSE, PING, PONG, TEXT};

const LISTENER: Token = Token(usize::MAX);
const REDIS: Token = Token(usize::MAX - 1);
/// Bytes read at once.
const READ: usize = 64 * 1024;
/// Most bytes that may wait for a client.
const MAX_WAITING: usize = 1024 * 1024;

struct Client {
    stream: TcpStream,
    /// The request, until it is whole.
    request: Vec<u8>,
    upgraded: bool,
    channels: Vec<usize>,
    /// What the socket did not take.
    waiting: Vec<u8>,
}

/// See the module.
pub struct Floor {
    poll: Poll,
    listener: TcpListener,
    redis: TcpStream,
    clients: Vec<Option<Client>>,
    free: Vec<usize>,
    names: HashMap<Vec<u8>, usize>,
    members: Vec<Vec<usize>>,
    /// What Redis has said: so many bytes that are not understood yet, and room.
    unread: Vec<u8>,
    filled: usize,
    buffer: Vec<u8>,
}

impl Floor {
    /// Listens at `listen` and connects to the Redis at `redis`.
    ///
    /// # Errors
    /// An address that cannot be had.
    pub fn new(listen: SocketAddr, redis: SocketAddr) -> Result<Self> {
        let poll = Poll::new()?;
        let mut listener = TcpListener::bind(listen).with_context(|| format!("listening at {listen}"))?;
        let redis = std::net::TcpStream::connect(redis).with_context(|| format!("connecting to Redis at {redis}"))?;
        redis.set_nodelay(true)?;
        redis.set_nonblocking(true)?;
        let mut redis = TcpStream::from_std(redis);
        poll.registry().register(&mut listener, LISTENER, Interest::READABLE)?;
        poll.registry().register(&mut redis, REDIS, Interest::READABLE)?;
        Ok(Self {
            poll,
            listener,
            redis,
            clients: Vec::new(),
            free: Vec::new(),
            names: HashMap::new(),
            members: Vec::new(),
            unread: vec![0; 2 * READ],
            filled: 0,
            buffer: vec![0; READ],
        })
    }

    /// Serves until something fails.
    ///
    /// # Errors
    /// Redis is gone.
    pub fn run(mut self) -> Result<()> {
        let mut events = Events::with_capacity(1_024);
        loop {
            self.poll.poll(&mut events, None)?;
            for event in &events {
                match event.token() {
                    LISTENER => self.accept()?,
                    REDIS => self.hear()?,
                    Token(id) => {
                        if event.is_writable() {
                            self.flush(id);
                        }
                        if event.is_readable() && !self.read(id) {
                            self.close(id);
                        }
                    }
                }
            }
        }
    }

    fn accept(&mut self) -> Result<()> {
        loop {
            let mut stream = match self.listener.accept() {
                Ok((stream, _)) => stream,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                // Somebody who left before, or too many: the next may do better.
                Err(_) => continue,
            };
            let _ = stream.set_nodelay(true);
            let id = self.free.pop().unwrap_or_else(|| {
                self.clients.push(None);
                self.clients.len() - 1
            });
            self.poll.registry().register(&mut stream, Token(id), Interest::READABLE | Interest::WRITABLE)?;
            let (request, channels, waiting) = (Vec::new(), Vec::new(), Vec::new());
            self.clients[id] = Some(Client { stream, request, upgraded: false, channels, waiting });
        }
    }

    /// Reads what a client says; `false` when it is gone.
    fn read(&mut self, id: usize) -> bool {
        loop {
            let Some(client) = &mut self.clients[id] else { return true };
            let read = match client.stream.read(&mut self.buffer) {
                Ok(0) => return false,
                Ok(read) => read,
                Err(error) => return error.kind() == ErrorKind::WouldBlock,
            };
            if client.upgraded {
                match websocket::first(&self.buffer[..read]) {
                    Some((CLOSE, ..)) => return false,
                    Some((PING, ..)) => client.send(&websocket::frame(PONG, b"", false)),
                    _ => {}
                }
            } else {
                client.request.extend_from_slice(&self.buffer[..read]);
                if client.request.ends_with(b"\r\n\r\n") {
                    let request = std::mem::take(&mut client.request);
                    if self.upgrade(id, &request).is_none() {
                        return false;
                    }
                }
            }
            if read < READ {
                return true;
            }
        }
    }

    fn upgrade(&mut self, id: usize, request: &[u8]) -> Option<()> {
        let text = std::str::from_utf8(request).ok()?;
        let path = text.split(' ').nth(1)?;
        let key = text.lines().find_map(|line| {
            let (name, value) = line.split_once(':')?;
            name.eq_ignore_ascii_case("sec-websocket-key").then(|| value.trim())
        })?;
        let query = path.split_once('?').map_or("", |(_, query)| query);
        for name in query.split('&').filter_map(|pair| pair.strip_prefix("channel=")) {
            let channel = self.channel(name).ok()?;
            self.members[channel].push(id);
            self.clients[id].as_mut()?.channels.push(channel);
        }
        let client = self.clients[id].as_mut()?;
        client.upgraded = true;
        client.send(websocket::accept(key).as_bytes());
        Some(())
    }

    fn channel(&mut self, name: &str) -> io::Result<usize> {
        if let Some(known) = self.names.get(name.as_bytes()) {
            return Ok(*known);
        }
        let command = format!("*2\r\n$9\r\nSUBSCRIBE\r\n${}\r\n{name}\r\n", name.len());
        let mut rest = command.as_bytes();
        while !rest.is_empty() {
            match self.redis.write(rest) {
                Ok(written) => rest = &rest[written..],
                Err(error) if error.kind() == ErrorKind::WouldBlock => std::thread::yield_now(),
                Err(error) => return Err(error),
            }
        }
        self.members.push(Vec::new());
        self.names.insert(name.into(), self.members.len() - 1);
        Ok(self.members.len() - 1)
    }

    /// Reads what Redis says and hands it on.
    fn hear(&mut self) -> Result<()> {
        loop {
            if self.unread.len() < self.filled + READ {
                self.unread.resize(self.filled + READ, 0);
            }
            let read = match self.redis.read(&mut self.unread[self.filled..]) {
                Ok(0) => anyhow::bail!("Redis has closed the connection"),
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
                Err(error) => return Err(error).context("reading from Redis"),
            };
            let is_all = self.filled + read < self.unread.len();
            self.filled += read;
            let mut done = 0;
            while let Some((parts, length)) = array(&self.unread[done..self.filled]) {
                if let [b"message", channel, payload] = parts
                    && let Some(channel) = self.names.get(channel)
                {
                    let frame = websocket::frame(TEXT, payload, false);
                    for id in &self.members[*channel] {
                        if let Some(client) = &mut self.clients[*id] {
                            client.send(&frame);
                        }
                    }
                }
                done += length;
            }
            self.unread.copy_within(done..self.filled, 0);
            self.filled -= done;
            if is_all {
                return Ok(());
            }
        }
    }

    fn flush(&mut self, id: usize) {
        if let Some(client) = &mut self.clients[id]
            && !client.waiting.is_empty()
        {
            let waiting = std::mem::take(&mut client.waiting);
            client.send(&waiting);
        }
    }

    fn close(&mut self, id: usize) {
        let Some(mut client) = self.clients[id].take() else { return };
        let _ = self.poll.registry().deregister(&mut client.stream);
        for channel in client.channels {
            self.members[channel].retain(|member| *member != id);
        }
        self.free.push(id);
    }
}

impl Client {
    /// One write; what the socket does not take waits until it does. Who lets too much wait gets nothing more.
    fn send(&mut self, bytes: &[u8]) {
        let written = if self.waiting.is_empty() { self.stream.write(bytes).unwrap_or(0) } else { 0 };
        if written < bytes.len() {
            self.waiting.extend_from_slice(&bytes[written..]);
            if self.waiting.len() > MAX_WAITING {
                let _ = self.stream.shutdown(std::net::Shutdown::Both);
            }
        }
    }
}

/// The first array of three strings in `bytes`, and its length; the third may be a number.
fn array(bytes: &[u8]) -> Option<([&[u8]; 3], usize)> {
    let mut rest = bytes.strip_prefix(b"*3\r\n")?;
    let mut parts = [&[][..]; 3];
    for part in &mut parts {
        let end = memchr::memchr(b'\r', rest)?;
        let number = rest.get(1..end)?;
        let after = rest.get(end + 2..)?;
        (*part, rest) = if rest[0] == b':' {
            (number, after)
        } else {
            let length: usize = std::str::from_utf8(number).ok()?.parse().ok()?;
            (after.get(..length)?, after.get(length + 2..)?)
        };
    }
    Some((parts, bytes.len() - rest.len()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_redis_says_is_taken_apart_wherever_it_is_torn() {
        let said = b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n*3\r\n$7\r\nmessage\r\n$1\r\na\r\n$2\r\nhi\r\n";
        let (first, length) = array(said).expect("whole");
        assert_eq!(first, [&b"subscribe"[..], b"a", b"1"]);
        let rest = &said[length..];
        assert_eq!(array(rest), Some(([&b"message"[..], b"a", b"hi"], rest.len())));
        assert!((0..rest.len()).all(|cut| array(&rest[..cut]).is_none()));
    }
}
