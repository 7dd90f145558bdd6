//! Commands that end by themselves.

pub(crate) mod rules;

use anyhow::Result;
use change_log::cursor::Leader;
use change_log::{PgPool, cursor, install, rotate};
use invalidation_worker::Config;

pub(crate) fn check_config(config: &Config) -> Result<()> {
    invalidation_worker::check(config)?;
    println!("the configuration is valid");
    Ok(())
}

/// Connections to the server that can be written to.
async fn connect(config: &Config) -> Result<PgPool> {
    let servers = invalidation_worker::servers(config)?;
    servers.choose().await?;
    Ok(servers.pool().clone())
}

pub(crate) async fn migrate(config: &Config) -> Result<()> {
    let pool = connect(config).await?;
    change_log::migrate(&pool).await?;
    println!("the schema griot is up to date");
    let length = config.invalidation_worker.retention();
    if rotate::set_bucket_length(&pool, length).await? {
        println!("each partition of the log is written to for {} seconds now", length.as_secs());
    }
    Ok(())
}

pub(crate) async fn status(config: &Config) -> Result<()> {
    let pool = connect(config).await?;
    let regions = cursor::status(&pool).await?;
    if regions.is_empty() {
        println!("no region has a cursor yet: start an invalidation-worker");
    }
    for region in regions {
        let oldest = region.oldest_pending.map_or_else(String::new, |age| format!(", the oldest {age:.1?} old"));
        println!(
            "region {}: {} entries to apply{oldest}; cursor saved {:.1?} ago",
            region.region, region.pending, region.saved_ago
        );
        if region.lapsed {
            println!(
                "region {}: was away for longer than the retention; entries that it needs are gone",
                region.region
            );
        }
        println!("region {}: {}", region.region, leader(region.leader.as_ref()));
    }
    if let Some(file) = &config.invalidation_worker.rules {
        for (table, state) in install::compare(&pool, &invalidation_worker::rules(config, file)?).await? {
            println!("triggers of {table}: {}", format!("{state:?}").to_lowercase());
        }
    }
    Ok(())
}

fn leader(leader: Option<&Leader>) -> String {
    match leader {
        None => "nobody has led it yet".into(),
        Some(Leader { holder, term, remaining: Some(remaining), .. }) => {
            format!("led by {holder} in term {term} for another {remaining:.1?} unless renewed")
        }
        Some(Leader { holder, term, until, .. }) => {
            let ago = until.elapsed().unwrap_or_default();
            format!("nobody leads it; {holder} did in term {term} until {ago:.1?} ago")
        }
    }
}
