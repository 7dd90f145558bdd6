//! The versions of a changed row, and how templates and conditions name their values.

use crate::entry::{Op, RowChange};

use super::render::FaultReason;

/// A row before or after the change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Version {
    Old,
    New,
}

impl Version {
    /// Those that a change of this kind has.
    pub(super) fn of(op: Op) -> &'static [Self] {
        match op {
            Op::Insert => &[Self::New],
            Op::Update => &[Self::Old, Self::New],
            Op::Delete => &[Self::Old],
        }
    }
}

/// A column of whichever version is rendered, or of one that `old.` or `new.` names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ColumnName {
    pub(super) version: Option<Version>,
    pub(super) name: String,
}

impl ColumnName {
    /// `slug`, `old.slug` or `new.slug`.
    pub(super) fn parse(text: &str) -> Self {
        let (version, name) = match text.split_once('.') {
            Some(("old", name)) => (Some(Version::Old), name),
            Some(("new", name)) => (Some(Version::New), name),
            _ => (None, text),
        };
        Self { version, name: name.to_owned() }
    }
}

/// A column's value as text, `None` for NULL. A version that the change does not have is all NULL.
pub(super) fn value<'c>(change: &'c RowChange, version: Version, column: &str) -> Result<Option<&'c str>, FaultReason> {
    if !Version::of(change.op).contains(&version) {
        return Ok(None);
    }
    let row = match version {
        Version::Old => &change.old,
        Version::New => &change.new,
    };
    let value = row.get(column).ok_or_else(|| FaultReason::MissingColumn { column: column.to_owned() })?;
    Ok(value.as_deref())
}
