//! The file of rules: its shape, and the checks that need neither a database nor a row.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::Duration;

use serde::Deserialize;
use toml::Spanned;

use crate::digest::fnv1a;
use crate::entry::Op;
use crate::error::Problem;
use crate::limits::{KEY_BYTES, OWN_PREFIX};
use crate::listen::is_channel;
use crate::nearest::nearest;

use super::channel::ChannelTemplate;
use super::condition::{Condition, ConditionFile};
use super::template::{Piece, Template};
use super::toml_error::with_nearest;
use super::values::Version;
use super::{Limits, Place, PublicationRule, Rule, Rules, Table};

/// What `redelete` may ask for. Shorter, a slow reader may still be filling; longer, nobody would call the key fresh.
const REDELETE: std::ops::RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(60);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    limits: LimitsFile,
    #[serde(default)]
    rules: BTreeMap<String, Spanned<RuleFile>>,
    #[serde(default)]
    listen: BTreeMap<String, Spanned<ListenFile>>,
}

#[derive(Deserialize, Default)]
#[serde(deny_unknown_fields)]
struct LimitsFile {
    rows_per_statement: Option<Spanned<u32>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ListenFile {
    tables: Spanned<Vec<Spanned<String>>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RuleFile {
    table: Spanned<String>,
    on: Option<Spanned<BTreeSet<Op>>>,
    #[serde(default)]
    keys: Vec<Spanned<String>>,
    #[serde(default)]
    patterns: Vec<Spanned<String>>,
    columns: Option<Spanned<Vec<Spanned<String>>>>,
    #[serde(default)]
    publish: Publish,
    when: Option<Spanned<ConditionFile>>,
    redelete: Option<Spanned<String>>,
    publication: Option<PublicationFile>,
}

#[derive(Deserialize, Default, Clone, Copy, PartialEq, Eq)]
#[serde(rename_all = "kebab-case")]
enum Publish {
    #[default]
    AfterKeys,
    AfterSweep,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PublicationFile {
    channel: Spanned<String>,
    data: Spanned<Vec<Spanned<String>>>,
    conflation_key: Option<Spanned<String>>,
}

/// Reads the whole file and tells every problem in it; a mistake in the TOML itself comes alone.
pub(super) fn parse(text: &str) -> Result<Rules, Vec<Problem>> {
    let file: File = toml::from_str(text).map_err(|error| {
        let at = error.span().map_or(0, |span| span.start);
        vec![place_of(text, at).problem(with_nearest(error.message()))]
    })?;
    let mut reading = Reading { text, problems: Vec::new() };
    let limits = reading.limits(&file.limits);
    let mut tables: BTreeMap<Table, Vec<Rule>> = BTreeMap::new();
    for (name, rule) in file.rules {
        if let Some((table, rule)) = reading.rule(&name, rule) {
            tables.entry(table).or_default().push(rule);
        }
    }
    for rules in tables.values_mut() {
        mask_ids(rules);
    }
    let mut channels = BTreeMap::new();
    for (channel, listen) in file.listen {
        let heard = reading.listen(&channel, listen, &tables);
        channels.insert(channel, heard);
    }
    // In the order of the file, for rules were read in the order of their names.
    reading.problems.sort_by_key(|problem| (problem.line, problem.column));
    if reading.problems.is_empty() { Ok(Rules { tables, channels, limits }) } else { Err(reading.problems) }
}

/// Gives every publishing rule of a table but the first a mask of its own, made from its name: it stays the same
/// from run to run.
fn mask_ids(rules: &mut [Rule]) {
    let publishing = rules.iter_mut().filter_map(|rule| rule.publication.as_mut().map(|p| (&rule.name, p)));
    for (name, publication) in publishing.skip(1) {
        publication.id_mask = fnv1a(name.as_bytes());
    }
}

/// The file's text and what was found wrong so far.
struct Reading<'t> {
    text: &'t str,
    problems: Vec<Problem>,
}

impl Reading<'_> {
    fn place(&self, span: Range<usize>) -> Place {
        place_of(self.text, span.start)
    }

    fn problem(&mut self, place: Place, name: &str, message: impl std::fmt::Display) {
        self.problems.push(place.problem(format!("rule {name:?}: {message}")));
    }

    fn limits(&mut self, file: &LimitsFile) -> Limits {
        let Some(rows) = &file.rows_per_statement else { return Limits::default() };
        if *rows.get_ref() == 0 {
            let message = "limits.rows_per_statement = 0: must be at least 1".to_owned();
            self.problems.push(self.place(rows.span()).problem(message));
        }
        Limits { rows_per_statement: *rows.get_ref() }
    }

    /// The tables that are heard on a channel of `NOTIFY`. Each must have rules.
    fn listen(&mut self, channel: &str, listen: Spanned<ListenFile>, known: &BTreeMap<Table, Vec<Rule>>) -> Vec<Table> {
        let place = self.place(listen.span());
        let tables = listen.into_inner().tables;
        let mut problem = |place: Place, message: &str| {
            self.problems.push(place.problem(format!("channel {channel:?} of [listen]: {message}")));
        };
        if !is_channel(channel) {
            problem(place, "PostgreSQL's channels have 1 to 63 bytes");
        }
        if tables.get_ref().is_empty() {
            problem(place_of(self.text, tables.span().start), "tables names none");
        }
        let mut heard = Vec::new();
        for name in tables.into_inner() {
            match known.keys().find(|table| table.to_string() == *name.get_ref()) {
                Some(table) => heard.push(table.clone()),
                None => {
                    let names: Vec<String> = known.keys().map(Table::to_string).collect();
                    let hint = nearest(name.get_ref(), &names).map(|name| format!("; is it {name:?}?"));
                    let message = format!("no rule is for table {:?}{}", name.get_ref(), hint.unwrap_or_default());
                    problem(place_of(self.text, name.span().start), &message);
                }
            }
        }
        heard
    }

    /// `None` when the rule is of no use; what is wrong was noted.
    fn rule(&mut self, name: &str, rule: Spanned<RuleFile>) -> Option<(Table, Rule)> {
        let rule_place = self.place(rule.span());
        let rule = rule.into_inner();
        let valid = |b: u8| b.is_ascii_alphanumeric() || b == b'_' || b == b'-';
        if name.is_empty() || name.len() > 64 || !name.bytes().all(valid) {
            self.problem(rule_place, name, "a rule's name is 1 to 64 characters of A-Z a-z 0-9 _ -");
        }
        if rule.keys.is_empty() && rule.patterns.is_empty() && rule.publication.is_none() {
            self.problem(rule_place, name, "it does nothing; give keys, patterns or a [publication]");
        }
        let on = self.on(name, rule.on);
        let columns = rule.columns.map(|columns| {
            if columns.get_ref().is_empty() {
                self.problem(self.place(columns.span()), name, "columns is empty; leave it out and any change counts");
            }
            self.names(columns.into_inner())
        });
        let redelete = rule.redelete.and_then(|time| self.redelete(name, time, rule.keys.is_empty()));
        let table_place = self.place(rule.table.span());
        let table = self.table(name, rule.table);
        let rule = Rule {
            name: name.to_owned(),
            table_place,
            keys: rule.keys.into_iter().filter_map(|key| self.key(name, key)).collect(),
            patterns: rule.patterns.into_iter().filter_map(|pattern| self.pattern(name, pattern)).collect(),
            columns,
            publication: rule.publication.and_then(|publication| self.publication(name, publication, &on)),
            after_sweep: rule.publish == Publish::AfterSweep,
            when: rule.when.map(|when| self.condition(name, when)).unwrap_or_default(),
            redelete,
            on,
        };
        Some((table?, rule))
    }

    fn on(&mut self, name: &str, on: Option<Spanned<BTreeSet<Op>>>) -> BTreeSet<Op> {
        let Some(on) = on else { return BTreeSet::from([Op::Insert, Op::Update, Op::Delete]) };
        if on.get_ref().is_empty() {
            self.problem(self.place(on.span()), name, "on is empty; leave it out for insert, update and delete");
        }
        on.into_inner()
    }

    fn redelete(&mut self, name: &str, time: Spanned<String>, no_keys: bool) -> Option<Duration> {
        let place = self.place(time.span());
        let text = time.get_ref();
        if no_keys {
            self.problem(place, name, "redelete deletes keys once more; give keys");
        }
        let time = duration(text).filter(|time| REDELETE.contains(time));
        if time.is_none() {
            let message = format_args!("redelete {text:?} is not 100ms to 60s, as \"500ms\" or \"2s\"");
            self.problem(place, name, message);
        }
        time
    }

    fn condition(&mut self, name: &str, when: Spanned<ConditionFile>) -> Condition {
        let place = self.place(when.span());
        let text = self.text;
        let condition = when.into_inner().read(|at| place_of(text, at), |at, message| self.problem(at, name, message));
        if condition.is_empty() {
            self.problem(place, name, "when compares no column; give old.COLUMN or new.COLUMN, or leave it out");
        }
        condition
    }

    fn table(&mut self, name: &str, table: Spanned<String>) -> Option<Table> {
        let place = self.place(table.span());
        let text = table.into_inner();
        match text.split_once('.') {
            Some((schema, relation)) if !schema.is_empty() && !relation.is_empty() && !relation.contains('.') => {
                Some(Table { schema: schema.to_owned(), name: relation.to_owned() })
            }
            Some(_) => {
                self.problem(place, name, format_args!("table {text:?} is not SCHEMA.TABLE"));
                None
            }
            None => {
                self.problem(place, name, format_args!("table {text:?} lacks its schema; is it \"public.{text}\"?"));
                None
            }
        }
    }

    fn names(&self, names: Vec<Spanned<String>>) -> Vec<(String, Place)> {
        names.into_iter().map(|name| (name.get_ref().clone(), self.place(name.span()))).collect()
    }

    fn key(&mut self, name: &str, key: Spanned<String>) -> Option<Template> {
        let template = self.template(name, "key", key)?;
        if template.prefix().is_empty() {
            // TRUNCATE makes a pattern of the template, and this one would match every key there is.
            self.problem(template.place, name, "a key must begin with something before its first placeholder");
        }
        Some(template)
    }

    fn pattern(&mut self, name: &str, pattern: Spanned<String>) -> Option<Template> {
        let template = self.template(name, "pattern", pattern)?;
        if template.prefix().is_empty() || template.prefix().starts_with(['*', '?', '[']) {
            self.problem(template.place, name, "a pattern must begin with a literal character");
        }
        if template_in_brackets(&template) {
            self.problem(template.place, name, "a placeholder may not stand between [ and ]");
        }
        Some(template)
    }

    /// What keys and patterns have in common.
    fn template(&mut self, name: &str, field: &str, text: Spanned<String>) -> Option<Template> {
        let place = self.place(text.span());
        let text = text.into_inner();
        match Template::parse(&text, place) {
            Err(message) => {
                self.problem(place, name, format_args!("{field} {text:?}: {message}"));
                None
            }
            Ok(template) => {
                if template.prefix().starts_with(OWN_PREFIX) {
                    self.problem(
                        place,
                        name,
                        format_args!("{field} {text:?}: names that start with {OWN_PREFIX} are Griot's own"),
                    );
                }
                if text.len() > KEY_BYTES {
                    self.problem(
                        place,
                        name,
                        format_args!("{field} has {} bytes, the limit is {KEY_BYTES}", text.len()),
                    );
                }
                Some(template)
            }
        }
    }

    fn publication(&mut self, name: &str, publication: PublicationFile, on: &BTreeSet<Op>) -> Option<PublicationRule> {
        let place = self.place(publication.channel.span());
        let text = publication.channel.into_inner();
        let channel = ChannelTemplate::parse(&text, place)
            .map_err(|message| self.problem(place, name, format_args!("channel {text:?}: {message}")))
            .ok();
        if let Some(channel) = &channel {
            self.versions(name, &channel.template, on);
        }
        if publication.data.get_ref().is_empty() {
            self.problem(self.place(publication.data.span()), name, "data names no column");
        }
        let conflation_key = publication.conflation_key.and_then(|key| {
            let place = self.place(key.span());
            Template::parse(key.get_ref(), place)
                .map_err(|message| {
                    self.problem(place, name, format_args!("conflation_key {:?}: {message}", key.get_ref()));
                })
                .ok()
        });
        let data = self.names(publication.data.into_inner());
        Some(PublicationRule { channel: channel?, data, conflation_key, id_mask: 0 })
    }

    /// A channel of a version that a change does not have would have no addressee.
    fn versions(&mut self, name: &str, channel: &Template, on: &BTreeSet<Op>) {
        if on.contains(&Op::Insert) && channel.names(Version::Old) {
            self.problem(channel.place, name, "an insert has no old row to name; leave insert out of on");
        }
        if on.contains(&Op::Delete) && channel.names(Version::New) {
            self.problem(channel.place, name, "a delete has no new row to name; leave delete out of on");
        }
    }
}

/// `500ms` or `2s`.
fn duration(text: &str) -> Option<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at(digits);
    let number: u32 = number.parse().ok()?;
    match unit {
        "ms" => Some(Duration::from_millis(number.into())),
        "s" => Some(Duration::from_secs(number.into())),
        _ => None,
    }
}

/// Whether a placeholder stands in a character class, where escaping does not make every character literal.
fn template_in_brackets(template: &Template) -> bool {
    let mut open = false;
    for piece in template.pieces() {
        match piece {
            Piece::Column(_) if open => return true,
            Piece::Column(_) => {}
            Piece::Literal(literal) => {
                let mut chars = literal.chars();
                while let Some(c) = chars.next() {
                    match c {
                        '\\' => drop(chars.next()),
                        '[' => open = true,
                        ']' => open = false,
                        _ => {}
                    }
                }
            }
        }
    }
    false
}

/// Line and column of a byte offset.
fn place_of(text: &str, offset: usize) -> Place {
    let before = text.get(..offset).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    Place {
        line: before.matches('\n').count() + 1,
        column: before.get(line_start..).unwrap_or_default().chars().count() + 1,
    }
}
