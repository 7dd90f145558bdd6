//! The trigger function of one table and the triggers that call it, as SQL text.
//!
//! Statement-level with transition tables: a statement costs one call and one insert, whatever it touches. All rules
//! of a table share one entry per changed row. A statement that touches more rows than a limit is one entry.
//!
//! What a call costs is what PostgreSQL does to begin a statement, not the values: every node of the plan, every column
//! of the log, every index and every setting is made ready anew. Of 190,000 instructions that a logged update of one row
//! costs beside its own 85,000 (PostgreSQL 15), an index is 11,000, the check that it is one row 10,000, the pinned search
//! path 14,000, and the three JSON objects 16,000.

use std::collections::BTreeSet;

use crate::digest::fnv1a;
use crate::entry::Op;
use crate::rules::{Limits, Rule, Table};

use super::catalog::Found;
use super::sql::{ident, literal};

/// What the triggers of one table must log.
#[derive(Debug)]
pub(super) struct Capture {
    schema: String,
    table: String,
    ops: BTreeSet<Op>,
    /// Columns that templates name, logged as text.
    text: BTreeSet<String>,
    /// Columns that publications name, logged as JSON.
    data: BTreeSet<String>,
    /// Columns whose changes at least one rule asks for by name.
    watched: BTreeSet<String>,
    /// At least one rule asks for any change.
    any_change: bool,
    /// Rows of one statement that are logged one by one.
    rows: u32,
    /// How many new rows a statement has says nothing of its old ones: a trigger of the table can swallow a row on its way
    /// to another partition.
    partitioned: bool,
    /// All logged columns are the same text whatever the writing session has set.
    plain: bool,
}

impl Capture {
    /// The union of what `rules` need, all of them of `table`, which was `found`.
    pub(super) fn new(table: &Table, rules: &[Rule], limits: Limits, found: &Found) -> Self {
        let names = |columns: &mut dyn Iterator<Item = &str>| columns.map(str::to_owned).collect::<BTreeSet<_>>();
        let updates = || rules.iter().filter(|rule| rule.on.contains(&Op::Update));
        let text = names(&mut rules.iter().flat_map(Rule::text_columns).map(|(column, _)| column));
        let data = names(&mut rules.iter().flat_map(Rule::data_columns).map(|(column, _)| column));
        Self {
            schema: table.schema.clone(),
            table: table.name.clone(),
            ops: rules.iter().flat_map(|rule| rule.on.iter().copied()).collect(),
            plain: text.iter().chain(&data).all(|column| found.is_plain(column)),
            text,
            data,
            watched: names(&mut updates().filter_map(Rule::watched_columns).flatten().map(|(column, _)| column)),
            any_change: updates().any(|rule| rule.watched_columns().is_none()),
            rows: limits.rows_per_statement,
            partitioned: found.partitioned,
        }
    }

    /// The function's name within the schema `griot`.
    pub(super) fn function_name(&self) -> String {
        function_name(&format!("{}.{}", self.schema, self.table))
    }

