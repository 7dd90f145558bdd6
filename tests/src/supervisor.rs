//! Programs that never outlive the process that started them, however it ends.
//!
//! Each program is the child of a small shell script, which waits for the end of a pipe that only this process holds.
//! The kernel closes that pipe on a return, a panic, Ctrl-C and SIGKILL alike; statics that are never dropped are
//! covered too. No signal handler, no `unsafe`, and nothing to remember in a test.

use std::{
    collections::VecDeque,
    io::{BufRead, BufReader, Read, Write},
    os::unix::process::CommandExt,
    path::{Path, PathBuf},
    process::{Child, ChildStdin, Command, Stdio},
    sync::{Arc, Mutex, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::{sync::watch, time::timeout};

mod folder;

pub use self::folder::TemporaryFolder;

/// Lines of a program's output that are kept for error reports.
const KEPT_LINES: usize = 200;

/// What to start, and how it wants to be stopped.
#[derive(Debug, Clone)]
pub struct Program {
    /// The name for error reports.
    pub name: String,
    /// The program and its arguments.
    pub command: Vec<String>,
    /// Environment variables that are added to ours.
    pub env: Vec<(String, String)>,
    /// Removed with everything in it once the program has ended and its handle is dropped.
    pub folder: Option<PathBuf>,
    /// The signal that asks the program to stop.
    pub ask: Signal,
    /// How long it may take to stop before it is killed; whole seconds count.
    pub grace: Duration,
}

/// A signal that tests send to servers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Asks to stop; PostgreSQL waits for its clients.
    Term,
    /// Ctrl-C; PostgreSQL stops without waiting for clients.
    Int,
    /// Ends the process at once.
    Kill,
    /// Freezes the process: its sockets stay open and nothing answers.
    Stop,
    /// Ends a freeze.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Self::Term => "TERM",
            Self::Int => "INT",
            Self::Kill => "KILL",
            Self::Stop => "STOP",
            Self::Cont => "CONT",
        }
    }
}

/// A running program. Dropping it stops the program and removes its folder, a moment later.
#[derive(Debug)]
pub struct Supervised {
    name: String,
    pid: u32,
    /// Its end is what the supervisor waits for.
    lifeline: Option<ChildStdin>,
    exit: watch::Receiver<Option<i32>>,
    output: Output,
}

impl Supervised {
    /// Starts the program; it need not be ready when this returns.
    pub fn start(program: &Program) -> Result<Self> {
        let mut supervisor = spawn(program).with_context(|| format!("starting {}", program.name))?;
        let lifeline = supervisor.stdin.take();
        let stdout = supervisor.stdout.take().context("standard output is piped")?;
        let stderr = supervisor.stderr.take().context("standard error is piped")?;

        let output = Output::new();
        let mut reports = BufReader::new(stderr).lines();
        let pid = reports
            .by_ref()
            .map_while(Result::ok)
            .find_map(|line| line.strip_prefix("pid ")?.parse().ok())
            .with_context(|| format!("the supervisor of {} reported no process id", program.name))?;
        let (exited, exit) = watch::channel(None);
        // Threads, not tasks: a server that tests share outlives the runtime of the test that started it.
        let copy = output.clone();
        thread::spawn(move || copy.collect(stdout));
        let copy = output.clone();
        thread::spawn(move || follow(supervisor, reports, &exited, &copy));
        Ok(Self { name: program.name.clone(), pid, lifeline, exit, output })
    }

    /// The process id of the program itself.
    pub fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends a signal. An error means that the program has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        ensure!(self.exit_code().is_none(), "{} has ended\n{}", self.name, self.output);
        let sent = Command::new("sh")
            .args(["-c", "kill -s \"$1\" \"$2\"", "sh", signal.name(), &self.pid.to_string()])
            .stderr(Stdio::null())
            .status()?;
        ensure!(sent.success(), "{} (process {}) takes no signal\n{}", self.name, self.pid, self.output);
        Ok(())
    }

    /// The exit code once the program has ended; 128 plus the number for a signal.
    pub fn exit_code(&self) -> Option<i32> {
        *self.exit.borrow()
    }

    /// Waits until the program has ended and returns its exit code.
    pub async fn exited(&self, within: Duration) -> Result<i32> {
        let mut exit = self.exit.clone();
        match timeout(within, exit.wait_for(Option::is_some)).await {
            Ok(Ok(code)) => code.context("the wait ends with a code"),
            Ok(Err(_)) => bail!("the supervisor of {} died\n{}", self.name, self.output),
            Err(_) => bail!("{} still runs after {within:?}\n{}", self.name, self.output),
        }
    }

    /// The newest lines that the program wrote.
    pub fn output(&self) -> &Output {
        &self.output
    }

    /// Leaves the folder in place when this handle is dropped, because another program uses it now.
    pub(crate) fn keep_folder(mut self) {
        if let Some(mut lifeline) = self.lifeline.take() {
            // A supervisor that is gone has nothing left to remove.
            let _ = lifeline.write_all(b"keep\n");
        }
    }
}

