//! Temporary folders that never outlive the process that made them.

use std::{
    fs::DirBuilder,
    io::Write,
    os::unix::{fs::DirBuilderExt, process::CommandExt},
    path::{Path, PathBuf},
    process::{ChildStdin, Command, Stdio},
    thread,
};

use anyhow::{Context, Result};

/// A folder that only its owner can read. It is removed with everything in it a moment after this is dropped, or after
/// this process has ended in any way.
#[derive(Debug)]
pub struct TemporaryFolder {
    path: PathBuf,
    lifeline: ChildStdin,
}

impl TemporaryFolder {
    /// Creates a new, empty one. Its name is short, because socket paths are limited to 107 bytes.
    pub fn new() -> Result<Self> {
        let path = std::env::temp_dir().join(format!("griot-{}", uuid::Uuid::new_v4().simple()));
        let mut remover = Command::new("sh")
            .args(["-c", "read -r _ || rm -rf -- \"$1\"", "remover"])
            .arg(&path)
            // As for the supervisor: Ctrl-C must not reach it.
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()?;
        let lifeline = remover.stdin.take().context("standard input is piped")?;
        // Nobody waits for the removal; this only keeps the process table clean.
        thread::spawn(move || remover.wait());
        DirBuilder::new().mode(0o700).create(&path).with_context(|| format!("creating {}", path.display()))?;
        Ok(Self { path, lifeline })
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves the removal to a [`Program`](super::Program) that has the folder now and runs already.
    pub(crate) fn hand_over(mut self) -> PathBuf {
        // A remover that is gone removes nothing.
        let _ = self.lifeline.write_all(b"keep\n");
        self.path
    }
}
