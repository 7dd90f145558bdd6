//! What was measured, as it is kept between runs.

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::{Deserialize, Serialize};

/// Everything that is known.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Results {
    /// Where it was measured.
    pub machine: Machine,
    /// The newest of each row, size, subject and metric.
    pub measurements: Vec<Measurement>,
}

/// A machine, in words for readers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Machine {
    /// The processor's name.
    pub cpu: String,
    /// How many cores were used.
    pub cores: usize,
    /// Memory, with unit.
    pub memory: String,
    /// The kernel's version.
    pub kernel: String,
    /// The version of Redis.
    pub redis: String,
    /// The day, as year, month and day.
    pub date: String,
}

/// Whether more or less is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Better {
    /// A cost.
    Lower,
    /// A yield.
    Higher,
}

/// One metric of one subject in one row.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Measurement {
    /// The row's name.
    pub row: String,
    /// Connections, or whatever the row counts.
    pub size: usize,
    /// The subject's name.
    pub subject: String,
    /// What is measured.
    pub metric: String,
    /// In what.
    pub unit: String,
    /// Which way is better.
    pub better: Better,
    /// One number per round.
    pub rounds: Vec<f64>,
    /// What a reader has to know.
    #[serde(default)]
    pub notes: String,
}

impl Results {
    /// Reads `file`; nothing where it is not there.
    ///
    /// # Errors
    /// It is no results file.
    pub fn read(file: &Path) -> Result<Self> {
        match fs::read(file) {
            Ok(text) => serde_json::from_slice(&text).with_context(|| format!("{} holds no results", file.display())),
            Err(_) => Ok(Self::default()),
        }
    }

    /// Writes `file` and the folder around it.
    ///
    /// # Errors
    /// The folder cannot be written to.
    pub fn write(&self, file: &Path) -> Result<()> {
        if let Some(folder) = file.parent() {
            fs::create_dir_all(folder).with_context(|| format!("making {}", folder.display()))?;
        }
        fs::write(file, serde_json::to_vec_pretty(self)?).with_context(|| format!("writing {}", file.display()))
    }

    /// Adds what a run of `row` has measured, in place of what an earlier one had.
    pub fn replace(&mut self, row: &str, measurements: Vec<Measurement>) {
        let is_new = |old: &Measurement| measurements.iter().any(|new| new.is_of(old));
        self.measurements.retain(|old| old.row != row || !is_new(old));
        self.measurements.extend(measurements);
    }
}

impl Measurement {
    fn is_of(&self, other: &Self) -> bool {
        let of = |m: &Self| (m.row.clone(), m.size, m.subject.clone(), m.metric.clone());
        of(self) == of(other)
    }
}
