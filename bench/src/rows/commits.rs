//! From a commit in PostgreSQL to the frame at the client, through the change log and the invalidation-worker.

use anyhow::Result;
use griot_tests::servers::Servers;
use griot_tests::stage::{Script, Stage};

use super::driver::WARM;
use super::{Driver, Figure, Round, cost};
use crate::load::{Command, Connect, Pace, Publish, Via};
use crate::process;

const SCHEMA: &str =
    "create table notices (id bigint generated always as identity primary key, user_id text, body json);";
const RULES: &str = r#"
[rules.notices]
table = "public.notices"
on = ["insert"]

[rules.notices.publication]
channel = "notifications:#{user_id}"
data = ["body"]
"#;
/// Commits per second.
const PACE: Pace = Pace::PerSecond(200.0);

pub(super) async fn to_screen(round: Round<'_>) -> Result<Vec<Figure>> {
    // As a site has it: a commit is on the disk before it is confirmed.
    let servers = Servers::start_with(&["fsync=on"]).await?;
    process::pin_others(servers.redis.pid())?;
    process::pin_others(servers.postgres.pid())?;
    let script = Script { schema: SCHEMA.into(), rules: RULES.into(), ..Script::default() };
    let stage = Box::pin(Stage::on(servers, script)).await?;
    let (bridge, worker) = (stage.bridge_pid().await, stage.worker().await.pid());
    process::pin_server(bridge)?;
    process::pin_others(worker)?;
    let via = Via::Commits(stage.database.url().to_owned());
    let publish = |seconds| Publish { via: via.clone(), ..round.personal(PACE, seconds, round.size) };
    let mut driver = Driver::start()?;
    let connect = round.connect(stage.bridge_addr, round.size, None);
    driver.tell(&Command::Connect(Connect { secret: Some(stage.secret.clone()), ..connect })).await?;
    driver.deliver(bridge, publish(WARM)).await?;
    let before = process::cpu(worker)?;
    let measured = driver.deliver(bridge, publish(2.0 * round.seconds())).await?;
    let used = process::cpu(worker)?.saturating_sub(before);
    let counted = measured.answer.counted;
    Ok(vec![
        cost("p50", "ms", counted.p50 / 1e3),
        cost("p99", "ms", counted.p99 / 1e3),
        cost("the worker's CPU per commit", "µs", used.as_secs_f64() * 1e6 / counted.deliveries as f64),
    ])
}
