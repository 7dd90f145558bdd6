//! `publisher send --stdin`: publications as lines of JSON, of any length and number, from standard input.

use std::fs::File;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::time::Duration;

use fanout_core::config::ConfigError;
use fanout_core::publisher::Once;
use fanout_core::{
    DeploymentError, Publication, PublishError, Publisher, Receipt, Redis, RedisError, Shutdown, Topics, begins_object,
};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::time::Instant;
use uuid::Uuid;

use self::lines::{Chunk, Line, Text};
use self::report::{Reason, Refused};
use crate::Config;
use crate::api::publish::Request;

pub use self::report::Report;

mod lines;
mod report;

/// Longest pause between two looks whether Redis takes writes again.
const PAUSE: Duration = Duration::from_secs(1);

/// How to treat what comes in.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// Print a line per publication to standard output.
    pub print: bool,
    /// How long Redis may refuse, or not answer, before it ends.
    pub patience: Duration,
}

/// Publishes standard input, line by line: JSON objects in the shape of the body of `/api/publish`. Bad lines stop no
/// other. A channel's publications keep the order of the lines.
///
/// What certainly was not published, or has an idempotency key, is tried again while Redis is away or full. What has no
/// key and got no answer is reported as unknown and never sent twice.
///
/// # Errors
/// A configuration that cannot work, or that differs from the deployment's.
pub async fn run(config: Config, options: Options, shutdown: Shutdown) -> Result<Report, ConfigError> {
    // A repeat must come while the key is still remembered, however late the first one was carried out.
    let (patience, remembered) = (options.patience.as_secs(), u64::from(config.redis.idempotency_seconds));
    if patience > remembered / 2 {
        return Err(ConfigError(format!(
            "--patience {patience}: at most {}, half of redis.idempotency_seconds, so that a repeat is known as one",
            remembered / 2
        )));
    }
    let topics = Topics::new(config.topics, config.default_topic).map_err(ConfigError)?;
    let redis = Redis::connect(&config.redis)?;
    let publisher = Publisher::new(redis.clone(), topics);
    let mut intake = Intake { publisher, redis, options, shutdown, report: Report::default(), bar: bar() };
    let ended = intake.all(config.publisher.max_body_bytes).await;
    intake.bar.finish_and_clear();
    intake.redis.quit().await;
    if let Err(Stop(why)) = ended {
        intake.report.stop(&why);
    }
    Ok(intake.report)
}

/// What `send` prints of a publication.
pub fn receipt_line(id: Uuid, receipt: Receipt) -> String {
    let repeated = if receipt.repeated { " repeated" } else { "" };
    match receipt.position {
        Some(position) => format!("{id} offset {} epoch {}{repeated}", position.offset, position.epoch),
        None => format!("{id}{repeated}"),
    }
}

/// Why no further line is looked at.
struct Stop(String);

/// A line that is one publication.
struct Entry {
    line: u64,
    publication: Publication,
    /// It was sent and got no answer, so that it may have been published.
    in_doubt: bool,
}

impl Entry {
    /// Whether it can be sent again without being published twice.
    fn may_repeat(&self) -> bool {
        !self.in_doubt || matches!(self.publication.once, Once::Key(_))
    }
}

/// How Redis failed when the same can succeed later.
enum Failure {
    /// Certainly nothing was done.
    NotDone,
    /// No answer came.
    InDoubt,
}

impl Failure {
    fn of(error: &PublishError) -> Option<Self> {
        match error {
            PublishError::Redis(RedisError::OutOfMemory | RedisError::NotDone(_)) => Some(Self::NotDone),
            PublishError::Redis(RedisError::Away(_)) => Some(Self::InDoubt),
            _ => None,
        }
    }
}

struct Intake {
    publisher: Publisher,
    redis: Redis,
    options: Options,
    shutdown: Shutdown,
    report: Report,
    bar: ProgressBar,
}

