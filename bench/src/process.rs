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

/// The cores that this process may use, by number.
#[must_use]
pub fn cores() -> Vec<usize> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:")).unwrap_or_default();
    numbers(list.trim())
}

/// The numbers of a list such as `0-2,5`.
fn numbers(list: &str) -> Vec<usize> {
    let range = |part: &str| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        Some(first.parse().ok()?..=last.parse().ok()?)
    };
    list.split(',').filter_map(range).flatten().collect()
}

/// Lets the process, with all its threads, run on the last core only; where there is one core, anywhere.
///
/// # Errors
/// There is no `taskset`, or it fails.
pub fn pin_server(pid: u32) -> Result<()> {
    let cores = cores();
    pin(pid, cores.last().map_or(&[], std::slice::from_ref), cores.len())
}

/// Lets the process run on all cores but the last.
///
/// # Errors
/// As [`pin_server`].
pub fn pin_others(pid: u32) -> Result<()> {
    let cores = cores();
    pin(pid, &cores[..cores.len().saturating_sub(1)], cores.len())
}

fn pin(pid: u32, to: &[usize], of: usize) -> Result<()> {
    if of < 2 {
        return Ok(());
    }
    let list: Vec<String> = to.iter().map(usize::to_string).collect();
    let mut taskset = Command::new("taskset");
    taskset.args(["-acp", &list.join(","), &pid.to_string()]).stdout(Stdio::null());
    let status = taskset.status().context("`taskset` of util-linux pins processes to cores")?;
    ensure!(status.success(), "taskset could not pin process {pid}");
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lists_of_cores_are_read_as_the_kernel_writes_them() {
        assert_eq!(numbers("0-1"), [0, 1]);
        assert_eq!(numbers("3,5-7"), [3, 5, 6, 7]);
        assert!(numbers("").is_empty() && !cores().is_empty());
    }
}
