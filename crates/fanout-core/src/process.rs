//! The beginning and the ending that all workers share.

use std::fmt::Display;
use std::future::Future;
use std::process::ExitCode;
use std::time::Duration;

use sd_notify::NotifyState;

use crate::shutdown::Shutdown;

/// Runs `worker` until it ends by itself or a signal asks it to, and says which ending it was.
///
/// On SIGTERM or SIGINT the ending is requested; `worker` and every task spawned on its [`Shutdown`] have `grace` to end.
/// Exit codes: 0 ended as asked, 1 an error, 2 the grace period was too short.
pub fn run<F, Fut, E>(name: &'static str, grace: Duration, worker: F) -> ExitCode
where
    F: FnOnce(Shutdown) -> Fut,
    Fut: Future<Output = Result<(), E>>,
    E: Display,
{
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return failed(name, &error),
    };
    runtime.block_on(async {
        let shutdown = Shutdown::new();
        let mut worker = std::pin::pin!(worker(shutdown.clone()));
        let signal = tokio::select! {
            biased;
            result = &mut worker => {
                let drained = shutdown.drain(grace).await;
                return match result {
                    Ok(()) => ended(name, drained),
                    Err(error) => failed(name, &error),
                };
            }
            signal = Shutdown::signal() => signal,
        };
        match signal {
            Ok(signal) => tracing::info!(signal, ?grace, "{name} is ending"),
            Err(error) => return failed(name, &error),
        }
        let _ = sd_notify::notify(&[NotifyState::Stopping]);
        shutdown.request();
        let deadline = tokio::time::Instant::now() + grace;
        match tokio::time::timeout_at(deadline, worker).await {
            Ok(Ok(())) => ended(name, shutdown.drain(deadline - tokio::time::Instant::now()).await),
            Ok(Err(error)) => failed(name, &error),
            Err(_) => ended(name, false),
        }
    })
}

/// Tells the service manager that the worker is up; `status` is what `systemctl status` then shows.
pub fn ready(status: &str) {
    // Outside systemd there is nobody to tell, which is no error.
    let _ = sd_notify::notify(&[NotifyState::Ready, NotifyState::Status(status)]);
}

fn ended(name: &str, drained: bool) -> ExitCode {
    if drained {
        tracing::info!("{name} ended, everything under way was finished");
        return ExitCode::SUCCESS;
    }
    tracing::warn!("{name} ended, some tasks did not finish within the grace period");
    ExitCode::from(2)
}

fn failed(name: &str, error: &dyn Display) -> ExitCode {
    // The log may not have been started, and whoever typed the command looks here.
    eprintln!("{name}: {error:#}");
    ExitCode::FAILURE
}
