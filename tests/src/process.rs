//! Worker binaries of this workspace, run as processes of their own.

use std::{
    fs,
    net::SocketAddr,
    path::PathBuf,
    process::{Output as Finished, Stdio},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use tokio::time::{interval, timeout};

use crate::{
    http,
    supervisor::{Output, Program, Signal, Supervised, TemporaryFolder, not_for_children},
};

/// A worker starts and stops within this time, even when other tests use all cores.
const PATIENCE: Duration = Duration::from_secs(30);

/// How to start a worker.
#[derive(Debug, Clone)]
pub struct Launch {
    name: String,
    arguments: Vec<String>,
    env: Vec<(String, String)>,
    config: Option<String>,
    ready: Ready,
}

#[derive(Debug, Clone)]
enum Ready {
    Started,
    Readyz(SocketAddr),
}

impl Launch {
    /// The binary of this name, with no arguments and our own environment less what points to other servers.
    #[must_use]
    pub fn new(name: &str) -> Self {
        Self { name: name.to_owned(), arguments: Vec::new(), env: Vec::new(), config: None, ready: Ready::Started }
    }

    /// Adds a command-line argument.
    #[must_use]
    pub fn arg(mut self, argument: impl Into<String>) -> Self {
        self.arguments.push(argument.into());
        self
    }

    /// Adds an environment variable.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.env.push((name.to_owned(), value.into()));
        self
    }

    /// Gives the worker a configuration file with this content: `--config FILE` follows the other arguments.
    #[must_use]
    pub fn config(mut self, toml: impl Into<String>) -> Self {
        self.config = Some(toml.into());
        self
    }

    /// The worker is ready when `/readyz` at its admin address answers 200.
    #[must_use]
    pub fn ready_at(mut self, admin: SocketAddr) -> Self {
        self.ready = Ready::Readyz(admin);
        self
    }

    /// Starts the worker and waits until it is ready. It ends with its handle.
    pub async fn start(self) -> Result<Worker> {
        let folder = TemporaryFolder::new()?;
        let mut command = vec![binary(&self.name)?.to_string_lossy().into_owned()];
        command.extend(self.arguments);
        if let Some(config) = self.config {
            let file = folder.path().join("config.toml");
            fs::write(&file, config)?;
            command.extend(["--config".to_owned(), file.to_string_lossy().into_owned()]);
        }
        let process = Supervised::start(&Program {
            name: self.name.clone(),
            command,
            env: self.env,
            folder: Some(folder.path().to_owned()),
            ask: Signal::Term,
            grace: Duration::from_secs(10),
        })?;
        folder.hand_over();
        let worker = Worker { name: self.name, process };
        worker.until(&self.ready).await?;
        Ok(worker)
    }

    /// Runs a command that ends by itself, such as `publisher send`, and returns what it printed.
    pub async fn run(self) -> Result<Finished> {
        self.run_within(PATIENCE).await
    }

    /// [`Launch::run`] for a command that takes its time.
    pub async fn run_within(self, patience: Duration) -> Result<Finished> {
        let ended = timeout(patience, self.command()?.output()).await;
        ended.with_context(|| format!("{} {:?} does not end", self.name, self.arguments))?.context("running a worker")
    }

    /// Starts a command whose standard input is ours to write; output and error are piped. It ends with its handle.
    pub fn piped(self) -> Result<tokio::process::Child> {
        let mut command = self.command()?;
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.spawn().with_context(|| format!("starting {}", self.name))
    }

    fn command(&self) -> Result<tokio::process::Command> {
        ensure!(self.config.is_none(), "a configuration file needs start(): here nobody would remove it");
        let mut command = tokio::process::Command::new(binary(&self.name)?);
        for (name, _) in std::env::vars_os().filter(|(name, _)| not_for_children(&name.to_string_lossy())) {
            command.env_remove(name);
        }
        command.args(&self.arguments).envs(self.env.clone()).stdin(Stdio::null()).kill_on_drop(true);
        Ok(command)
    }
}

