//! The triggers of one table and its partitions: how they compare with the wanted ones, and what makes them those.
//!
//! The function is replaced without a lock on the table, and each relation's triggers in a transaction of its own: no
//! transaction waits for a second lock while it holds a first one. What an end half-way leaves behind differs from the
//! rules, because the record is written last.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use crate::error::Error;

use super::capture::{Capture, function_name};
use super::catalog::{Found, Relation};
use super::{Outcome, State};

/// Attempts at the lock of one table.
const ATTEMPTS: u32 = 5;

/// Brings one table's triggers to `capture`.
pub(super) async fn install(
    connection: &mut PgConnection,
    source: &str,
    capture: &Capture,
    found: &Found,
    lock_timeout: Duration,
) -> Result<Outcome, Error> {
    let outcome = match state(connection, source, capture, found).await? {
        State::Current => return Ok(Outcome::Unchanged),
        State::Missing => Outcome::Installed,
        State::Differs | State::Extra => Outcome::Updated,
    };
    connection.execute(AssertSqlSafe(capture.create_function())).await?;
    let present = Triggers::of(connection, &capture.function_name(), &found.relations).await?;
    for relation in present.wanting(capture, found) {
        patiently(connection, relation, &capture.create_triggers(&relation.name), lock_timeout).await?;
    }
    for relation in present.foreign(found) {
        patiently(connection, relation, &Capture::drop_triggers(&relation.name), lock_timeout).await?;
    }
    sqlx::query(
        "insert into griot.capture (source, relation, definition) values ($1, $2::bigint::oid, $3)
         on conflict (source) do update set relation = excluded.relation, definition = excluded.definition,
                                            applied_at = clock_timestamp()",
    )
    .bind(source)
    .bind(found.relations.first().map(|table| table.oid))
    .bind(capture.definition())
    .execute(connection)
    .await?;
    Ok(outcome)
}

/// Takes the triggers of a table away whose rules are gone. They are found by their function, wherever the table was
/// moved to meanwhile; it may be gone itself.
pub(super) async fn remove(connection: &mut PgConnection, source: &str, lock_timeout: Duration) -> Result<(), Error> {
    let present = Triggers::of(connection, &function_name(source), &[]).await?;
    for relation in present.relations() {
        patiently(connection, relation, &Capture::drop_triggers(&relation.name), lock_timeout).await?;
    }
    connection.execute(AssertSqlSafe(Capture::drop_function(source))).await?;
    sqlx::query("delete from griot.capture where source = $1").bind(source).execute(connection).await?;
    Ok(())
}

/// How one table's triggers compare with `capture`.
pub(super) async fn state(
    connection: &mut PgConnection,
    source: &str,
    capture: &Capture,
    found: &Found,
) -> Result<State, Error> {
    let recorded: Option<(i64, String)> =
        sqlx::query_as("select relation::bigint, definition from griot.capture where source = $1")
            .bind(source)
            .fetch_optional(&mut *connection)
            .await?;
    let Some((relation, definition)) = recorded else {
        return Ok(State::Missing);
    };
    if found.relations.first().map(|table| table.oid) != Some(relation) || definition != capture.definition() {
        return Ok(State::Differs);
    }
    let present = Triggers::of(connection, &capture.function_name(), &found.relations).await?;
    let current = present.wanting(capture, found).next().is_none() && present.foreign(found).next().is_none();
    Ok(if current { State::Current } else { State::Differs })
}

/// Makes the function and triggers within the caller's transaction, which is not meant to stay.
pub(super) async fn make_for_now(connection: &mut PgConnection, capture: &Capture, found: &Found) -> Result<(), Error> {
    connection.execute(AssertSqlSafe(capture.create_function())).await?;
    let present = Triggers::of(connection, &capture.function_name(), &found.relations).await?;
    for relation in present.wanting(capture, found) {
        connection.execute(AssertSqlSafe(capture.create_triggers(&relation.name))).await?;
    }
    Ok(())
}

