//! All connections of a load process, on one loop.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, TryRecvError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use mio::net::TcpStream;
use mio::{Events, Interest, Poll, Token, Waker};
use rustls::ClientConfig;
use socket2::{Domain, Protocol, Socket, Type};

use super::connection::{Became, Connection, Part};
use super::stream::{Stream, trusting};
use super::tally::Tally;
use super::{Answer, Command, Connect};
use crate::process;

const WAKE: Token = Token(usize::MAX);
/// Bytes read at once.
const READ: usize = 64 * 1024;
/// Connections that leave from one source address: fewer than there are ports. Whoever comes back does so from another, as
/// from a network: to the same server from the same port a connection waits until the one before it is forgotten.
const PER_SOURCE: usize = 4_000;
/// How long connections may take to become ready, all together.
const PATIENCE: Duration = Duration::from_secs(120);

/// See the module.
pub(super) struct Fleet {
    poll: Poll,
    waker: Arc<Waker>,
    tally: Arc<Tally>,
    orders: Receiver<Command>,
    connections: Vec<Option<Connection>>,
    /// Of connections that were closed: where their channels stood.
    positions: Vec<Option<String>>,
    opening: Option<Opening>,
    /// How many were opened, of which the source addresses follow.
    opened: usize,
    cpu: Duration,
    buffer: Vec<u8>,
}

/// Connections that are being opened.
struct Opening {
    connect: Connect,
    tokens: Vec<String>,
    /// How TLS is spoken, where it is.
    tls: Option<Arc<ClientConfig>>,
    /// Whether each is closed as soon as it is ready.
    churns: bool,
    /// Where the first of them stands.
    first: usize,
    begun: usize,
    ready: usize,
    gone: usize,
    since: Instant,
}

