//! From a changed row to its effects. What cannot be rendered is a fault of that part alone: the rest takes effect.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::entry::{Op, RowChange};
use crate::limits::{CONFLATION_KEY_BYTES, DATA_BYTES, KEY_BYTES, OWN_PREFIX};

use super::template::{Template, push_escaped};
use super::values::Version;
use super::{PublicationRule, Rule, Rules};

/// What one entry of the log does.
#[derive(Debug, Default)]
pub struct Effects {
    /// Exact cache keys to delete, each once.
    pub keys: Vec<String>,
    /// Those of them to delete once more, after this time.
    pub redelete: Vec<(Duration, String)>,
    /// Patterns to sweep, each once.
    pub patterns: Vec<String>,
    /// What to publish, in the order of the rules' names.
    pub publications: Vec<RowPublication>,
    /// What could not be rendered.
    pub faults: Vec<Fault>,
}

/// A publication that a row change causes.
#[derive(Debug)]
pub struct RowPublication {
    /// The public id: the same however often the entry is applied.
    pub id: Uuid,
    /// The channel's full name.
    pub channel: String,
    /// A JSON object of the columns that the rule names, in its order.
    pub data: Box<RawValue>,
    /// Which older publications this one replaces on a conflated topic.
    pub conflation_key: Option<String>,
    /// The rule asks to publish only once the patterns of this change are swept.
    pub after_sweep: bool,
}

/// A part of a rule that could not be rendered for a row.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("rule {rule:?}, {part}: {reason}")]
pub struct Fault {
    /// The rule's name.
    pub rule: String,
    /// The part of it.
    pub part: Part,
    /// What is wrong.
    pub reason: FaultReason,
}

/// A part of a rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum Part {
    #[error("key")]
    Key,
    #[error("pattern")]
    Pattern,
    #[error("channel")]
    Channel,
    #[error("data")]
    Data,
    #[error("conflation_key")]
    ConflationKey,
    #[error("when")]
    Condition,
    #[error("publication")]
    Publication,
}

/// Why a part could not be rendered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs)]
pub enum FaultReason {
    /// The trigger was installed from other rules, or an application's own one notifies less.
    #[error(
        "the change comes without column {column:?}; was the file applied with `rules apply`? A table of [listen] has \
         what its own trigger notifies"
    )]
    MissingColumn { column: String },
    /// A personal publication without an owner.
    #[error("the owner is null")]
    NullOwner,
    /// A publication on a named channel without a name.
    #[error("a part of the channel is null")]
    NullChannel,
    /// A value that may not stand in a channel.
    #[error(
        "value {value:?} may not stand in a channel: 1 to 128 printable ASCII characters without # , and blanks, in a name without :"
    )]
    ChannelValue { value: String },
    /// A value that would end a Redis hash tag early.
    #[error("a value inside a hash tag holds a brace")]
    BraceInTag,
    /// A name of Griot's own.
    #[error("names that start with griot: are Griot's own")]
    OwnName,
    /// Nothing is left.
    #[error("it is empty")]
    Empty,
    /// More bytes than allowed.
    #[error("{bytes} bytes, the limit is {limit}")]
    TooLong { bytes: usize, limit: usize },
    /// The log's data is not the object that the trigger writes.
    #[error("the entry's data is not a JSON object")]
    NotAnObject,
    /// The statement touched more rows than `[limits] rows_per_statement`, so its rows were not logged.
    #[error("a statement touched more rows than rows_per_statement allows; nothing was published of them")]
    TooManyRows,
}

impl FaultReason {
    /// A short word for a metric's label.
    pub fn metric_label(&self) -> &'static str {
        match self {
            Self::MissingColumn { .. } => "missing_column",
            Self::NullOwner => "null_owner",
            Self::NullChannel => "null_channel",
            Self::ChannelValue { .. } => "channel_value",
            Self::BraceInTag => "brace_in_tag",
            Self::OwnName => "own_name",
            Self::Empty => "empty",
            Self::TooLong { .. } => "too_long",
            Self::NotAnObject => "not_an_object",
            Self::TooManyRows => "too_many_rows",
        }
    }
}

