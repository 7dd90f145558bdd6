//! Rules in plain sentences, for people who ask what a change of a row does.

use std::fmt::Write;

use crate::entry::Op;

use super::{Rule, Rules};

impl Rules {
    /// By table, as `schema.table`, a paragraph for each of its rules.
    pub fn sentences(&self) -> impl Iterator<Item = (String, Vec<String>)> {
        self.tables.iter().map(|(table, rules)| (table.to_string(), rules.iter().map(Rule::sentence).collect()))
    }

    /// Rows of one statement up to which each is looked at by itself.
    pub fn rows_per_statement(&self) -> u32 {
        self.limits.rows_per_statement
    }
}

impl Rule {
    /// `orders: on insert or update, if new.status is "paid": deletes order:{id}; publishes id, status to orders`.
    fn sentence(&self) -> String {
        let mut text = format!("{}: on {}", self.name, listed(self.on.iter().map(|op| op.word()), " or "));
        if let Some(columns) = &self.columns
            && self.on.contains(&Op::Update)
        {
            let columns = listed(columns.iter().map(|(column, _)| column.as_str()), " or ");
            let _ = write!(text, " (an update counts when it changes {columns}, or a column that a name below holds)");
        }
        if !self.when.is_empty() {
            let _ = write!(text, ", if {}", self.when.sentence());
        }
        text.push_str(": ");
        text.push_str(&self.acts().join("; "));
        text
    }

    fn acts(&self) -> Vec<String> {
        let mut acts = Vec::new();
        if !self.keys.is_empty() {
            let again = self.redelete.map(|after| format!(", and again after {after:?}")).unwrap_or_default();
            acts.push(format!("deletes {}{again}", listed(self.keys.iter().map(|key| key.text()), ", ")));
        }
        if !self.patterns.is_empty() {
            acts.push(format!("sweeps {}", listed(self.patterns.iter().map(|pattern| pattern.text()), ", ")));
        }
        if let Some(publication) = &self.publication {
            let data = listed(publication.data.iter().map(|(column, _)| column.as_str()), ", ");
            let channel = publication.channel.template.text();
            let after = if self.after_sweep { " after the sweep" } else { "" };
            let key = publication.conflation_key.as_ref();
            let key = key.map(|key| format!(", replacing older ones of {}", key.text())).unwrap_or_default();
            acts.push(format!("publishes {data} to {channel}{after}{key}"));
        }
        acts
    }
}

fn listed(items: impl Iterator<Item = impl AsRef<str>>, between: &str) -> String {
    items.map(|item| item.as_ref().to_owned()).collect::<Vec<_>>().join(between)
}
