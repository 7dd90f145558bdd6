//! What became of the lines: counts by reason, the first of those that were not published, and where it ended.

use std::collections::BTreeMap;
use std::fmt::{self, Display, Formatter};

use fanout_core::{PublishError, Receipt, RedisError};

use crate::api::ApiError;

/// Lines of which number and sentence are kept.
const SHOWN: usize = 20;

/// Why a line was not published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Reason {
    TooLong,
    NotUtf8,
    NotJson,
    Field,
    UnknownChannel,
    Full,
    Redis,
}

impl Display for Reason {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::TooLong => "longer than publisher.max_body_bytes",
            Self::NotUtf8 => "not UTF-8",
            Self::NotJson => "not a JSON object with the fields of a publication",
            Self::Field => "a field is missing, wrong or over its limit",
            Self::UnknownChannel => "no topic takes the channel",
            Self::Full => "Redis is out of memory",
            Self::Redis => "Redis answered an error",
        })
    }
}

/// A line that was certainly not published.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    pub(super) sentence: String,
}

impl Refused {
    pub(super) fn new(reason: Reason, sentence: impl Into<String>) -> Self {
        Self { reason, sentence: sentence.into() }
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Self {
        let reason = match error.code {
            102 => Reason::UnknownChannel,
            _ => Reason::Field,
        };
        Self::new(reason, error.message)
    }
}

impl From<PublishError> for Refused {
    fn from(error: PublishError) -> Self {
        let reason = match &error {
            PublishError::UnknownTopic(_) => Reason::UnknownChannel,
            PublishError::Limit(_) => Reason::Field,
            PublishError::Redis(RedisError::OutOfMemory) => Reason::Full,
            PublishError::Redis(_) => Reason::Redis,
        };
        Self::new(reason, error.to_string())
    }
}

/// What became of the lines so far.
#[derive(Debug, Default)]
pub struct Report {
    pub(super) lines: u64,
    pub(super) empty: u64,
    pub(super) published: u64,
    pub(super) repeated: u64,
    refused: BTreeMap<Reason, u64>,
    unknown: u64,
    shown_refused: Shown,
    shown_unknown: Shown,
    stopped: Option<String>,
}

impl Report {
    /// Whether every line that is not empty was published, now or before.
    pub fn is_complete(&self) -> bool {
        self.refused.is_empty() && self.unknown == 0 && self.stopped.is_none()
    }

    pub(super) fn done(&mut self, receipt: Receipt) {
        if receipt.repeated {
            self.repeated += 1;
        } else {
            self.published += 1;
        }
    }

    pub(super) fn refuse(&mut self, line: u64, refused: Refused) {
        *self.refused.entry(refused.reason).or_default() += 1;
        self.shown_refused.add(line, refused.sentence);
    }

    /// The line may or may not have been published.
    pub(super) fn unknown(&mut self, line: u64, why: &str) {
        self.unknown += 1;
        self.shown_unknown.add(line, why.to_owned());
    }

    /// Later lines were not looked at; what became of all others stands in the report.
    pub(super) fn stop(&mut self, why: &str) {
        self.stopped = Some(why.to_owned());
    }

    pub(super) fn refused(&self) -> u64 {
        self.refused.values().sum()
    }

    pub(super) fn in_short(&self) -> String {
        format!(
            "{} published, {} repeated, {} refused, {} unknown",
            self.published,
            self.repeated,
            self.refused(),
            self.unknown
        )
    }
}

/// The first lines of a kind, by number. They come nearly in that order: what Redis refuses after what is refused here.
#[derive(Debug, Default)]
struct Shown(BTreeMap<u64, String>);

impl Shown {
    fn add(&mut self, line: u64, sentence: String) {
        self.0.insert(line, sentence);
        if self.0.len() > SHOWN {
            self.0.pop_last();
        }
    }
}

impl Display for Report {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} lines: {}, {} empty", self.lines, self.in_short(), self.empty)?;
        if !self.refused.is_empty() {
            writeln!(f, "refused, not published:")?;
            self.refused.iter().try_for_each(|(reason, count)| writeln!(f, "  {count} × {reason}"))?;
            self.shown_refused.fmt(f)?;
        }
        if self.unknown > 0 {
            writeln!(f, "unknown, may or may not have been published: {}", self.unknown)?;
            self.shown_unknown.fmt(f)?;
        }
        if let Some(why) = &self.stopped {
            let (last, next) = (self.lines, self.lines + 1);
            writeln!(f, "stopped after line {last}: {why}; to go on, begin at line {next} (tail -n +{next} FILE)")?;
        }
        Ok(())
    }
}

impl Display for Shown {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.0.len() == SHOWN {
            writeln!(f, "  the first {SHOWN}:")?;
        }
        self.0.iter().try_for_each(|(line, sentence)| writeln!(f, "  line {line}: {sentence}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_refused_lines_the_first_are_shown_and_all_are_counted() {
        let mut report = Report::default();
        for line in (1..=50).rev() {
            report.refuse(line, Refused::new(Reason::NotJson, format!("sentence {line}")));
        }
        let text = report.to_string();
        assert!(!report.is_complete() && text.contains("  50 × not a JSON object") && text.contains("the first 20:"));
        assert!(text.contains("  line 1: sentence 1\n") && text.contains("  line 20: "), "{text}");
        assert!(!text.contains("line 21"), "{text}");
    }
}
