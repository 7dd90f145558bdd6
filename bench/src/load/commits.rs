//! Commits in PostgreSQL: one row each, on several connections, in as much of its protocol as that needs. The server must
//! trust whoever connects, as private ones do.

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::mpsc::{Receiver, TryRecvError, channel};
use std::thread;

use anyhow::{Context, Result, bail};

/// Enough that a commit waits for the disk only behind few others.
const CONNECTIONS: usize = 8;
/// Version 3.0 of the protocol.
const VERSION: u32 = 3 << 16;
/// Kinds of message.
const QUERY: u8 = b'Q';
const ERROR: u8 = b'E';
const READY: u8 = b'Z';

/// See the module.
pub(super) struct Commits(Vec<Link>);

struct Link {
    socket: TcpStream,
    unsent: Vec<u8>,
    unanswered: usize,
    /// Of each query: whether it succeeded.
    answers: Receiver<Result<()>>,
}

impl Commits {
    pub(super) fn connect(addr: SocketAddr, database: &str) -> Result<Self> {
        let link = |_| Link::connect(addr, database);
        Ok(Self((0..CONNECTIONS).map(link).collect::<Result<_>>().context("connecting to PostgreSQL")?))
    }

    /// Those of one user keep their order.
    pub(super) fn add(&mut self, number: u64, user: &str, data: &[u8]) {
        let link = &mut self.0[number as usize % CONNECTIONS];
        let body = String::from_utf8_lossy(data);
        let query = format!("insert into notices (user_id, body) values ('{user}', '{body}')\0");
        link.unsent.extend(message(Some(QUERY), query.as_bytes()));
        link.unanswered += 1;
    }

    pub(super) fn flush(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|link| link.flush(false))
    }

    /// Waits until all are committed.
    pub(super) fn finish(&mut self) -> Result<()> {
        self.0.iter_mut().try_for_each(|link| link.flush(true))
    }
}

impl Link {
    fn connect(addr: SocketAddr, database: &str) -> Result<Self> {
        let mut socket = TcpStream::connect(addr)?;
        socket.set_nodelay(true)?;
        let hello = format!("user\0postgres\0database\0{database}\0\0");
        socket.write_all(&message(None, &[&VERSION.to_be_bytes(), hello.as_bytes()].concat()))?;
        outcome(&mut socket)?;
        let (say, answers) = channel();
        let mut reading = socket.try_clone()?;
        thread::spawn(move || {
            let mut goes_on = true;
            while goes_on {
                let outcome = outcome(&mut reading);
                goes_on = outcome.is_ok();
                goes_on &= say.send(outcome).is_ok();
            }
        });
        Ok(Self { socket, unsent: Vec::new(), unanswered: 0, answers })
    }

    /// Sends what is unsent, and takes the answers that are there; all of them where it `waits`.
    fn flush(&mut self, waits: bool) -> Result<()> {
        self.socket.write_all(&self.unsent)?;
        self.unsent.clear();
        while self.unanswered > 0 {
            let answer = if waits {
                self.answers.recv()?
            } else {
                match self.answers.try_recv() {
                    Err(TryRecvError::Empty) => break,
                    answer => answer?,
                }
            };
            answer.context("a commit")?;
            self.unanswered -= 1;
        }
        Ok(())
    }
}

/// Reads until the server is ready for the next query; whether it took the last.
fn outcome(server: &mut impl Read) -> Result<()> {
    let mut refused = None;
    loop {
        match (heard(server), refused) {
            (Ok((ERROR, words)), _) => refused = Some(String::from_utf8_lossy(&words).replace('\0', " ")),
            // Whom it does not let in it tells so and leaves.
            (Ok((READY, _)) | Err(_), Some(words)) => bail!("PostgreSQL refuses it: {words}"),
            (Ok((READY, _)), None) => return Ok(()),
            (Ok(_), words) => refused = words,
            (Err(error), None) => return Err(error).context("the connection to PostgreSQL"),
        }
    }
}

/// The next message: its kind and its body.
fn heard(server: &mut impl Read) -> io::Result<(u8, Vec<u8>)> {
    let mut head = [0; 5];
    server.read_exact(&mut head)?;
    let [kind, length @ ..] = head;
    let mut body = vec![0; (u32::from_be_bytes(length) as usize).saturating_sub(4)];
    server.read_exact(&mut body)?;
    Ok((kind, body))
}

/// A message: its kind, which the first has none of, and its length before the body.
fn message(kind: Option<u8>, body: &[u8]) -> Vec<u8> {
    let length = (body.len() as u32 + 4).to_be_bytes();
    kind.into_iter().chain(length).chain(body.iter().copied()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_server_refuses_is_told_with_its_words() {
        let ready = message(Some(READY), b"I");
        let done = [message(Some(b'C'), b"INSERT 0 1\0"), ready.clone()].concat();
        assert!(outcome(&mut &done[..]).is_ok());
        let refused = [message(Some(ERROR), b"SERROR\0Mno such table\0\0"), ready].concat();
        let error = outcome(&mut &refused[..]).expect_err("refused").to_string();
        assert!(error.contains("no such table"), "{error}");
        assert!(outcome(&mut &done[..done.len() - 1]).is_err());
    }
}
