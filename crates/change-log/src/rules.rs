//! What a row change means: which cache keys and patterns it invalidates, and what is published to whom.
//!
//! Rules come from a TOML file ([`Rules::parse`]) and are applied by [`Rules::effects`]. Nothing here does I/O or
//! reads a clock.

mod channel;
mod file;
mod render;
mod template;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

use crate::entry::Op;
use crate::error::{Error, Problem};
use channel::ChannelTemplate;
pub use render::{Effects, Fault, FaultReason, Part, RowPublication};
use template::Template;

/// A file of rules, checked. The default has none.
#[derive(Debug, Default)]
pub struct Rules {
    /// By table, then by the rule's name.
    tables: BTreeMap<Table, Vec<Rule>>,
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

    /// The tables that rules name, as `schema.table`.
    pub fn sources(&self) -> impl Iterator<Item = String> {
        self.tables.keys().map(Table::to_string)
    }

    /// The tables with their rules, in a fixed order.
    pub(crate) fn tables(&self) -> impl Iterator<Item = (&Table, &[Rule])> {
        self.tables.iter().map(|(table, rules)| (table, rules.as_slice()))
    }

    fn of(&self, source: &str) -> &[Rule] {
        source
            .split_once('.')
            .and_then(|(schema, name)| self.tables.get(&Table { schema: schema.to_owned(), name: name.to_owned() }))
            .map_or(&[], Vec::as_slice)
    }
}

impl Rule {
    /// The columns that templates name, each once: they enter the log as text.
    pub(crate) fn text_columns(&self) -> impl Iterator<Item = (&str, Place)> {
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
    /// go, and when an order changes hands, the new owner must hear of it.
    pub(crate) fn watched_columns(&self) -> Option<impl Iterator<Item = (&str, Place)>> {
        let columns = self.columns.as_ref()?;
        Some(columns.iter().map(|(column, place)| (column.as_str(), *place)).chain(self.text_columns()))
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
