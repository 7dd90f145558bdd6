//! A load process and the server that it loads.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, Result, anyhow, bail, ensure};
use griot_tests::process::Launch;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::process::{Child, ChildStdin, ChildStdout};

use super::Round;
use crate::load::{Answer, Command, Connect, Pace, Publish};
use crate::process;
use crate::subjects::Subject;

/// Connections that are opened at a time.
const AT_ONCE: usize = 256;
/// Bytes of a publication's data.
const BYTES: usize = 100;
/// Seconds of publishing before what is measured.
pub(super) const WARM: f64 = 0.5;
/// Broadcasts go here.
pub(super) const BROADCAST: &str = "products";

/// See the module.
#[derive(Debug)]
pub struct Driver {
    process: Child,
    say: ChildStdin,
    heard: Lines<BufReader<ChildStdout>>,
}

/// What one measured command did.
#[derive(Debug)]
pub(super) struct Measured {
    pub(super) answer: Answer,
    /// CPU that the server used meanwhile.
    pub(super) cpu: Duration,
}

impl Measured {
    /// Microseconds of the server's CPU for each of `count`.
    pub(super) fn each(&self, count: u64) -> f64 {
        self.cpu.as_secs_f64() * 1e6 / count as f64
    }

    /// Whatever did not arrive once, in order and with the right client is an error.
    pub(super) fn exactly(&self, expected: u64) -> Result<()> {
        let counted = &self.answer.counted;
        let wrong = counted.lost + counted.twice + counted.misdelivered + counted.closed + counted.unrecovered;
        ensure!(
            wrong == 0 && counted.deliveries == expected,
            "of {expected} deliveries {} arrived; lost {}, twice {}, misdelivered {}, connections ended {}, told that they have \
             not recovered {}",
            counted.deliveries,
            counted.lost,
            counted.twice,
            counted.misdelivered,
            counted.closed,
            counted.unrecovered
        );
        Ok(())
    }
}

impl Driver {
    /// Starts a load process.
    ///
    /// # Errors
    /// Its binary is missing.
    pub fn start() -> Result<Self> {
        Self::launch(Launch::new("bench").arg("load"))
    }

    /// The same, for load that is beside what is measured: whose latency counts does not wait for it at their core.
    ///
    /// # Errors
    /// As [`start`](Self::start).
    pub fn start_behind() -> Result<Self> {
        Self::launch(Launch::new("bench").arg("load").arg("--behind"))
    }

    fn launch(launch: Launch) -> Result<Self> {
        let mut process = launch.piped()?;
        process::pin_others(process.id().context("the load process is gone")?)?;
        let say = process.stdin.take().context("no standard input")?;
        let heard = BufReader::new(process.stdout.take().context("no standard output")?).lines();
        Ok(Self { process, say, heard })
    }

    /// Does one command.
    ///
    /// # Errors
    /// What the load process says.
    pub async fn tell(&mut self, command: &Command) -> Result<Answer> {
        self.say.write_all(format!("{}\n", serde_json::to_string(command)?).as_bytes()).await?;
        let Some(line) = self.heard.next_line().await? else { return Err(self.obituary().await) };
        let answer: Answer = serde_json::from_str(&line)?;
        match &answer.error {
            Some(error) => bail!("{error}"),
            None => Ok(answer),
        }
    }

    /// What a load process that has ended said last.
    async fn obituary(&mut self) -> anyhow::Error {
        let mut said = String::new();
        if let Some(errors) = &mut self.process.stderr {
            // Without last words there is the fact.
            let _ = errors.read_to_string(&mut said).await;
        }
        anyhow!("the load process has ended: {}", said.trim())
    }

    /// What the server of this process id uses while one command is done, and what has arrived at the end of it.
    pub(super) async fn measure(&mut self, server: u32, command: &Command) -> Result<Measured> {
        self.tell(&Command::Begin).await?;
        let before = process::cpu(server)?;
        let answer = self.tell(command).await?;
        Ok(Measured { cpu: process::cpu(server)?.saturating_sub(before), answer })
    }

    /// The same for a command that publishes; whatever does not arrive once, in order and with the right client is an error.
    pub(super) async fn deliver(&mut self, server: u32, publish: Publish) -> Result<Measured> {
        let each = publish.deliveries;
        let mut measured = self.measure(server, &Command::Publish(publish)).await?;
        measured.answer.own_cpu = self.tell(&Command::Report).await?.own_cpu;
        measured.exactly(measured.answer.published * each)?;
        Ok(measured)
    }
}

impl Round<'_> {
    /// The connections of a row, to the server at `to`; with a channel all have that, otherwise each has its own.
    pub(super) fn connect(&self, to: SocketAddr, count: usize, channel: Option<&str>) -> Connect {
        Connect {
            to,
            dialect: self.subject.dialect(),
            count,
            first_user: 0,
            at_once: AT_ONCE,
            channel: channel.map(str::to_owned),
            secret: self.subject.secret(),
            trusted: self.subject.trusted(),
            deaf: false,
            recovers: false,
        }
    }

    /// Connects everybody, publishes for a moment so that all is warm, and then measures what `publish` makes for so many
    /// seconds.
    pub(super) async fn delivered(&self, channel: Option<&str>, publish: impl Fn(f64) -> Publish) -> Result<Measured> {
        let server = self.subject.start(self.redis, "").await?;
        let mut driver = Driver::start()?;
        driver.tell(&Command::Connect(self.connect(server.addr, self.size, channel))).await?;
        driver.deliver(server.pid, publish(WARM)).await?;
        driver.deliver(server.pid, publish(self.seconds())).await
    }

    /// Publications to everybody in the broadcast.
    pub(super) fn broadcast(&self, pace: Pace, seconds: f64, subscribers: usize) -> Publish {
        // Its topic takes no plain publications.
        let subject = if self.subject == Subject::GriotRaw { Subject::Griot } else { self.subject };
        let (via, channel) = (subject.via(self.redis), Some(BROADCAST.to_owned()));
        Publish { via, channel, deliveries: subscribers as u64, ..self.personal(pace, seconds, 1) }
    }

    /// Publications to one user each.
    pub(super) fn personal(&self, pace: Pace, seconds: f64, users: usize) -> Publish {
        Publish {
            via: self.subject.via(self.redis),
            channel: None,
            users: (0, users),
            topic: "notifications".into(),
            pace,
            step: Duration::from_millis(1),
            seconds,
            deliveries: 1,
            bytes: BYTES,
        }
    }
}
