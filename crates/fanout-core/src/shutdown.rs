//! How a process ends: one request, every task tracked, a grace period.

use std::future::Future;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// Asks tasks to end and waits for them. Clones speak of the same ending.
#[derive(Debug, Clone, Default)]
pub struct Shutdown {
    token: CancellationToken,
    tasks: TaskTracker,
}

impl Shutdown {
    /// An ending that nobody has asked for yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Starts a task that [`drain`](Self::drain) waits for. The task must end once [`requested`](Self::requested).
    pub fn spawn<F>(&self, task: F) -> JoinHandle<F::Output>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        self.tasks.spawn(task)
    }

    /// Starts a task as [`spawn`](Self::spawn) does, on a thread that it has for itself: it never waits behind others for
    /// its turn.
    ///
    /// # Errors
    /// When the thread's runtime cannot be made.
    pub fn spawn_apart<F>(&self, task: F) -> std::io::Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        self.tasks.spawn_blocking(move || runtime.block_on(task));
        Ok(())
    }

    /// Resolves once the ending was asked for.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// Whether the ending was asked for.
    pub fn is_requested(&self) -> bool {
        self.token.is_cancelled()
    }

    /// Asks for the ending. Asking twice is asking once.
    pub fn request(&self) {
        self.token.cancel();
    }

    /// Waits for `duration`, or less when the ending is asked for; says whether to go on.
    pub async fn pause(&self, duration: Duration) -> bool {
        tokio::select! {
            biased;
            () = self.requested() => false,
            () = tokio::time::sleep(duration) => true,
        }
    }

    /// Asks for the ending and waits until every task has ended, at most `grace`; says whether they did.
    pub async fn drain(&self, grace: Duration) -> bool {
        self.request();
        self.tasks.close();
        tokio::time::timeout(grace, self.tasks.wait()).await.is_ok()
    }

    /// Resolves with the name of the signal when the process is told to end (SIGTERM, SIGINT).
    ///
    /// # Errors
    /// When the handlers cannot be installed.
    pub async fn signal() -> std::io::Result<&'static str> {
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::select! {
            _ = terminate.recv() => Ok("SIGTERM"),
            _ = interrupt.recv() => Ok("SIGINT"),
        }
    }
}