impl Rules {
    /// What a row change does. `uid` is the entry's: public ids are made from it.
    ///
    /// Keys and patterns come from the values before and after the change; a NULL in one gives none. A publication
    /// carries the values after the change, of a delete those before it.
    pub fn effects(&self, uid: Uuid, change: &RowChange) -> Effects {
        let mut effects = Effects::default();
        for rule in self.of(&change.source).iter().filter(|rule| rule.concerns(change)) {
            match rule.when.holds(change) {
                Ok(true) => {
                    rule.invalidate(change, &mut effects);
                    rule.publish(uid, change, &mut effects);
                }
                Ok(false) => {}
                // Nobody knows whether the rule applies: to invalidate is harmless, to publish is not.
                Err(reason) => {
                    rule.invalidate(change, &mut effects);
                    effects.fault(rule, Part::Condition, reason);
                }
            }
        }
        effects
    }

    /// What TRUNCATE of a table does: every key that its rules could have rendered goes, by pattern, whatever their
    /// conditions. Nothing is published, for there is no row left to speak of.
    pub fn truncate_effects(&self, source: &str) -> Effects {
        let mut effects = Effects::default();
        for rule in self.of(source).iter().filter(|rule| rule.on.contains(&Op::Delete)) {
            rule.invalidate_all(&mut effects);
        }
        effects
    }

    /// Everything that any rule could have named goes, as after TRUNCATE of every table.
    pub fn namespaces(&self) -> Effects {
        let mut effects = Effects::default();
        for rule in self.tables().flat_map(|(_, rules)| rules) {
            rule.invalidate_all(&mut effects);
        }
        effects
    }

    /// What a statement does that touched too many rows to log each: as [`truncate_effects`](Self::truncate_effects),
    /// and a fault for every publication that was not made.
    pub fn many_effects(&self, source: &str, op: Op) -> Effects {
        let mut effects = Effects::default();
        for rule in self.of(source).iter().filter(|rule| rule.on.contains(&op)) {
            rule.invalidate_all(&mut effects);
            if rule.publication.is_some() {
                effects.fault(rule, Part::Publication, FaultReason::TooManyRows);
            }
        }
        effects
    }
}

impl Rule {
    fn concerns(&self, change: &RowChange) -> bool {
        if !self.on.contains(&change.op) {
            return false;
        }
        match (self.watched_columns(), &change.changed) {
            (Some(mut watched), Some(changed)) if change.op == Op::Update => {
                watched.any(|(column, _)| changed.iter().any(|c| c == column))
            }
            _ => true,
        }
    }

    fn invalidate(&self, change: &RowChange, effects: &mut Effects) {
        for version in Version::of(change.op) {
            for template in &self.keys {
                match render_key(template, change, *version) {
                    Ok(key) => key.into_iter().for_each(|key| self.delete(key, effects)),
                    Err(reason) => effects.fault(self, Part::Key, reason),
                }
            }
            for template in &self.patterns {
                match render_pattern(template, change, *version) {
                    Ok(pattern) => pattern.into_iter().for_each(|pattern| push_once(&mut effects.patterns, pattern)),
                    Err(reason) => effects.fault(self, Part::Pattern, reason),
                }
            }
        }
    }

    /// Everything that the rule could render, for whatever row.
    fn invalidate_all(&self, effects: &mut Effects) {
        for key in &self.keys {
            if key.is_literal() {
                self.delete(key.prefix().to_owned(), effects);
            } else {
                push_once(&mut effects.patterns, key.widened(true));
            }
        }
        for pattern in &self.patterns {
            push_once(&mut effects.patterns, pattern.widened(false));
        }
    }

    fn delete(&self, key: String, effects: &mut Effects) {
        if let Some(after) = self.redelete {
            push_once(&mut effects.redelete, (after, key.clone()));
        }
        push_once(&mut effects.keys, key);
    }

    fn publish(&self, uid: Uuid, change: &RowChange, effects: &mut Effects) {
        let Some(publication) = &self.publication else { return };
        match publication.render(self, uid, change) {
            Ok(publication) => effects.publications.push(publication),
            Err((part, reason)) => effects.fault(self, part, reason),
        }
    }
}

