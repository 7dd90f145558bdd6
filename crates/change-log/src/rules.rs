//! What a row change means: which cache keys and patterns it invalidates, and what is published to whom.
//!
//! Rules come from a TOML file ([`Rules::parse`]) and are applied by [`Rules::effects`]. Nothing here does I/O or
//! reads a clock.

mod channel;
mod condition;
mod file;
mod heard;
mod render;
mod show;
mod template;
#[cfg(test)]
mod tests;
mod toml_error;
mod values;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use crate::entry::Op;
use crate::error::{Error, Problem};
use crate::nearest::nearest;
use channel::ChannelTemplate;
use condition::Condition;
pub use heard::Unheard;
pub use render::{Effects, Fault, FaultReason, Part, RowPublication};
use template::Template;

/// A file of rules, checked. The default has none.
#[derive(Debug, Default)]
pub struct Rules {
    /// By table, then by the rule's name.
    tables: BTreeMap<Table, Vec<Rule>>,
    /// `[listen]`: by channel of `NOTIFY`, the tables whose changes are heard there.
    channels: BTreeMap<String, Vec<Table>>,
    pub(crate) limits: Limits,
}

/// `[limits]`.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Limits {
    /// A statement that touches more rows of a table than this is logged as one entry. At least 1.
    pub(crate) rows_per_statement: u32,
}

impl Default for Limits {
    fn default() -> Self {
        Self { rows_per_statement: 10_000 }
    }
}

/// A table as rules name it. The parts are the names in the catalogue, without quotes and with their case.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Table {
    pub(crate) schema: String,
    pub(crate) name: String,
}

/// One `[rules.NAME]`.
#[derive(Debug)]
pub(crate) struct Rule {
    pub(crate) name: String,
    /// Where `table` stands in the file.
    pub(crate) table_place: Place,
    pub(crate) on: BTreeSet<Op>,
    keys: Vec<Template>,
    patterns: Vec<Template>,
    /// `columns`: only changes of these count. `None`: any change does.
    columns: Option<Vec<(String, Place)>>,
    publication: Option<PublicationRule>,
    after_sweep: bool,
    /// `when`: the rows that the rule is for.
    when: Condition,
    /// `redelete`: keys are deleted once more after this time.
    redelete: Option<Duration>,
}

/// `[rules.NAME.publication]`.
#[derive(Debug)]
struct PublicationRule {
    channel: ChannelTemplate,
    data: Vec<(String, Place)>,
    conflation_key: Option<Template>,
    /// Mixed into the entry's public id, so that two publications of one entry differ. Zero for the first rule of
    /// a table: its publications carry the entry's own id.
    id_mask: u128,
}

/// Line and column in the file, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) line: usize,
    pub(crate) column: usize,
}

impl Rules {
    /// Reads a file of rules.
    ///
    /// # Errors
    /// [`Error::Rules`] with every problem found, each with its line and column.
    pub fn parse(text: &str) -> Result<Self, Error> {
        file::parse(text).map_err(Error::Rules)
    }

    /// How many rules there are.
    pub fn len(&self) -> usize {
        self.tables.values().map(Vec::len).sum()
    }

    /// Whether there is no rule.
    pub fn is_empty(&self) -> bool {
        self.tables.is_empty()
    }

    /// The channels of `NOTIFY` to listen to.
    pub fn channels(&self) -> impl Iterator<Item = &str> {
        self.channels.keys().map(String::as_str)
    }

    /// The channels on which changes of `source` are heard. Such a table has no triggers of ours: each of its changes
    /// would take effect twice.
    pub fn channels_of(&self, source: &str) -> impl Iterator<Item = &str> {
        let heard = move |tables: &Vec<Table>| tables.iter().any(|table| table.to_string() == source);
        self.channels.iter().filter(move |(_, tables)| heard(tables)).map(|(channel, _)| channel.as_str())
    }

    /// Checks that channels are of topics that exist, where the topics are known. `default_topic`: channels with a bare
    /// name belong to that one when no topic has their name.
    ///
    /// # Errors
    /// [`Error::Rules`] with every channel of an unknown topic and the nearest known one.
    pub fn check_topics(&self, topics: &[&str], default_topic: bool) -> Result<(), Error> {
        let mut problems = Vec::new();
        for rule in self.tables.values().flatten() {
            let Some(channel) = rule.publication.as_ref().map(|publication| &publication.channel) else { continue };
            if topics.contains(&channel.topic.as_str()) || (default_topic && channel.is_bare()) {
                continue;
            }
            let hint = nearest(&channel.topic, topics).map(|name| format!("; is it {name:?}?")).unwrap_or_default();
            let message = format!("rule {:?}: no topic {:?} is configured{hint}", rule.name, channel.topic);
            problems.push(channel.template.place.problem(message));
        }
        problems.sort_by_key(|problem| (problem.line, problem.column));
        if problems.is_empty() { Ok(()) } else { Err(Error::Rules(problems)) }
    }

    /// The tables with their rules, in a fixed order.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (&Table, &[Rule])> {
        self.tables.iter().map(|(table, rules)| (table, rules.as_slice()))
    }

    /// The tables whose changes triggers of ours write to the log, with their rules.
    pub(crate) fn captured(&self) -> impl Iterator<Item = (&Table, &[Rule])> {
        let heard: BTreeSet<&Table> = self.channels.values().flatten().collect();
        self.tables().filter(move |(table, _)| !heard.contains(table))
    }

    fn of(&self, source: &str) -> &[Rule] {
        source
            .split_once('.')
            .and_then(|(schema, name)| self.tables.get(&Table { schema: schema.to_owned(), name: name.to_owned() }))
            .map_or(&[], Vec::as_slice)
    }
}

impl Rule {
    /// The columns that templates and conditions name: they enter the log as text.
    pub(crate) fn text_columns(&self) -> impl Iterator<Item = (&str, Place)> {
        self.template_columns().chain(self.when.columns())
    }

    fn template_columns(&self) -> impl Iterator<Item = (&str, Place)> {
        let publication = self.publication.as_ref();
        self.keys
            .iter()
            .chain(&self.patterns)
            .chain(publication.map(|p| &p.channel.template))
            .chain(publication.and_then(|p| p.conflation_key.as_ref()))
            .flat_map(|template| template.columns().map(|column| (column, template.place)))
    }

    /// The columns that become the publication's data.
    pub(crate) fn data_columns(&self) -> impl Iterator<Item = (&str, Place)> {
        self.publication.iter().flat_map(|p| &p.data).map(|(column, place)| (column.as_str(), *place))
    }

    /// The columns whose changes count, or `None` when any change does.
    ///
    /// Besides `columns` these are the ones that templates name: when a slug changes, the key of the old slug must
    /// go, and when an order changes hands, the new owner must hear of it. Conditions add none: `columns` says which
    /// changes count, `when` for which rows.
    pub(crate) fn watched_columns(&self) -> Option<impl Iterator<Item = (&str, Place)>> {
        let columns = self.columns.as_ref()?;
        Some(columns.iter().map(|(column, place)| (column.as_str(), *place)).chain(self.template_columns()))
    }
}

impl std::fmt::Display for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}.{}", self.schema, self.name)
    }
}

impl Place {
    pub(crate) fn problem(self, message: String) -> Problem {
        Problem { line: self.line, column: self.column, message }
    }
}
