//! One connection of the load client.

use std::io::{ErrorKind, Read, Write};

use mio::net::TcpStream;

use super::dialect::{Dialect, Means};
use super::marker::{EVERYBODY, Marker, now};
use super::tally::Tally;
use crate::websocket::{self, BINARY, CLOSE, PING, PONG, TEXT};

/// See the module.
pub(super) struct Connection {
    pub(super) stream: TcpStream,
    dialect: Dialect,
    user: u64,
    /// What opens it, until it is written.
    request: Vec<u8>,
    /// What is said after the upgrade.
    greeting: Option<Vec<u8>>,
    subscribes: bool,
    upgraded: bool,
    pub(super) ready: bool,
    /// It never reads, once it is ready.
    deaf: bool,
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
    /// The number of the last publication to everybody, and to this user.
    last: [u64; 2],
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Became {
    Same,
    Ready,
    Gone,
}

impl Connection {
    pub(super) fn new(
        stream: TcpStream,
        dialect: Dialect,
        user: u64,
        request: Vec<u8>,
        greeting: Option<Vec<u8>>,
        subscribes: bool,
        deaf: bool,
    ) -> Self {
        let (upgraded, ready, rest, last) = (false, false, Vec::new(), [0; 2]);
        Self { stream, dialect, user, request, greeting, subscribes, upgraded, ready, deaf, rest, last }
    }

    /// Numbers are counted anew.
    pub(super) fn begin(&mut self) {
        self.last = [0; 2];
    }

    /// The socket has something to read or can be written to.
    pub(super) fn advance(&mut self, buffer: &mut [u8], tally: &Tally) -> Became {
        if !self.request.is_empty() {
            match self.stream.write(&self.request) {
                Ok(written) => drop(self.request.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::NotConnected => {}
                Err(_) => return Became::Gone,
            }
        }
        if self.deaf && self.ready {
            return Became::Same;
        }
        let was_ready = self.ready;
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Became::Gone,
                Ok(read) => read,
                Err(error) if error.kind() == ErrorKind::WouldBlock || error.kind() == ErrorKind::NotConnected => break,
                Err(_) => return Became::Gone,
            };
            tally.bytes.fetch_add(read as u64, std::sync::atomic::Ordering::Relaxed);
            let understood = if self.rest.is_empty() {
                let done = self.frames(&buffer[..read], tally);
                done.map(|done| self.rest.extend_from_slice(&buffer[done..read]))
            } else {
                let mut rest = std::mem::take(&mut self.rest);
                rest.extend_from_slice(&buffer[..read]);
                let done = self.frames(&rest, tally);
                done.map(|done| self.rest.extend_from_slice(&rest[done..]))
            };
            if understood.is_none() {
                return Became::Gone;
            }
            if read < buffer.len() {
                break;
            }
        }
        if self.ready && !was_ready { Became::Ready } else { Became::Same }
    }

    /// Takes the frames at the beginning of `bytes`; returns where the first that is not whole begins, or nothing when the
    /// connection is of no use any more.
    fn frames(&mut self, bytes: &[u8], tally: &Tally) -> Option<usize> {
        let mut done = 0;
        if !self.upgraded {
            let Some(end) = memchr::memmem::find(bytes, b"\r\n\r\n") else { return Some(0) };
            if !bytes.starts_with(b"HTTP/1.1 101") {
                return None;
            }
            (self.upgraded, done) = (true, end + 4);
            match self.greeting.take() {
                Some(greeting) => self.say(&greeting)?,
                None => self.ready = true,
            }
        }
        while let Some((opcode, begin, end)) = websocket::first(&bytes[done..]) {
            let payload = &bytes[done + begin..done + end];
            done += end;
            match opcode {
                TEXT | BINARY => self.hear(payload, tally)?,
                PING => self.say(&websocket::frame(PONG, payload, true))?,
                CLOSE => return None,
                _ => {}
            }
        }
        Some(done)
    }

    fn hear(&mut self, payload: &[u8], tally: &Tally) -> Option<()> {
        if self.ready
            && let Some(marker) = Marker::find(payload)
        {
            self.judge(marker, tally);
            return Some(());
        }
        match self.dialect.means(payload, self.ready, self.subscribes) {
            Means::Say(answer) => self.say(&answer)?,
            Means::Ready => self.ready = true,
            Means::Refused => return None,
            Means::Data => {}
        }
        Some(())
    }

    /// What is said is short, so that a socket takes it.
    fn say(&mut self, bytes: &[u8]) -> Option<()> {
        (self.stream.write(bytes).ok()? == bytes.len()).then_some(())
    }

    fn judge(&mut self, marker: Marker, tally: &Tally) {
        use std::sync::atomic::Ordering::Relaxed;
        let kind = match marker.user {
            EVERYBODY => 0,
            user if user == self.user => 1,
            _ => {
                tally.misdelivered.fetch_add(1, Relaxed);
                return;
            }
        };
        let expected = self.last[kind] + 1;
        if marker.number < expected {
            tally.twice.fetch_add(1, Relaxed);
            return;
        }
        tally.lost.fetch_add(marker.number - expected, Relaxed);
        self.last[kind] = marker.number;
        tally.arrived(now().saturating_sub(marker.nanos));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn heard(numbers: &[(u64, u64)]) -> (u64, u64, u64, u64) {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connects");
        let mut connection = Connection::new(stream, Dialect::Query, 7, Vec::new(), None, false, false);
        let tally = Tally::default();
        (connection.upgraded, connection.ready) = (true, true);
        let mut bytes = Vec::new();
        for (user, number) in numbers {
            let mut payload = Vec::new();
            Marker { user: *user, number: *number, nanos: 0 }.write(60, &mut payload);
            bytes.extend(websocket::frame(TEXT, &payload, false));
        }
        assert_eq!(connection.frames(&bytes, &tally), Some(bytes.len()));
        let counted = tally.counted();
        (counted.deliveries, counted.lost, counted.twice, counted.misdelivered)
    }

    #[test]
    fn what_is_lost_doubled_or_somebody_elses_is_found() {
        assert_eq!(heard(&[(7, 1), (EVERYBODY, 1), (7, 2), (EVERYBODY, 2)]), (4, 0, 0, 0));
        assert_eq!(heard(&[(7, 1), (7, 4)]), (2, 2, 0, 0));
        assert_eq!(heard(&[(7, 1), (7, 1), (7, 2)]), (2, 0, 1, 0));
        assert_eq!(heard(&[(7, 2), (7, 1)]), (1, 1, 1, 0));
        assert_eq!(heard(&[(8, 1)]), (0, 0, 0, 1));
    }
}