fn spawn(program: &Program) -> Result<Child> {
    let folder = program.folder.as_deref().unwrap_or(Path::new(""));
    let mut command = Command::new("sh");
    for (name, _) in std::env::vars_os().filter(|(name, _)| not_for_children(&name.to_string_lossy())) {
        command.env_remove(name);
    }
    Ok(command
        .args(["-c", include_str!("supervisor.sh"), "supervisor"])
        .arg(folder)
        .args([program.ask.name(), &program.grace.as_secs().to_string()])
        .args(&program.command)
        .envs(program.env.iter().map(|(name, value)| (name, value)))
        // Ctrl-C goes to the whole foreground group; the supervisor must survive it to clean up.
        .process_group(0)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()?)
}

/// Variables that are not for what we start: those of the developer's shell that would make it talk to other servers,
/// and what cargo tells a test about itself, which would make a cargo below it build everything anew.
pub(crate) fn not_for_children(variable: &str) -> bool {
    const OTHER_SERVERS: [&str; 6] = ["GRIOT_", "REDIS_", "DATABASE_", "PG", "NOTIFY_SOCKET", "LISTEN_"];
    const CARGO: [&str; 4] = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_CRATE_", "CARGO_BIN_"];
    OTHER_SERVERS.iter().chain(&CARGO).any(|start| variable.starts_with(start))
}

/// Reads the supervisor's reports until it ends, then reaps it.
fn follow(
    mut supervisor: Child,
    reports: impl Iterator<Item = std::io::Result<String>>,
    exited: &watch::Sender<Option<i32>>,
    output: &Output,
) {
    for line in reports.map_while(Result::ok) {
        match line.strip_prefix("exit ").and_then(|code| code.parse().ok()) {
            Some(code) => {
                exited.send_replace(Some(code));
            }
            // The shell's own complaints, such as a program that does not exist.
            None => output.push(line),
        }
    }
    // Nobody waits for the supervisor's own end; this only keeps the process table clean.
    let _ = supervisor.wait();
}

/// The newest output lines of a program, shared with the thread that reads them.
#[derive(Debug, Clone)]
pub struct Output {
    lines: Arc<Mutex<VecDeque<String>>>,
    /// How many lines have ever come, so that a waiter notices each.
    count: Arc<watch::Sender<usize>>,
}

impl Output {
    fn new() -> Self {
        Self { lines: Arc::default(), count: Arc::new(watch::Sender::new(0)) }
    }

    fn collect(&self, source: impl Read) {
        let mut source = BufReader::new(source);
        let mut line = Vec::new();
        // Bytes, not `lines()`: output that is not UTF-8 must not end the reading and block the program on its pipe.
        while matches!(source.read_until(b'\n', &mut line), Ok(1..)) {
            self.push(String::from_utf8_lossy(&line).trim_end().to_owned());
            line.clear();
        }
    }

    fn push(&self, line: String) {
        let mut lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        if lines.len() == KEPT_LINES {
            lines.pop_front();
        }
        lines.push_back(line);
        drop(lines);
        self.count.send_modify(|count| *count += 1);
    }

    /// The first kept line that contains `text`.
    pub fn find(&self, text: &str) -> Option<String> {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().find(|line| line.contains(text)).cloned()
    }

    /// Waits for a line that contains `text`; lines that are already there count.
    pub async fn line(&self, text: &str) -> String {
        let mut count = self.count.subscribe();
        loop {
            count.borrow_and_update();
            if let Some(line) = self.find(text) {
                return line;
            }
            // `self` holds the sender, so the wait cannot end without a new line.
            let _ = count.changed().await;
        }
    }
}

impl std::fmt::Display for Output {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let lines = self.lines.lock().unwrap_or_else(PoisonError::into_inner);
        lines.iter().try_for_each(|line| writeln!(f, "  | {line}"))
    }
}

#[cfg(test)]
mod tests;