    /// The names of the triggers that the table must have.
    pub(super) fn trigger_names(&self) -> impl Iterator<Item = &'static str> {
        self.events().map(|event| event.trigger)
    }

    /// A digest that changes when anything of the function or the triggers does.
    pub(super) fn definition(&self) -> String {
        let triggers: Vec<&str> = self.trigger_names().collect();
        format!("{:032x}", fnv1a(format!("{} {}", triggers.join(" "), self.create_function()).as_bytes()))
    }

    fn events(&self) -> impl Iterator<Item = &'static Event> {
        EVENTS.iter().filter(|event| self.ops.contains(&event.op))
    }

    /// Creates or replaces the function. The settings make text the same whatever the writing session has set, where that
    /// could make a difference: to set them and to set them back is a tenth of what the trigger costs. The rights are its
    /// owner's: writers need none on the log.
    pub(super) fn create_function(&self) -> String {
        let name = ident(&self.function_name());
        format!(
            "create or replace function griot.{name}() returns trigger language plpgsql security definer
             set search_path = pg_catalog, pg_temp
             {settings}
             as {body};
             revoke all on function griot.{name}() from public",
            settings = if self.plain { "" } else { TEXT_SETTINGS },
            body = literal(&self.body()),
        )
    }

    /// Drops the triggers of `relation`, the table or a partition of it, that no rule needs, and creates or replaces the
    /// others. `enable always`: a session that replays changes (`session_replication_role`) changes rows too.
    ///
    /// To drop takes the strongest lock, so it comes first: no statement then waits while an earlier one's lock holds up
    /// writers.
    pub(super) fn create_triggers(&self, relation: &str) -> String {
        let (wanted, unwanted): (Vec<_>, Vec<_>) = EVENTS.iter().partition(|event| self.ops.contains(&event.op));
        let drops = unwanted.iter().map(|event| format!("drop trigger if exists {} on {relation}", event.trigger));
        let creates = wanted.iter().map(|Event { trigger, sql, referencing, .. }| {
            format!(
                "create or replace trigger {trigger} after {sql} on {relation} {referencing}
                 for each statement execute function griot.{function}();
                 alter table only {relation} enable always trigger {trigger}",
                function = ident(&self.function_name()),
            )
        });
        drops.chain(creates).collect::<Vec<_>>().join(";\n")
    }

    /// Drops all triggers of ours from a table that was a partition.
    pub(super) fn drop_triggers(relation: &str) -> String {
        let drops = EVENTS.iter().map(|event| format!("drop trigger if exists {} on {relation}", event.trigger));
        drops.collect::<Vec<_>>().join(";\n")
    }

    /// Drops the function of a table that no rule names, and with it the triggers.
    pub(super) fn drop_function(source: &str) -> String {
        format!("drop function if exists griot.{}() cascade", ident(&function_name(source)))
    }

    /// Updates come first: nearly all statements are, and each comparison before theirs costs them.
    fn body(&self) -> String {
        let source = literal(&format!("{}.{}", self.schema, self.table));
        let (text, data) = (|from: &str| text(&self.text, from), |from: &str| data(&self.data, from));
        format!(
            "
#variable_conflict use_column
begin
    if tg_op = 'UPDATE' then
{update_one}
        if not found then
{unless_one}{update}
{many_old}
        end if;
    elsif tg_op = 'INSERT' then
        insert into griot.log (kind, source, op, new_row, data)
        select 'row', {source}, 'insert', {new_text}, {new_data} from new_rows n where {few_new};
{many_new}
    elsif tg_op = 'DELETE' then
        insert into griot.log (kind, source, op, old_row, data)
        select 'row', {source}, 'delete', {old_text}, {old_data} from old_rows o where {few_old};
{many_old}
    else
        insert into griot.log (kind, source) values ('truncate', {source});
    end if;
    return null;
end
",
            few_new = self.few("new_rows"),
            few_old = self.few("old_rows"),
            many_new = self.many(&source, "new_rows"),
            many_old = self.many(&source, "old_rows"),
            new_text = text("n"),
            new_data = data("n"),
            old_text = text("o"),
            old_data = data("o"),
            update_one = self.update_one(&source),
            unless_one = self.unless_one(),
            update = self.update(&source),
        )
    }

    /// Whether the rows are few enough to be logged one by one. Asked once and in the statement that logs them, where it
    /// costs less than a statement of its own, and looks at no more rows than it must.
    fn few(&self, rows: &str) -> String {
        format!("(select not exists (select from {rows} offset {limit}))", limit = self.rows)
    }

    /// One entry instead of the rows, when there were too many of them; then none was logged. Asked in two steps: an `if`
    /// with a query in it begins a statement, whatever comes before the query.
    fn many(&self, source: &str, rows: &str) -> String {
        format!(
            "        if not found then
            if exists (select from {rows} offset {limit}) then
                insert into griot.log (kind, source, op) values ('many', {source}, lower(tg_op));
            end if;
        end if;",
            limit = self.rows,
        )
    }

    /// What nearly all statements do: one row changes. It needs no numbers and no join, which are half of what the trigger
    /// costs.
    fn update_one(&self, source: &str) -> String {
        let (changed, condition) = self.changed("o.*", "n.*");
        let old_too = if self.partitioned { "not exists (select from old_rows offset 1) and " } else { "" };
        format!(
            "        insert into griot.log (kind, source, op, old_row, new_row, changed, data)
        select 'row', {source}, 'update', {old_text}, {new_text}, {changed}, {new_data}
        from old_rows o, new_rows n
        where {old_too}not exists (select from new_rows offset 1) and {condition};",
            old_text = text(&self.text, "o"),
            new_text = text(&self.text, "n"),
            new_data = data(&self.data, "n"),
        )
    }

    /// Goes before what looks at several rows: one row that has not changed in what counts needs no second look.
    fn unless_one(&self) -> &'static str {
        if self.partitioned {
            return "";
        }
        "        if not exists (select from new_rows offset 1) then
            return null;
        end if;
