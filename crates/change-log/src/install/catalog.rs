//! Looks up what rules name in the database's catalogue, and helps with names that are not there.

use std::collections::{BTreeMap, BTreeSet};

use sqlx::PgConnection;

use crate::error::{Error, Problem};
use crate::nearest::nearest;
use crate::rules::{Rule, Rules, Table};

/// A table that exists.
#[derive(Debug)]
pub(super) struct Found {
    /// The table itself, and then its partitions of all levels: a statement that names a partition fires the triggers of
    /// that one only.
    pub(super) relations: Vec<Relation>,
    /// Its rows lie in partitions, and can move from one to another.
    pub(super) partitioned: bool,
    columns: Vec<Column>,
}

#[derive(Debug, sqlx::FromRow)]
struct Column {
    name: String,
    /// Its values are the same text whatever the session has set.
    plain: bool,
}

impl AsRef<str> for Column {
    fn as_ref(&self) -> &str {
        &self.name
    }
}

impl Found {
    /// Whether the column's values are the same text, and the same JSON, whatever the session has set: not so dates,
    /// floating point numbers and whatever may contain one.
    pub(super) fn is_plain(&self, column: &str) -> bool {
        self.columns.iter().any(|present| present.name == column && present.plain)
    }
}

/// What can have triggers.
#[derive(Debug)]
pub(super) struct Relation {
    /// sqlx's own type for an oid adds nothing here.
    pub(super) oid: i64,
    /// Schema and name, quoted for SQL.
    pub(super) name: String,
}

/// Every table that `rules` capture, by source.
pub(super) async fn find(connection: &mut PgConnection, rules: &Rules) -> Result<BTreeMap<String, Found>, Error> {
    let mut problems = Vec::new();
    let mut found = BTreeMap::new();
    for (table, tables_rules) in rules.captured() {
        match look_up(connection, table).await? {
            Ok(present) => {
                for rule in tables_rules {
                    problems.extend(missing_columns(rule, table, &present.columns));
                }
                found.insert(table.to_string(), present);
            }
            Err(message) => problems.extend(
                tables_rules
                    .iter()
                    .map(|rule| rule.table_place.problem(format!("rule {:?}: table {table}: {message}", rule.name))),
            ),
        }
    }
    if problems.is_empty() { Ok(found) } else { Err(Error::Rules(problems)) }
}

/// The table, or a sentence that says why it cannot have triggers of ours.
async fn look_up(connection: &mut PgConnection, table: &Table) -> Result<Result<Found, String>, Error> {
    let relation: Option<(i64, String, bool)> = sqlx::query_as(
        "select c.oid::bigint, c.relkind::text, c.relispartition
         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where n.nspname = $1 and c.relname = $2",
    )
    .bind(&table.schema)
    .bind(&table.name)
    .fetch_optional(&mut *connection)
    .await?;
    let (oid, kind) = match relation {
        None => return Ok(Err(not_there(connection, table).await?)),
        Some((_, _, true)) => return Ok(Err("it is a partition; name the partitioned table itself".to_owned())),
        Some((_, kind, _)) if kind != "r" && kind != "p" => {
            return Ok(Err("it is not a table; only tables have triggers that see all changes".to_owned()));
        }
        Some((oid, kind, _)) => (oid, kind),
    };
    let columns = sqlx::query_as(
        "select a.attname::text as name,
                t.typtype = 'e' or t.typnamespace = 'pg_catalog'::regnamespace
                    and t.typname = any ('{bool,int2,int4,int8,numeric,text,varchar,bpchar,uuid,json,jsonb}') as plain
         from pg_catalog.pg_attribute a join pg_catalog.pg_type t on t.oid = a.atttypid
         where a.attrelid = $1::bigint::oid and a.attnum > 0 and not a.attisdropped order by a.attnum",
    )
    .bind(oid)
    .fetch_all(&mut *connection)
    .await?;
    Ok(Ok(Found { relations: relations(connection, oid).await?, partitioned: kind == "p", columns }))
}

async fn relations(connection: &mut PgConnection, oid: i64) -> Result<Vec<Relation>, Error> {
    // The function gives nothing for a table without partitions, and the table itself for one with. A foreign table
    // cannot have triggers that see all rows of a statement.
    let relations: Vec<(i64, String)> = sqlx::query_as(
        "select c.oid::bigint, format('%I.%I', n.nspname, c.relname)
         from (select $1::bigint::oid as relid, 0 as level
               union select relid, level from pg_catalog.pg_partition_tree($1::bigint::oid::regclass)) tree
         join pg_catalog.pg_class c on c.oid = tree.relid
         join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p') order by tree.level, c.oid",
    )
    .bind(oid)
    .fetch_all(connection)
    .await?;
    Ok(relations.into_iter().map(|(oid, name)| Relation { oid, name }).collect())
}

async fn not_there(connection: &mut PgConnection, table: &Table) -> Result<String, Error> {
    let tables: Vec<String> = sqlx::query_scalar(
        "select n.nspname || '.' || c.relname
         from pg_catalog.pg_class c join pg_catalog.pg_namespace n on n.oid = c.relnamespace
         where c.relkind in ('r', 'p') and not c.relispartition
           and n.nspname not in ('pg_catalog', 'information_schema', 'griot') and n.nspname !~ '^pg_'
         order by 1 limit 10000",
    )
    .fetch_all(connection)
    .await?;
    let hint = nearest(&table.to_string(), &tables).map(|name| format!("; is it {name}?")).unwrap_or_default();
    Ok(format!("there is no such table{hint}"))
}

fn missing_columns(rule: &Rule, table: &Table, present: &[Column]) -> Vec<Problem> {
    let watched = rule.watched_columns().into_iter().flatten();
    let mut told = BTreeSet::new();
    rule.text_columns()
        .chain(rule.data_columns())
        .chain(watched)
        .filter(|(column, _)| !present.iter().any(|found| found.name == *column) && told.insert((*column).to_owned()))
        .map(|(column, place)| {
            let hint = nearest(column, present).map(|name| format!("; is it {name:?}?")).unwrap_or_default();
            place.problem(format!("rule {:?}: table {table} has no column {column:?}{hint}", rule.name))
        })
        .collect()
}