/// A worker that runs. Dropping it asks it to stop and, a little later, kills it.
#[derive(Debug)]
pub struct Worker {
    name: String,
    process: Supervised,
}

impl Worker {
    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Its resident memory in bytes.
    pub fn resident(&self) -> Result<usize> {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid()))?;
        let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).context("VmRSS")?;
        Ok(line.trim().trim_end_matches("kB").trim().parse::<usize>()? * 1024)
    }

    /// Whether the process has ended.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.process.exit_code().is_some()
    }

    /// What it logged last, standard output and error together.
    #[must_use]
    pub fn output(&self) -> &Output {
        self.process.output()
    }

    /// Waits for a log line that contains `text`.
    pub async fn line(&self, text: &str) -> Result<String> {
        tokio::select! {
            biased;
            line = self.output().line(text) => Ok(line),
            ended = self.process.exited(PATIENCE) => {
                let code = ended.with_context(|| format!("{} does not log {text:?}", self.name))?;
                bail!("{} ended with code {code} and never logged {text:?}\n{}", self.name, self.output())
            }
        }
    }

    /// SIGTERM, as systemd does it; fails unless the worker then ends with code 0.
    pub async fn stop(&self) -> Result<()> {
        self.process.signal(Signal::Term)?;
        let code = self.exited().await?;
        ensure!(code == 0, "{} ended with code {code} after SIGTERM\n{}", self.name, self.output());
        Ok(())
    }

    /// SIGKILL, and waits for the end.
    pub async fn kill(&self) -> Result<()> {
        self.process.signal(Signal::Kill)?;
        self.exited().await.map(drop)
    }

    /// Freezes the process until [`Worker::resume`].
    pub fn pause(&self) -> Result<()> {
        self.process.signal(Signal::Stop)
    }

    /// Ends a [`Worker::pause`].
    pub fn resume(&self) -> Result<()> {
        self.process.signal(Signal::Cont)
    }

    /// Waits for the end however long it takes, and returns the exit code as [`Worker::exited`] does.
    pub async fn ended(&self) -> Result<i32> {
        self.process.exited(Duration::MAX).await
    }

    /// Waits for the end and returns the exit code; 128 plus the number for a signal.
    pub async fn exited(&self) -> Result<i32> {
        self.process.exited(PATIENCE).await
    }

    async fn until(&self, ready: &Ready) -> Result<()> {
        let admin = match ready {
            Ready::Started => return Ok(()),
            Ready::Readyz(admin) => *admin,
        };
        let mut last = "no answer".to_owned();
        let answers = async {
            let mut turns = interval(Duration::from_millis(10));
            loop {
                turns.tick().await;
                match http::get(admin, "/readyz").await {
                    Ok(answer) if answer.status == 200 => return,
                    Ok(answer) => last = format!("{} {}", answer.status, answer.body),
                    Err(error) => last = format!("{error:#}"),
                }
            }
        };
        let ended = tokio::select! {
            () = answers => return Ok(()),
            ended = self.process.exited(PATIENCE) => ended,
        };
        match ended {
            Ok(code) => bail!("{} ended with code {code} before it was ready\n{}", self.name, self.output()),
            Err(error) => Err(error.context(format!("/readyz of {} at {admin}: {last}", self.name))),
        }
    }
}

/// Cargo puts test programs into `deps/` beside the binaries of the workspace; the demo is one of those itself.
fn binary(name: &str) -> Result<PathBuf> {
    let ours = std::env::current_exe().context("asking for our own path")?;
    let folder = ours.parent().context("a program has a folder")?;
    let folder = if folder.ends_with("deps") { folder.parent().unwrap_or(folder) } else { folder };
    let binary = folder.join(name);
    ensure!(
        binary.is_file(),
        "{} is not there: `cargo test` does not build the binaries of other packages. `./dev test` does, and so does \
         `cargo build --workspace --bins`",
        binary.display()
    );
    Ok(binary)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_binary_that_was_not_built_names_the_way_out() {
        let error = Launch::new("no-such-worker").start().await.unwrap_err();
        assert!(error.to_string().contains("./dev test"), "{error:#}");
    }
}