impl Fleet {
    pub(super) fn new(tally: Arc<Tally>, orders: Receiver<Command>) -> Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let (connections, positions, opening) = (Vec::new(), Vec::new(), None);
        let (opened, cpu, buffer) = (0, Duration::ZERO, vec![0; READ]);
        Ok(Self { poll, waker, tally, orders, connections, positions, opening, opened, cpu, buffer })
    }

    pub(super) fn waker(&self) -> Arc<Waker> {
        Arc::clone(&self.waker)
    }

    /// Runs until nobody gives orders any more.
    pub(super) fn run(mut self, answers: &Sender<Answer>) {
        let mut events = Events::with_capacity(1_024);
        loop {
            if self.poll.poll(&mut events, Some(Duration::from_secs(1))).is_err() {
                continue;
            }
            for event in &events {
                if event.token() != WAKE {
                    self.advance(event.token().0, event.is_read_closed());
                }
            }
            loop {
                match self.orders.try_recv() {
                    Ok(order) => {
                        if let Some(answer) = self.obey(order) {
                            let _ = answers.send(answer);
                        }
                    }
                    Err(TryRecvError::Empty) => break,
                    Err(TryRecvError::Disconnected) => return,
                }
            }
            if let Some(answer) = self.open() {
                let _ = answers.send(answer);
            }
        }
    }

    fn answer(&self, since: Instant) -> Answer {
        Answer {
            error: None,
            seconds: since.elapsed().as_secs_f64(),
            published: 0,
            counted: self.tally.counted(),
            own_cpu: process::own_thread_cpu().saturating_sub(self.cpu).as_secs_f64() * 1e6,
        }
    }

    /// Does what can be done at once; opening goes on in the loop.
    fn obey(&mut self, order: Command) -> Option<Answer> {
        let since = Instant::now();
        match order {
            Command::Connect(connect) => return self.begin_opening(connect, false),
            Command::Churn(connect) => return self.begin_opening(connect, true),
            Command::Begin => {
                self.tally.begin();
                self.connections.iter_mut().flatten().for_each(Connection::begin);
                self.cpu = process::own_thread_cpu();
            }
            Command::Close => {
                let stood = self.connections.drain(..).map(|connection| connection?.positions);
                self.positions = stood.collect();
            }
            // Publishing is done elsewhere.
            Command::Report | Command::Publish(_) => {}
        }
        Some(self.answer(since))
    }

    /// Answers when it cannot begin.
    fn begin_opening(&mut self, connect: Connect, churns: bool) -> Option<Answer> {
        let tls = match connect.trusted.as_deref().map(trusting).transpose() {
            Ok(tls) => tls,
            Err(error) => return Some(Answer::failed(format!("TLS: {error:#}"))),
        };
        let first = self.connections.len();
        let name = |index: usize| {
            griot_tests::token::token(connect.secret.as_deref().unwrap_or_default(), &user(connect.first_user + index))
        };
        let tokens =
            if connect.secret.is_some() { (first..first + connect.count).map(name).collect() } else { Vec::new() };
        let since = Instant::now();
        self.opened = self.opened.next_multiple_of(PER_SOURCE);
        self.opening = Some(Opening { connect, tokens, tls, churns, first, begun: 0, ready: 0, gone: 0, since });
        None
    }

    /// Goes on opening; answers when all are ready, or will not be.
    fn open(&mut self) -> Option<Answer> {
        let mut opening = self.opening.take()?;
        while opening.begun < opening.connect.count
            && opening.begun - opening.ready - opening.gone < opening.connect.at_once
        {
            match self.connect(&opening) {
                Ok(()) => opening.begun += 1,
                Err(error) => return Some(Answer::failed(format!("connection {}: {error:#}", opening.begun))),
            }
        }
        if opening.gone > 0 || opening.since.elapsed() > PATIENCE {
            let Opening { ready, gone, connect: Connect { to, count, .. }, .. } = opening;
            return Some(Answer::failed(format!(
                "of {count} connections to {to} {ready} became ready, {gone} were ended"
            )));
        }
        if opening.ready == opening.connect.count {
            return Some(self.answer(opening.since));
        }
        self.opening = Some(opening);
        None
    }

    fn connect(&mut self, opening: &Opening) -> Result<()> {
        let (index, connect) = (self.connections.len(), &opening.connect);
        let mut socket = open(connect.to, self.opened, connect.deaf).context("opening a socket")?;
        self.opened += 1;
        self.poll.registry().register(&mut socket, Token(index), Interest::READABLE | Interest::WRITABLE)?;
        let stream = Stream::new(socket, connect.to.ip(), opening.tls.as_ref())?;
        let channel = connect.channel.clone().unwrap_or_else(|| user(connect.first_user + index));
        let token = opening.tokens.get(index - opening.first).map_or("", String::as_str);
        let subs = self.positions.get(index).and_then(Option::as_deref).filter(|_| connect.recovers);
        let part = Part {
            dialect: connect.dialect,
            user: (connect.first_user + index) as u64,
            request: connect.dialect.request(&connect.to.to_string(), &channel),
            greeting: connect.dialect.greeting(token, connect.channel.as_deref(), subs),
            subscribes: connect.channel.is_some(),
            deaf: connect.deaf,
            recovers: connect.recovers,
        };
        let connection = Connection::new(stream, part);
        self.connections.push(Some(connection));
        Ok(())
    }

    fn advance(&mut self, index: usize, is_near: bool) {
        let Some(Some(connection)) = self.connections.get_mut(index) else { return };
        let was_ready = connection.ready;
        let became = connection.advance(is_near, &mut self.buffer, &self.tally);
        let opening = self.opening.as_mut();
        match became {
            Became::Same => {}
            Became::Ready => {
                if let Some(opening) = opening {
                    opening.ready += 1;
                    if opening.churns {
                        self.connections[index] = None;
                    }
                }
            }
            Became::Gone => {
                self.connections[index] = None;
                self.tally.closed.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                if let Some(opening) = opening.filter(|_| !was_ready) {
                    opening.gone += 1;
                }
            }
        }
    }
}

/// The name of a user, and of the channel that is theirs where the server knows no users.
pub(super) fn user(index: usize) -> String {
    format!("user-{index}")
}

fn open(to: SocketAddr, opened: usize, deaf: bool) -> Result<TcpStream> {
    let socket = Socket::new(Domain::IPV4, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_tcp_nodelay(true)?;
    if deaf {
        // Otherwise the kernel would take megabytes for it: here, and at the server, where the packets of loopback are as
        // large as no network's.
        socket.set_recv_buffer_size(8 * 1024)?;
        socket.set_tcp_mss(1_400)?;
    }
    let source = 2 + u8::try_from(opened / PER_SOURCE % 200)?;
    socket.bind(&SocketAddr::from((Ipv4Addr::new(127, 0, 1, source), 0)).into())?;
    match socket.connect(&to.into()) {
        Err(error) if error.raw_os_error() != Some(115) => return Err(error).context("connecting"),
        _ => {}
    }
    Ok(TcpStream::from_std(socket.into()))
}
