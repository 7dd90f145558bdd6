//! What every private server has in common: one port and one folder for life, any number of processes in turn.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use crate::supervisor::{Output, Program, Signal, Supervised};

/// A server on this machine is ready, or has stopped, well within this time, even when other tests use all cores.
pub(super) const PATIENCE: Duration = Duration::from_secs(30);

/// A server program that can be stopped, killed, frozen and started again.
#[derive(Debug)]
pub(super) struct Server {
    program: Program,
    port: u16,
    process: Supervised,
}

impl Server {
    /// Starts the program; `ready` decides when this returns.
    pub(super) fn start(program: Program, port: u16) -> Result<Self> {
        let process = Supervised::start(&program)?;
        Ok(Self { program, port, process })
    }

    pub(super) fn port(&self) -> u16 {
        self.port
    }

    pub(super) fn addr(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::LOCALHOST, self.port))
    }

    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    pub(super) fn output(&self) -> &Output {
        self.process.output()
    }

    /// Waits until `asked` succeeds, or says why the server ended before.
    pub(super) async fn ready<Fut>(&self, mut asked: impl FnMut() -> Fut) -> Result<()>
    where
        Fut: Future<Output = Result<()>>,
    {
        let name = &self.program.name;
        let answers = async {
            let mut turns = tokio::time::interval(Duration::from_millis(5));
            loop {
                turns.tick().await;
                if asked().await.is_ok() {
                    break;
                }
            }
        };
        tokio::select! {
            () = answers => Ok(()),
            ended = self.process.exited(PATIENCE) => {
                let code = ended.with_context(|| format!("{name} does not get ready"))?;
                anyhow::bail!("{name} ended with code {code} before it was ready\n{}", self.output())
            }
        }
    }

    /// Asks the server to stop, as an operator would, and waits for its end.
    pub(super) async fn stop(&self) -> Result<()> {
        self.process.signal(self.program.ask)?;
        self.process.exited(PATIENCE).await.map(drop)
    }

    /// Ends the server as a power failure would, and waits for its end.
    pub(super) async fn kill(&self) -> Result<()> {
        self.process.signal(Signal::Kill)?;
        self.process.exited(PATIENCE).await.map(drop)
    }

    pub(super) fn signal(&self, signal: Signal) -> Result<()> {
        self.process.signal(signal)
    }

    /// Starts the server again, on its port and in its folder. It must have been stopped or killed.
    pub(super) fn start_again(&mut self) -> Result<()> {
        ensure!(self.process.exit_code().is_some(), "{} still runs", self.program.name);
        let process = Supervised::start(&self.program)?;
        std::mem::replace(&mut self.process, process).keep_folder();
        Ok(())
    }
}
