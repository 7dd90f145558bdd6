//! One connection of the load client.

use std::io::{Read, Write};

use super::dialect::{Dialect, Means};
use super::marker::{EVERYBODY, Marker, now};
use super::position;
use super::stream::{Stream, is_not_yet};
use super::tally::Tally;
use crate::websocket::{self, BINARY, CLOSE, PING, PONG, TEXT};

/// See the module.
pub(super) struct Connection {
    stream: Stream,
    part: Part,
    upgraded: bool,
    pub(super) ready: bool,
    /// The beginning of a frame whose end has not come.
    rest: Vec<u8>,
    /// The number of the last publication to everybody, and to this user.
    last: [u64; 2],
    /// Where its channels stood when it was ready, if it is to remember that.
    pub(super) positions: Option<String>,
}

/// What a connection is to do.
pub(super) struct Part {
    pub(super) dialect: Dialect,
    pub(super) user: u64,
    /// What opens it, until it is written.
    pub(super) request: Vec<u8>,
    /// What is said after the upgrade.
    pub(super) greeting: Option<Vec<u8>>,
    pub(super) subscribes: bool,
    /// It never reads, once it is ready.
    pub(super) deaf: bool,
    /// It remembers where its channels stand, and what it has missed is in the reply that makes it ready.
    pub(super) recovers: bool,
}

/// What became of a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Became {
    Same,
    Ready,
    Gone,
}

impl Connection {
    pub(super) fn new(stream: Stream, part: Part) -> Self {
        let (upgraded, ready, rest, last, positions) = (false, false, Vec::new(), [0; 2], None);
        Self { stream, part, upgraded, ready, rest, last, positions }
    }

    /// Numbers are counted anew.
    pub(super) fn begin(&mut self) {
        self.last = [0; 2];
    }

    /// The socket has something to read or can be written to; where its end `is_near`, that comes behind what there is.
    pub(super) fn advance(&mut self, is_near: bool, buffer: &mut [u8], tally: &Tally) -> Became {
        if !self.part.request.is_empty() {
            match self.stream.write(&self.part.request) {
                Ok(written) => drop(self.part.request.drain(..written)),
                Err(error) if is_not_yet(&error) => {}
                Err(_) => return Became::Gone,
            }
        }
        if self.part.deaf && self.ready {
            return Became::Same;
        }
        let was_ready = self.ready;
        loop {
            let read = match self.stream.read(buffer) {
                Ok(0) => return Became::Gone,
                Ok(read) => read,
                Err(error) if is_not_yet(&error) => break,
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
            if read < buffer.len() && !is_near {
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
            match self.part.greeting.take() {
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
        match self.part.dialect.means(payload, self.ready, self.part.subscribes) {
            Means::Say(answer) => self.say(&answer)?,
            Means::Ready => {
                self.ready = true;
                if self.part.recovers {
                    self.positions = position::subs(payload);
                    if !position::is_recovered(payload) {
                        tally.unrecovered.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                    }
                    Marker::all(payload).for_each(|marker| self.judge(marker, tally));
                }
            }
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
            user if user == self.part.user => 1,
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
    use mio::net::TcpStream;

    use super::*;

    fn part(recovers: bool) -> Part {
        let dialect = if recovers { Dialect::Griot } else { Dialect::Query };
        Part { dialect, user: 7, request: Vec::new(), greeting: None, subscribes: false, deaf: false, recovers }
    }

    fn connection(recovers: bool) -> Connection {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("binds");
        let stream = TcpStream::connect(listener.local_addr().expect("address")).expect("connects");
        Connection { upgraded: true, ready: !recovers, ..Connection::new(Stream::Plain(stream), part(recovers)) }
    }

    fn heard(numbers: &[(u64, u64)]) -> (u64, u64, u64, u64) {
        let (mut connection, tally) = (connection(false), Tally::default());
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
    #[test]
    fn what_was_missed_is_counted_out_of_the_reply() {
        let (mut connection, tally) = (connection(true), Tally::default());
        let mut reply = br#"{"id":1,"connect":{"subs":{"a:#user-7":{"epoch":"e","publications":["#.to_vec();
        Marker { user: 7, number: 1, nanos: 0 }.write(60, &mut reply);
        reply.push(b',');
        Marker { user: 7, number: 2, nanos: 0 }.write(60, &mut reply);
        reply.extend_from_slice(b"]}}}}");
        let frame = websocket::frame(TEXT, &reply, false);
        assert_eq!(connection.frames(&frame, &tally), Some(frame.len()));
        let counted = tally.counted();
        assert!(connection.ready && connection.positions.is_some());
        assert_eq!((counted.deliveries, counted.unrecovered), (2, 0));
    }
}
