//! What an application's own `pg_notify` says: that a row changed, told in one of the usual shapes.
//!
//! Either the row itself, `{"id":1,"slug":"kora"}`, or a wrapper around it,
//! `{"op":"UPDATE","table":"products","old":{…},"new":{…}}`, under the names that triggers give to these parts.
//! What is not told is taken to be so: no kind of change is an update, old values that are missing are the new ones.

use std::collections::BTreeMap;

use serde_json::value::RawValue;

use crate::entry::{Columns, Op, RowChange};

use super::{Rules, Table};

/// Names of the field that holds insert, update or delete, in any case.
const OP: [&str; 5] = ["op", "operation", "action", "type", "tg_op"];
const TABLE: [&str; 3] = ["table", "table_name", "tg_table_name"];
const SCHEMA: [&str; 3] = ["schema", "table_schema", "tg_table_schema"];
/// Names of the row before the change, in a wrapper.
const OLD: [&str; 4] = ["old", "old_row", "old_record", "before"];
/// Names of the row after it; of a delete that has but one row, of that.
const NEW: [&str; 7] = ["new", "new_row", "new_record", "after", "record", "row", "data"];

/// Why a notification has no effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Unheard {
    /// Nobody can say which columns it has.
    #[error("it is not a JSON object")]
    NotAnObject,
    /// Several tables are heard on its channel.
    #[error("it does not say which of the channel's tables it speaks of")]
    NoTable,
    /// Its rules are nobody's business here.
    #[error("it names a table that [listen] does not name for its channel")]
    OtherTable,
}

impl Unheard {
    /// A short word for a metric's label.
    pub fn metric_label(self) -> &'static str {
        match self {
            Self::NotAnObject => "not_an_object",
            Self::NoTable => "no_table",
            Self::OtherTable => "other_table",
        }
    }
}

impl Rules {
    /// The change that `text`, notified on `channel`, tells of.
    ///
    /// Columns become the text that stands in the JSON. For numbers, texts and booleans that is PostgreSQL's own; points in
    /// time are written differently by `row_to_json` and in the change log.
    ///
    /// # Errors
    /// It tells of no change that rules speak of.
    pub fn heard(&self, channel: &str, text: &str) -> Result<RowChange, Unheard> {
        let tables = self.channels.get(channel).map(Vec::as_slice).unwrap_or_default();
        let told = Object::parse(text).ok_or(Unheard::NotAnObject)?;
        let source = told.table(tables)?.to_string();
        told.change(source)
    }
}

/// A JSON object, with its fields as they stand in it: a number never passes through a float.
struct Object<'t> {
    text: &'t str,
    fields: BTreeMap<String, &'t RawValue>,
}

impl<'t> Object<'t> {
    fn parse(text: &'t str) -> Option<Self> {
        Some(Self { text, fields: serde_json::from_str(text).ok()? })
    }

    /// The fields of any of these names, the first name's first.
    fn named(&self, names: &[&str]) -> impl Iterator<Item = &'t RawValue> {
        let of = |name: &str| {
            let mut fields = self.fields.iter();
            fields.find(|(field, _)| field.eq_ignore_ascii_case(name)).map(|(_, value)| *value)
        };
        names.iter().filter_map(move |name| of(name))
    }

    fn word(&self, names: &[&str]) -> Option<String> {
        self.named(names).find_map(|value| serde_json::from_str(value.get()).ok())
    }

    fn object(&self, names: &[&str]) -> Option<Self> {
        self.named(names).find_map(|value| Self::parse(value.get()))
    }

    fn op(&self) -> Option<Op> {
        self.named(&OP).find_map(|value| {
            let word: String = serde_json::from_str(value.get()).ok()?;
            [Op::Insert, Op::Update, Op::Delete].into_iter().find(|op| op.word().eq_ignore_ascii_case(&word))
        })
    }

    /// Which of the tables that are heard it speaks of.
    fn table<'r>(&self, heard: &'r [Table]) -> Result<&'r Table, Unheard> {
        let Some(name) = self.word(&TABLE) else {
            return if let [one] = heard { Ok(one) } else { Err(Unheard::NoTable) };
        };
        let schema = self.word(&SCHEMA);
        let fits = |table: &&Table| {
            let same_schema = schema.as_ref().is_none_or(|schema| *schema == table.schema);
            (table.name == name && same_schema) || table.to_string() == name
        };
        let mut fitting = heard.iter().filter(fits);
        match (fitting.next(), fitting.next()) {
            (Some(one), None) => Ok(one),
            (Some(_), Some(_)) => Err(Unheard::NoTable),
            (None, _) => Err(Unheard::OtherTable),
        }
    }

    fn change(self, source: String) -> Result<RowChange, Unheard> {
        let op = self.op();
        // A row may have a column `data`. Only what says more than a row does is a wrapper.
        let is_wrapper = op.is_some() || self.word(&TABLE).is_some();
        let (old, new) = if is_wrapper { (self.object(&OLD), self.object(&NEW)) } else { (None, None) };
        let op = op.unwrap_or(Op::Update);
        let both = old.as_ref().zip(new.as_ref()).is_some();
        let before = old.as_ref().map(Self::columns).transpose()?.unwrap_or_default();
        let row = if op == Op::Delete { old.or(new) } else { new.or(old) }.unwrap_or(self);
        let columns = row.columns()?;
        let (old, new) = match op {
            Op::Insert => (Columns::new(), columns),
            Op::Delete => (columns, Columns::new()),
            Op::Update => {
                let mut old = columns.clone();
                old.extend(before);
                (old, columns)
            }
        };
        let changed = (both && op == Op::Update).then(|| changed(&old, &new));
        let data = RawValue::from_string(row.text.to_owned()).map_err(|_| Unheard::NotAnObject)?;
        Ok(RowChange { source, op, old, new, changed, data: Some(data) })
    }

    /// The fields as PostgreSQL's text.
    fn columns(&self) -> Result<Columns, Unheard> {
        let text = |value: &RawValue| match value.get() {
            "null" => Ok(None),
            text if text.starts_with('"') => serde_json::from_str(text).map_err(|_| Unheard::NotAnObject),
            other => Ok(Some(other.to_owned())),
        };
        self.fields.iter().map(|(name, value)| Ok((name.clone(), text(value)?))).collect()
    }
}

fn changed(old: &Columns, new: &Columns) -> Vec<String> {
    old.iter().filter(|(name, value)| new.get(*name) != Some(*value)).map(|(name, _)| name.clone()).collect()
}