impl Effects {
    fn fault(&mut self, rule: &Rule, part: Part, reason: FaultReason) {
        let fault = Fault { rule: rule.name.clone(), part, reason };
        // Old and new values usually fail alike; once is enough.
        if !self.faults.contains(&fault) {
            self.faults.push(fault);
        }
    }
}

impl PublicationRule {
    fn render(&self, rule: &Rule, uid: Uuid, change: &RowChange) -> Result<RowPublication, (Part, FaultReason)> {
        let version = if change.op == Op::Delete { Version::Old } else { Version::New };
        let channel = self.channel.render(change, version).map_err(|reason| (Part::Channel, reason))?;
        let conflation_key = match &self.conflation_key {
            None => None,
            Some(template) => render_conflation_key(template, change, version).map_err(|r| (Part::ConflationKey, r))?,
        };
        Ok(RowPublication {
            id: Uuid::from_u128(uid.as_u128() ^ self.id_mask),
            channel,
            data: self.data(change.data.as_deref()).map_err(|reason| (Part::Data, reason))?,
            conflation_key,
            after_sweep: rule.after_sweep,
        })
    }

    /// Picks this rule's columns from the object that holds those of all rules of the table. Values are copied as
    /// they stand: a number never passes through a float.
    fn data(&self, logged: Option<&RawValue>) -> Result<Box<RawValue>, FaultReason> {
        let logged: BTreeMap<String, &RawValue> =
            logged.and_then(|data| serde_json::from_str(data.get()).ok()).ok_or(FaultReason::NotAnObject)?;
        let mut text = String::from("{");
        for (column, _) in &self.data {
            let value = logged.get(column).ok_or_else(|| FaultReason::MissingColumn { column: column.clone() })?;
            if text.len() > 1 {
                text.push(',');
            }
            text.push_str(&serde_json::Value::from(column.as_str()).to_string());
            text.push(':');
            text.push_str(value.get());
        }
        text.push('}');
        if text.len() > DATA_BYTES {
            return Err(FaultReason::TooLong { bytes: text.len(), limit: DATA_BYTES });
        }
        RawValue::from_string(text).map_err(|_| FaultReason::NotAnObject)
    }
}

fn render_key(template: &Template, change: &RowChange, version: Version) -> Result<Option<String>, FaultReason> {
    let key = template.render(change, version, |text, value| {
        let in_tag = text.rfind('{') > text.rfind('}');
        if in_tag && value.contains(['{', '}']) {
            return Err(FaultReason::BraceInTag);
        }
        text.push_str(value);
        Ok(())
    })?;
    key.map(checked_name).transpose()
}

fn render_pattern(template: &Template, change: &RowChange, version: Version) -> Result<Option<String>, FaultReason> {
    let pattern = template.render(change, version, |text, value| {
        push_escaped(text, value);
        Ok(())
    })?;
    pattern.map(checked_name).transpose()
}

fn checked_name(name: String) -> Result<String, FaultReason> {
    if name.len() > KEY_BYTES {
        return Err(FaultReason::TooLong { bytes: name.len(), limit: KEY_BYTES });
    }
    if name.starts_with(OWN_PREFIX) {
        return Err(FaultReason::OwnName);
    }
    Ok(name)
}

fn render_conflation_key(
    template: &Template,
    change: &RowChange,
    version: Version,
) -> Result<Option<String>, FaultReason> {
    let key = template.render(change, version, |text, value| {
        text.push_str(value);
        Ok(())
    })?;
    match key {
        Some(key) if key.is_empty() => Err(FaultReason::Empty),
        Some(key) if key.len() > CONFLATION_KEY_BYTES => {
            Err(FaultReason::TooLong { bytes: key.len(), limit: CONFLATION_KEY_BYTES })
        }
        key => Ok(key),
    }
}

fn push_once<T: PartialEq>(list: &mut Vec<T>, item: T) {
    if !list.contains(&item) {
        list.push(item);
    }
}