impl Intake {
    async fn all(&mut self, max_line_bytes: usize) -> Result<(), Stop> {
        self.until_writable(Instant::now() + self.options.patience).await?;
        let mut chunks = lines::read(io::stdin(), max_line_bytes);
        loop {
            let chunk = tokio::select! {
                biased;
                () = self.shutdown.requested() => return Err(asked()),
                chunk = chunks.recv() => chunk,
            };
            match chunk {
                None => return Ok(()),
                Some(Ok(chunk)) => self.chunk(chunk).await?,
                Some(Err(error)) => return Err(Stop(format!("standard input cannot be read: {error}"))),
            }
        }
    }

    /// Every line of the chunk is in the report when this returns, however it ends.
    async fn chunk(&mut self, chunk: Chunk) -> Result<(), Stop> {
        let mut entries = Vec::with_capacity(chunk.lines.len());
        for line in chunk.lines {
            self.report.lines = line.number;
            let number = line.number;
            match publication(line) {
                Ok(Some(publication)) => entries.push(Entry { line: number, publication, in_doubt: false }),
                Ok(None) => self.report.empty += 1,
                Err(refused) => self.report.refuse(number, refused),
            }
        }
        let ended = self.publish(entries).await;
        self.bar.set_position(chunk.bytes);
        self.bar.set_message(self.report.in_short());
        ended
    }

    /// Publishes `entries`; those that may be sent again are, for as long as patience lasts.
    async fn publish(&mut self, mut entries: Vec<Entry>) -> Result<(), Stop> {
        let mut deadline = None;
        loop {
            let publications = entries.iter().map(|entry| entry.publication.clone()).collect();
            let outcomes = self.publisher.publish_all(publications).await;
            let mut again = Vec::new();
            let mut printed = String::new();
            let mut failed = false;
            for (mut entry, outcome) in entries.into_iter().zip(outcomes) {
                let error = match outcome {
                    Ok(receipt) => {
                        self.report.done(receipt);
                        printed += &receipt_line(entry.publication.id, receipt);
                        printed.push('\n');
                        continue;
                    }
                    Err(error) => error,
                };
                let Some(failure) = Failure::of(&error) else {
                    self.report.refuse(entry.line, error.into());
                    continue;
                };
                failed = true;
                entry.in_doubt |= matches!(failure, Failure::InDoubt);
                if entry.may_repeat() {
                    again.push((entry, error));
                } else {
                    self.report.unknown(entry.line, &error.to_string());
                }
            }
            let written = self.print(&printed);
            if !failed && written.is_ok() {
                return Ok(());
            }
            let deadline = *deadline.get_or_insert_with(|| Instant::now() + self.options.patience);
            let ready = match written {
                Err(error) => Err(Stop(format!("standard output cannot be written: {error}"))),
                // A server that takes a little but never what is asked of it must not be asked for ever.
                Ok(()) if Instant::now() > deadline && !again.is_empty() => {
                    Err(self.impatient("Redis does not publish"))
                }
                Ok(()) => self.until_writable(deadline).await,
            };
            if let Err(stop) = ready {
                again.into_iter().for_each(|(entry, error)| self.give_up(&entry, error));
                return Err(stop);
            }
            if again.is_empty() {
                return Ok(());
            }
            entries = again.into_iter().map(|(entry, _)| entry).collect();
        }
    }

    fn give_up(&mut self, entry: &Entry, error: PublishError) {
        if entry.in_doubt {
            self.report.unknown(entry.line, &format!("{error}; sending it again with its idempotency_key is safe"));
        } else {
            self.report.refuse(entry.line, error.into());
        }
    }

    /// Waits until Redis takes writes.
    async fn until_writable(&self, deadline: Instant) -> Result<(), Stop> {
        let mut pause = Duration::from_millis(20);
        let mut said = false;
        loop {
            let asked_redis = tokio::select! {
                biased;
                () = self.shutdown.requested() => return Err(asked()),
                // It writes, so that a server which only answers is not taken for one that publishes.
                answer = async {
                    self.redis.check_deployment().await?;
                    Ok(self.redis.takes_writes().await?)
                } => answer,
            };
            let error = match asked_redis {
                Ok(()) => return Ok(()),
                Err(DeploymentError::Redis(error)) if error.is_transient() => error,
                Err(error) => return Err(Stop(error.to_string())),
            };
            if Instant::now() >= deadline {
                return Err(self.impatient(&error.to_string()));
            }
            if !said {
                said = true;
                let patience = self.options.patience.as_secs();
                self.bar.suspend(|| eprintln!("{error}: waiting, at most {patience} s"));
            }
            if !self.shutdown.pause(pause).await {
                return Err(asked());
            }
            pause = (pause * 2).min(PAUSE);
        }
    }

