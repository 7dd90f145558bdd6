//! Processes as they are measured: where they run, what they have used.

use std::fs;
use std::pin::pin;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::time::interval;

/// Between two looks at what a process has at its peak.
const LOOK: Duration = Duration::from_millis(50);

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
    kilobytes(&text, "Rss:").context("no Rss in smaps_rollup")
}

/// The most resident memory in bytes that the process is seen to have while `work` is done, and what came of that.
///
/// # Errors
/// The process is gone.
pub async fn peak<T>(pid: u32, work: impl Future<Output = T>) -> Result<(T, u64)> {
    let (mut work, mut turns, mut peak) = (pin!(work), interval(LOOK), 0);
    loop {
        tokio::select! {
            biased;
            _ = turns.tick() => peak = resident_now(pid)?.max(peak),
            done = &mut work => return Ok((done, resident_now(pid)?.max(peak))),
        }
    }
}

/// Resident memory as the kernel has it at hand: less exact than [`resident`], and no work for the process that is asked.
///
/// # Errors
/// The process is gone.
pub fn resident_now(pid: u32) -> Result<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).with_context(|| format!("process {pid}"))?;
    kilobytes(&text, "VmRSS:").context("no VmRSS in status")
}

/// How many files the process has open, connections included.
///
/// # Errors
/// The process is gone.
pub fn open_files(pid: u32) -> Result<usize> {
    Ok(fs::read_dir(format!("/proc/{pid}/fd")).with_context(|| format!("process {pid}"))?.count())
}

/// What the line that begins with `name` says, in bytes.
fn kilobytes(text: &str, name: &str) -> Option<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().trim_end_matches("kB").trim().parse::<u64>().ok()? * 1024)
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

/// Has this process run only while nobody else wants its core (`SCHED_IDLE`): others take it from it the moment they wake.
pub(crate) fn stand_behind() -> Result<()> {
    let own = std::process::id().to_string();
    let status = Command::new("chrt").args(["--idle", "--all-tasks", "--pid", "0", &own]).status();
    ensure!(
        status.context("`chrt` of util-linux changes how a process is scheduled")?.success(),
        "chrt does not change process {own}"
    );
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

    // The clock stands and goes on when everybody waits: the turn that is due at the same moment comes first.
    #[tokio::test(start_paused = true)]
    async fn a_peak_is_seen_though_it_has_passed() -> Result<()> {
        let own = std::process::id();
        let before = resident_now(own)?;
        let work = async {
            let much = std::hint::black_box(vec![1_u8; 64 << 20]);
            tokio::time::sleep(LOOK).await;
            drop(much);
        };
        let ((), peak) = peak(own, work).await?;
        assert!(peak >= before + (48 << 20), "{before} {peak}");
        assert!(open_files(own)? > 0 && resident(own)? > 0);
        Ok(())
    }
}
