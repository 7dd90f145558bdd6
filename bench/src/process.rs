//! Processes as they are measured: where they run, what they have used.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};

/// What the process has used of all cores since it began, all its threads together.
///
/// # Errors
/// It is gone.
pub fn cpu(pid: u32) -> Result<Duration> {
    let mut nanos = 0;
    for thread in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| format!("process {pid} is gone"))? {
        // A thread may end meanwhile.
        nanos += fs::read_to_string(thread?.path().join("schedstat")).ok().and_then(|text| on_cpu(&text)).unwrap_or(0);
    }
    Ok(Duration::from_nanos(nanos))
}

/// What this thread has used.
#[must_use]
pub fn own_thread_cpu() -> Duration {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
    Duration::from_nanos(on_cpu(&text).unwrap_or(0))
}

fn on_cpu(schedstat: &str) -> Option<u64> {
    schedstat.split(' ').next()?.parse().ok()
}

/// Resident memory in bytes.
///
/// # Errors
/// The process is gone.
pub fn resident(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).with_context(|| format!("process {pid}"))?;
    let line = text.lines().find_map(|line| line.strip_prefix("Rss:")).context("no Rss in smaps_rollup")?;
    Ok(line.trim().trim_end_matches("kB").trim().parse::<u64>()? * 1024)
}

/// How many cores this process may use.
#[must_use]
pub fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// Lets the process, with all its threads, run on the last core only; where there is one core, anywhere.
///
/// # Errors
/// There is no `taskset`, or it fails.
pub fn pin_server(pid: u32) -> Result<()> {
    pin(pid, cores() - 1, cores() - 1)
}

/// Lets the process run on all cores but the last.
///
/// # Errors
/// As [`pin_server`].
pub fn pin_others(pid: u32) -> Result<()> {
    pin(pid, 0, cores().saturating_sub(2))
}

fn pin(pid: u32, first: usize, last: usize) -> Result<()> {
    if cores() == 1 {
        return Ok(());
    }
    let mut taskset = Command::new("taskset");
    taskset.args(["-acp", &format!("{first}-{last}"), &pid.to_string()]).stdout(Stdio::null());
    let status = taskset.status().context("`taskset` of util-linux pins processes to cores")?;
    ensure!(status.success(), "taskset could not pin process {pid}");
    Ok(())
}