"
    }

    /// The two transition tables hold a row's old and new version at the same place, so they pair by number: a key
    /// that changed pairs nothing. Should their lengths ever differ (a trigger of the table swallowed a row on its
    /// way to another partition), what remains counts as deleted or inserted: no key is missed.
    fn update(&self, source: &str) -> String {
        let (text, data) = (|from: &str| text(&self.text, from), |from: &str| data(&self.data, from));
        let (changed, condition) = self.changed("o.griot_row", "n.griot_row");
        let numbered = |rows: &str| {
            let columns = self.columns();
            format!("(select row_number() over () as griot_number, row(t.*) as griot_row{columns} from {rows} t)")
        };
        format!(
            "        insert into griot.log (kind, source, op, old_row, new_row, changed, data)
        select 'row', {source},
               case when n.griot_number is null then 'delete' when o.griot_number is null then 'insert' else 'update' end,
               case when o.griot_number is not null then {old_text} end,
               case when n.griot_number is not null then {new_text} end,
               {changed},
               case when n.griot_number is null then {old_data} else {new_data} end
        from {old_rows} o full join {new_rows} n on n.griot_number = o.griot_number
        where (o.griot_number is null or n.griot_number is null or {condition}) and {few}
        order by coalesce(n.griot_number, o.griot_number);",
            old_text = text("o"),
            new_text = text("n"),
            old_data = data("o"),
            new_data = data("n"),
            old_rows = numbered("old_rows"),
            new_rows = numbered("new_rows"),
            few = self.few("old_rows"),
        )
    }

    /// The columns of a transition table that are read, as the continuation of a list.
    fn columns(&self) -> String {
        let columns: BTreeSet<&String> = self.text.iter().chain(&self.data).chain(&self.watched).collect();
        columns.iter().map(|c| format!(", t.{}", ident(c))).collect()
    }

    /// Which of the watched columns changed, and whether the change of the row, from `old` to `new`, counts. Compared as
    /// stored (record image): json and point have no equality, and must not break a user's update.
    fn changed(&self, old: &str, new: &str) -> (String, String) {
        let any = format!("{old} *<> {new}");
        if self.watched.is_empty() {
            return ("null".to_owned(), any);
        }
        let parts = self.watched.iter().map(|column| {
            let c = ident(column);
            format!("case when row(o.{c})::record *<> row(n.{c})::record then {} end", literal(column))
        });
        let changed = format!("array_remove(array[{}], null)", parts.collect::<Vec<_>>().join(", "));
        let side = |from: &str| {
            let columns: Vec<_> = self.watched.iter().map(|c| format!("{from}.{}", ident(c))).collect();
            format!("row({})::record", columns.join(", "))
        };
        let watched = format!("{} *<> {}", side("o"), side("n"));
        (changed, if self.any_change { any } else { watched })
    }
}

/// An object of `columns` as text. From arrays: that is the cheapest, and `jsonb_build_object` takes at most fifty pairs.
fn text(columns: &BTreeSet<String>, from: &str) -> String {
    if columns.is_empty() {
        // Typed, for a CASE would make an untyped null text.
        return "null::jsonb".to_owned();
    }
    let names: Vec<_> = columns.iter().map(|c| literal(c)).collect();
    let values: Vec<_> = columns.iter().map(|c| format!("{from}.{}::text", ident(c))).collect();
    format!("jsonb_object(array[{}], array[{}])", names.join(", "), values.join(", "))
}

/// Arguments that a function of PostgreSQL can have.
const ARGUMENTS: usize = 100;

/// An object of `columns` in their own JSON types. Without a query of its own, where the columns are few enough.
fn data(columns: &BTreeSet<String>, from: &str) -> String {
    if columns.is_empty() {
        return "null::json".to_owned();
    }
    if columns.len() <= ARGUMENTS / 2 {
        let pairs: Vec<_> = columns.iter().map(|c| format!("{}, {from}.{}", literal(c), ident(c))).collect();
        return format!("json_build_object({})", pairs.join(", "));
    }
    let columns: Vec<_> = columns.iter().map(|c| format!("{from}.{c} as {c}", c = ident(c))).collect();
    format!("(select row_to_json(griot_object) from (select {}) griot_object)", columns.join(", "))
}

/// What text depends on.
const TEXT_SETTINGS: &str = "set \"TimeZone\" = 'UTC'
             set \"DateStyle\" = 'ISO'
             set \"IntervalStyle\" = 'postgres'
             set extra_float_digits = 1
             set bytea_output = 'hex'";

/// A statement that fires a trigger of ours.
struct Event {
    op: Op,
    trigger: &'static str,
    sql: &'static str,
    referencing: &'static str,
}

/// TRUNCATE goes with delete: whoever asks to hear of rows that vanish hears of both.
const EVENTS: [Event; 4] = [
    Event { op: Op::Insert, trigger: "griot_insert", sql: "insert", referencing: "referencing new table as new_rows" },
    Event {
        op: Op::Update,
        trigger: "griot_update",
        sql: "update",
        referencing: "referencing old table as old_rows new table as new_rows",
    },
    Event { op: Op::Delete, trigger: "griot_delete", sql: "delete", referencing: "referencing old table as old_rows" },
    Event { op: Op::Delete, trigger: "griot_truncate", sql: "truncate", referencing: "" },
];

/// A name that is legible and, for any two tables, different; PostgreSQL cuts names at 63 bytes.
pub(super) fn function_name(source: &str) -> String {
    let legible: String = source.chars().map(|c| if c.is_ascii_alphanumeric() { c } else { '_' }).take(36).collect();
    let distinct = fnv1a(source.as_bytes()) >> 64;
    format!("capture_{legible}_{distinct:016x}")
}