    fn impatient(&self, error: &str) -> Stop {
        Stop(format!("{error}, for {} s (--patience)", self.options.patience.as_secs()))
    }

    fn print(&self, text: &str) -> io::Result<()> {
        if !self.options.print {
            return Ok(());
        }
        self.bar.suspend(|| {
            let mut out = io::stdout().lock();
            out.write_all(text.as_bytes()).and_then(|()| out.flush())
        })
    }
}

fn asked() -> Stop {
    Stop("asked to end".into())
}

/// The publication that a line asks for; none when it is empty.
fn publication(line: Line) -> Result<Option<Publication>, Refused> {
    let bytes = match line.text {
        Text::Whole(bytes) => bytes,
        Text::TooLong(length) => return Err(Refused::new(Reason::TooLong, format!("the line is {length} bytes"))),
    };
    let text = std::str::from_utf8(&bytes)
        .map_err(|error| Refused::new(Reason::NotUtf8, format!("byte {} is not UTF-8", error.valid_up_to() + 1)))?;
    // Editors of one system begin a file with it.
    let text = if line.number == 1 { text.trim_start_matches('\u{feff}') } else { text };
    if text.trim().is_empty() {
        return Ok(None);
    }
    if !begins_object(text.as_bytes()) {
        return Err(Refused::new(Reason::NotJson, "the line is not a JSON object"));
    }
    let request: Request = serde_json::from_str(text).map_err(|error| {
        let (column, words) = (error.column(), error.to_string());
        let words = words.rsplit_once(" at line ").map_or(words.as_str(), |(words, _)| words);
        Refused::new(Reason::NotJson, format!("column {column}: {words}"))
    })?;
    Ok(Some(request.publication()?))
}

/// The progress, drawn on standard error where that is a terminal. A file has a length, a pipe has none.
fn bar() -> ProgressBar {
    let file = io::stdin().as_fd().try_clone_to_owned().map(File::from);
    let length = file.and_then(|file| file.metadata()).ok().filter(std::fs::Metadata::is_file).map(|file| file.len());
    let (bar, template) = match length {
        Some(length) => (ProgressBar::new(length), "{wide_bar} {bytes}/{total_bytes}, {eta} left\n{msg}"),
        None => (ProgressBar::no_length(), "{spinner} {bytes} in {elapsed}: {msg}"),
    };
    match ProgressStyle::with_template(template) {
        Ok(style) => bar.with_style(style),
        Err(_) => bar,
    }
}

#[cfg(test)]
mod tests {
    use fanout_core::{Channel, Data};

    use super::*;

    #[test]
    fn only_what_was_certainly_not_sent_or_has_a_key_is_sent_again() {
        let entry = |once: Once, errors: &[RedisError]| {
            let channel = Channel::parse("orders:#42").expect("channel");
            let mut publication = Publication::new(channel, Data::parse("1").expect("data"));
            publication.once = once;
            let failures = errors.iter().map(|error| Failure::of(&error.clone().into()).expect("may succeed later"));
            let in_doubt = failures.fold(false, |doubt, failure| doubt | matches!(failure, Failure::InDoubt));
            Entry { line: 1, publication, in_doubt }.may_repeat()
        };
        let (full, away) = (RedisError::OutOfMemory, RedisError::Away("no answer".into()));
        let undone = RedisError::NotDone("no connection".into());
        assert!(entry(Once::No, &[full.clone(), undone.clone()]));
        assert!(!entry(Once::No, std::slice::from_ref(&away)));
        assert!(!entry(Once::No, &[away.clone(), full]), "the first may have been carried out");
        assert!(entry(Once::Key("k".into()), &[away, undone]));
        assert!(Failure::of(&RedisError::Refused("WRONGTYPE".into()).into()).is_none());
    }
}
