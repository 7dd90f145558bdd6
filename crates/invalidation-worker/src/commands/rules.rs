//! `rules check`, `rules apply`, `rules show` and `rules dry-run`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result};
use change_log::install::{self, Rehearsal, State};
use change_log::{Entry, Rules};
use fanout_core::Publication;
use invalidation_worker::Config;
use invalidation_worker::plan::plan;

pub(crate) async fn check(config: &Config, file: &Path) -> Result<()> {
    let rules = invalidation_worker::rules(config, file)?;
    if has_database(config) {
        install::check(&super::connect(config).await?, &rules).await?;
        println!("{}: {}, all tables and columns are there", file.display(), counted(&rules));
    } else {
        println!("{}: {}; no database is configured, so tables were not looked at", file.display(), counted(&rules));
    }
    Ok(())
}

pub(crate) async fn apply(config: &Config, file: &Path, lock_timeout: Duration) -> Result<()> {
    let rules = invalidation_worker::rules(config, file)?;
    for (table, outcome) in install::apply(&super::connect(config).await?, &rules, lock_timeout).await? {
        println!("{table}: {}", format!("{outcome:?}").to_lowercase());
    }
    Ok(())
}

pub(crate) async fn show(config: &Config, file: Option<PathBuf>) -> Result<()> {
    let file = file.or_else(|| config.invalidation_worker.rules.clone());
    let file = file.context("name a file of rules, or configure one as `rules` in [invalidation_worker]")?;
    let rules = invalidation_worker::rules(config, &file)?;
    let states =
        if has_database(config) { Some(install::compare(&super::connect(config).await?, &rules).await?) } else { None };
    let installed = |table: &str| match states.as_ref().map(|states| states.get(table)) {
        None => "no database is configured, so its triggers were not looked at",
        Some(Some(State::Current)) => "its triggers are those of this file",
        Some(Some(State::Differs | State::Extra)) => "its triggers differ from this file: run `rules apply`",
        Some(Some(State::Missing) | None) => "it has no triggers yet: run `rules apply`",
    };
    for (table, sentences) in rules.sentences() {
        let channels: Vec<&str> = rules.channels_of(&table).collect();
        if channels.is_empty() {
            println!("{table}: {}", installed(&table));
        } else {
            println!("{table}: its changes are heard on {}, at most once", channels.join(", "));
        }
        sentences.iter().for_each(|sentence| println!("  {sentence}"));
    }
    for (table, _) in states.iter().flatten().filter(|(_, state)| **state == State::Extra) {
        println!("{table}: it has triggers that no rule needs: run `rules apply`");
    }
    println!("a statement that touches more than {} rows is not looked at by row", rules.rows_per_statement());
    Ok(())
}

pub(crate) async fn dry_run(
    config: &Config,
    file: &Path,
    statement: &str,
    lock_timeout: Duration,
    statement_timeout: Duration,
) -> Result<()> {
    let rules = invalidation_worker::rules(config, file)?;
    let pool = super::connect(config).await?;
    let Rehearsal { entries, more, rows, not_installed } =
        install::rehearse(&pool, &rules, statement, lock_timeout, statement_timeout).await?;
    for table in not_installed {
        println!("{table}: its triggers are not those of this file; they were for this run");
    }
    let rows = if rows == 1 { "1 row".to_owned() } else { format!("{rows} rows") };
    println!("the statement would touch {rows} and make {}", count(entries.len(), more));
    entries.iter().for_each(|entry| print(entry, &rules));
    println!("nothing was committed; ids are drawn anew when the statement is run");
    Ok(())
}

fn counted(rules: &Rules) -> String {
    match rules.len() {
        1 => "1 rule".to_owned(),
        n => format!("{n} rules"),
    }
}

fn count(entries: usize, more: bool) -> String {
    match (entries, more) {
        (1, false) => "1 entry".to_owned(),
        (n, false) => format!("{n} entries"),
        (n, true) => format!("more than {n} entries, of which these are the first"),
    }
}

/// What one entry would do, a line each.
fn print(entry: &Entry, rules: &Rules) {
    println!("{}", title(entry));
    let plan = plan(std::slice::from_ref(entry), rules);
    for key in &plan.keys {
        println!("  deletes {key}");
    }
    for (after, key) in &plan.redelete {
        println!("  deletes {key} again after {after:?}");
    }
    for pattern in &plan.patterns {
        println!("  sweeps {pattern}");
    }
    for one in &plan.publications {
        print_publication(&one.publication, if one.after_sweep { " after the sweep" } else { "" });
    }
    for poison in &plan.poison {
        println!("  cannot: {} ({})", poison.text, poison.reason);
    }
}

fn title(entry: &Entry) -> String {
    use change_log::Body;
    match &entry.body {
        Body::Row(change) => format!("{} of a row of {}", change.op.word(), change.source),
        Body::Truncate { source } => format!("truncate of {source}"),
        Body::Many { source, op } => {
            format!("{} of more rows of {source} than are looked at one by one", op.word())
        }
        other => format!("griot.{}", other.kind()),
    }
}

fn print_publication(publication: &Publication, when: &str) {
    let Publication { id, channel, data, .. } = publication;
    println!("  publishes to {channel}{when}, id {id}: {}", String::from_utf8_lossy(data.as_bytes()));
}

fn has_database(config: &Config) -> bool {
    config.database.url.is_some() || config.database.url_file.is_some()
}