/// Runs `ddl` for `relation` as soon as its lock is free. Writers queue up behind a lock that is waited for, so the wait
/// is short, and followed by a pause in which they have the table to themselves.
async fn patiently(
    connection: &mut PgConnection,
    relation: &Relation,
    ddl: &str,
    lock_timeout: Duration,
) -> Result<(), Error> {
    for attempt in 1..=ATTEMPTS {
        match at_once(connection, ddl, lock_timeout).await {
            Err(error) if is_lock_timeout(&error) => {}
            result => return result.map_err(Error::from),
        }
        if attempt < ATTEMPTS {
            tokio::time::sleep(lock_timeout).await;
        }
    }
    Err(Error::Busy { table: relation.name.clone(), attempts: ATTEMPTS, waited: lock_timeout })
}

async fn at_once(connection: &mut PgConnection, ddl: &str, lock_timeout: Duration) -> Result<(), sqlx::Error> {
    let mut transaction = sqlx::Connection::begin(connection).await?;
    limit_locks(&mut transaction, lock_timeout).await?;
    transaction.execute(AssertSqlSafe(ddl.to_owned())).await?;
    transaction.commit().await
}

/// For the rest of the transaction, no lock is waited for longer than this.
pub(super) async fn limit_locks(connection: &mut PgConnection, limit: Duration) -> Result<(), sqlx::Error> {
    sqlx::query("select set_config('lock_timeout', $1, true)")
        .bind(format!("{}ms", limit.as_millis().max(1)))
        .execute(connection)
        .await
        .map(drop)
}

fn is_lock_timeout(error: &sqlx::Error) -> bool {
    error.as_database_error().and_then(|error| error.code()).is_some_and(|code| code == "55P03")
}

/// The triggers of ours that are there, by relation.
struct Triggers(BTreeMap<i64, (Relation, Vec<Trigger>)>);

struct Trigger {
    name: String,
    /// Calls the right function, always.
    right: bool,
}

impl Triggers {
    /// Those of `relations`, and those that call `function` wherever they are.
    async fn of(connection: &mut PgConnection, function: &str, relations: &[Relation]) -> Result<Self, Error> {
        let oids: Vec<i64> = relations.iter().map(|relation| relation.oid).collect();
        let rows: Vec<(i64, String, String, bool)> = sqlx::query_as(
            "select c.oid::bigint, format('%I.%I', n.nspname, c.relname), t.tgname::text,
                    t.tgenabled = 'A' and f.proname = $2
             from pg_catalog.pg_trigger t
             join pg_catalog.pg_proc f on f.oid = t.tgfoid and f.pronamespace = 'griot'::regnamespace
             join pg_catalog.pg_class c on c.oid = t.tgrelid
             join pg_catalog.pg_namespace n on n.oid = c.relnamespace
             where not t.tgisinternal and (t.tgrelid = any($1::bigint[]::oid[]) or f.proname = $2)
             order by 1, 3",
        )
        .bind(oids)
        .bind(function)
        .fetch_all(connection)
        .await?;
        let mut triggers: BTreeMap<i64, (Relation, Vec<Trigger>)> = BTreeMap::new();
        for (oid, relation, name, right) in rows {
            let (_, present) = triggers.entry(oid).or_insert_with(|| (Relation { oid, name: relation }, Vec::new()));
            present.push(Trigger { name, right });
        }
        Ok(Self(triggers))
    }

    fn relations(&self) -> impl Iterator<Item = &Relation> {
        self.0.values().map(|(relation, _)| relation)
    }

    /// The relations of the table whose triggers are not exactly those of `capture`.
    fn wanting<'f>(&self, capture: &Capture, found: &'f Found) -> impl Iterator<Item = &'f Relation> {
        let mut wanted: Vec<&str> = capture.trigger_names().collect();
        wanted.sort_unstable();
        found.relations.iter().filter(move |relation| {
            let present = self.0.get(&relation.oid).map(|(_, triggers)| triggers.as_slice()).unwrap_or_default();
            !(present.iter().all(|trigger| trigger.right)
                && present.iter().map(|t| t.name.as_str()).eq(wanted.iter().copied()))
        })
    }

    /// Relations that are no part of the table any more: partitions that were detached.
    fn foreign(&self, found: &Found) -> impl Iterator<Item = &Relation> {
        self.relations().filter(|present| !found.relations.iter().any(|relation| relation.oid == present.oid))
    }
}
