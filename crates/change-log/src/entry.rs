//! An entry of the change log as it is read back.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::value::RawValue;
use sqlx::Row;
use sqlx::postgres::PgRow;
use uuid::Uuid;

/// Named columns of one row, as PostgreSQL's text; `None` is NULL.
pub type Columns = BTreeMap<String, Option<String>>;

/// One entry: something was committed that must take effect.
#[derive(Debug)]
pub struct Entry {
    /// The place in the log. Entries are applied in this order.
    pub id: i64,
    /// The transaction that wrote it.
    pub xid: u64,
    /// The public id: the same however often the entry is applied.
    pub uid: Uuid,
    /// When the entry was written, by PostgreSQL's clock; the commit came a little later.
    pub at: SystemTime,
    /// What was committed.
    pub body: Body,
}

/// What was committed.
#[derive(Debug)]
pub enum Body {
    /// `griot.publish`.
    Publish {
        /// The channel's full name.
        channel: String,
        /// The data, byte for byte.
        data: Box<RawValue>,
        /// Which older publications this one replaces on a conflated topic.
        conflation_key: Option<String>,
    },
    /// `griot.invalidate`.
    Invalidate {
        /// The exact key.
        key: String,
    },
    /// `griot.invalidate_pattern`.
    InvalidatePattern {
        /// Redis's glob.
        pattern: String,
    },
    /// A row of a table with rules changed.
    Row(RowChange),
    /// A table with rules was truncated.
    Truncate {
        /// `schema.table`.
        source: String,
    },
    /// A statement touched more rows of a table with rules than are logged one by one.
    Many {
        /// `schema.table`.
        source: String,
        /// What the statement did.
        op: Op,
    },
    /// The row does not follow its own schema: somebody wrote it by hand. Only good to be counted.
    Unreadable {
        /// What is wrong with it.
        reason: String,
    },
}

/// One changed row of a table that rules name.
#[derive(Debug)]
pub struct RowChange {
    /// `schema.table`, as the rules name it.
    pub source: String,
    /// What happened to the row.
    pub op: Op,
    /// The columns that templates name, before; empty for an insert.
    pub old: Columns,
    /// The columns that templates name, after; empty for a delete.
    pub new: Columns,
    /// Which watched columns changed; `None` when the trigger did not have to tell.
    pub changed: Option<Vec<String>>,
    /// A JSON object of the columns that publications name: after the change, of a delete before it.
    pub data: Option<Box<RawValue>>,
}

/// What happened to a row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// The row is new.
    Insert,
    /// The row has other values.
    Update,
    /// The row is gone.
    Delete,
}

impl Op {
    /// The SQL word in lower case.
    pub fn word(self) -> &'static str {
        match self {
            Self::Insert => "insert",
            Self::Update => "update",
            Self::Delete => "delete",
        }
    }
}

impl Body {
    /// A word for logs and metrics.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Publish { .. } => "publish",
            Self::Invalidate { .. } => "invalidate",
            Self::InvalidatePattern { .. } => "invalidate_pattern",
            Self::Row(_) => "row",
            Self::Truncate { .. } => "truncate",
            Self::Many { .. } => "many",
            Self::Unreadable { .. } => "unreadable",
        }
    }
}

/// The columns that [`Entry::decode`] reads, for a select list.
macro_rules! entry_columns {
    () => {
        "id, xid::text::bigint as xid, uid, (extract(epoch from at) * 1000000)::bigint as at, kind, channel, data::text as data, \
         conflation_key, key, pattern, source, op, old_row::text as old_row, new_row::text as new_row, changed"
    };
}
pub(crate) use entry_columns;

impl Entry {
    /// One row of a select of [`entry_columns`].
    pub(crate) fn decode(row: &PgRow) -> Result<Self, sqlx::Error> {
        let micros: i64 = row.try_get("at")?;
        Ok(Self {
            id: row.try_get("id")?,
            xid: row.try_get::<i64, _>("xid")?.unsigned_abs(),
            uid: row.try_get("uid")?,
            at: SystemTime::UNIX_EPOCH + Duration::from_micros(micros.max(0).unsigned_abs()),
            body: Fields(row).body()?.unwrap_or_else(|reason| Body::Unreadable { reason }),
        })
    }
}

/// A row on its way to a [`Body`]. The outer error is the driver's, the inner one the content's.
struct Fields<'r>(&'r PgRow);

type Content<T> = Result<Result<T, String>, sqlx::Error>;

/// Passes the driver's error up and gives the content's back.
macro_rules! content {
    ($field:expr) => {
        match $field? {
            Ok(value) => value,
            Err(reason) => return Ok(Err(reason)),
        }
    };
}

impl Fields<'_> {
    fn body(&self) -> Content<Body> {
        let kind: String = self.0.try_get("kind")?;
        Ok(Ok(match kind.as_str() {
            "publish" => Body::Publish {
                channel: content!(self.text("channel")),
                data: content!(self.data()),
                conflation_key: self.0.try_get("conflation_key")?,
            },
            "invalidate" => Body::Invalidate { key: content!(self.text("key")) },
            "invalidate_pattern" => Body::InvalidatePattern { pattern: content!(self.text("pattern")) },
            "row" => Body::Row(content!(self.row_change())),
            "truncate" => Body::Truncate { source: content!(self.text("source")) },
            "many" => Body::Many { source: content!(self.text("source")), op: content!(self.op()) },
            _ => return Ok(Err(format!("kind {kind:?} is not known"))),
        }))
    }

    fn op(&self) -> Content<Op> {
        Ok(Ok(match content!(self.text("op")).as_str() {
            "insert" => Op::Insert,
            "update" => Op::Update,
            "delete" => Op::Delete,
            other => return Ok(Err(format!("op {other:?} is not known"))),
        }))
    }

    fn row_change(&self) -> Content<RowChange> {
        let op = content!(self.op());
        let has_data = self.0.try_get::<Option<&str>, _>("data")?.is_some();
        Ok(Ok(RowChange {
            source: content!(self.text("source")),
            op,
            old: content!(self.columns("old_row")),
            new: content!(self.columns("new_row")),
            changed: self.0.try_get("changed")?,
            data: if has_data { Some(content!(self.data())) } else { None },
        }))
    }

    fn text(&self, column: &str) -> Content<String> {
        let value: Option<String> = self.0.try_get(column)?;
        Ok(value.ok_or_else(|| format!("{column} is null")))
    }

    fn data(&self) -> Content<Box<RawValue>> {
        let text = content!(self.text("data"));
        Ok(RawValue::from_string(text).map_err(|error| format!("data: {error}")))
    }

    fn columns(&self, column: &str) -> Content<Columns> {
        let Some(text) = self.0.try_get::<Option<&str>, _>(column)? else {
            return Ok(Ok(Columns::new()));
        };
        Ok(serde_json::from_str(text).map_err(|error| format!("{column}: {error}")))
    }
}
