//! Every order in which readers, writers, deletions and expiries can meet in Redis, against the real scripts; and the same
//! with one guard taken out, which must then be noticed.
//!
//! All orders are played side by side, each on a key of its own: the first step of each in one pipeline, then the second.

use anyhow::{Context, Result, ensure};
use cache::{companion, script};
use fred::clients::Client;
use fred::interfaces::ClientLike;
use fred::types::scripts::Script;
use fred::types::{CustomCommand, Value};
use griot_tests::servers::{prefix, shared};

/// Nothing expires by itself while a test goes on.
const LONG_MS: &str = "600000";
/// Commands in one pipeline.
const PIPELINE: usize = 10_000;

/// What one actor does next; the number is the actor's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Step {
    Lease(usize),
    Load(usize),
    Fill(usize),
    Claim(usize),
    Commit(usize),
    Write(usize),
    /// The worker's deletion for the commit of this writer.
    Unlink(usize),
    ExpireKey,
    ExpireCompanion,
}

/// All orders of the actors' steps; an actor's own steps keep theirs, and nobody unlinks for a commit that is still to come.
fn orders(actors: &[Vec<Step>]) -> Vec<Vec<Step>> {
    fn extend(actors: &[Vec<Step>], done: &mut Vec<usize>, order: &mut Vec<Step>, orders: &mut Vec<Vec<Step>>) {
        if actors.iter().zip(done.iter()).all(|(steps, done)| steps.len() == *done) {
            return orders.push(order.clone());
        }
        for actor in 0..actors.len() {
            let Some(step) = actors[actor].get(done[actor]).copied() else { continue };
            if matches!(step, Step::Unlink(writer) if !order.contains(&Step::Commit(writer))) {
                continue;
            }
            done[actor] += 1;
            order.push(step);
            extend(actors, done, order, orders);
            order.pop();
            done[actor] -= 1;
        }
    }
    let mut all = Vec::new();
    extend(actors, &mut vec![0; actors.len()], &mut Vec::new(), &mut all);
    all
}

fn reader(n: usize) -> Vec<Step> {
    vec![Step::Lease(n), Step::Load(n), Step::Fill(n)]
}

/// The protocol as it is, or with something missing.
#[derive(Debug, Clone)]
struct Protocol {
    /// `None`: readers fill with SET whatever they did not find.
    leases: Option<(Script, Script)>,
    claim: Script,
    /// `None`: writers put what they wrote with SET.
    write: Option<Script>,
}

impl Protocol {
    fn real() -> Self {
        let [lease, fill, claim, write] =
            [script::LEASE, script::FILL, script::CLAIM, script::WRITE].map(Script::from_lua);
        Self { leases: Some((lease, fill)), claim, write: Some(write) }
    }

    fn without_leases() -> Self {
        Self { leases: None, ..Self::real() }
    }

    fn with_fill(text: &str) -> Self {
        Self { leases: Some((Script::from_lua(script::LEASE), Script::from_lua(text))), ..Self::real() }
    }

    fn with_write(text: &str) -> Self {
        Self { write: Some(Script::from_lua(text)), ..Self::real() }
    }

    async fn load(&self, redis: &Client) -> Result<()> {
        let leases = self.leases.iter().flat_map(|(lease, fill)| [lease, fill]);
        for script in leases.chain([&self.claim]).chain(&self.write) {
            script.load(redis).await?;
        }
        Ok(())
    }
}

/// `text` with a guard replaced, which must be there.
fn mutated(text: &str, guard: &str, by: &str) -> Result<String> {
    ensure!(text.matches(guard).count() == 1, "{guard:?} is not once in:\n{text}");
    Ok(text.replace(guard, by))
}

/// One order while it is played.
#[derive(Debug)]
struct Play {
    key: String,
    steps: Vec<Step>,
    /// The newest committed version; the state before is 1.
    database: u64,
    /// The newest version for whose commit the key was deleted; none, until then.
    unlinked: u64,
    may_fill: [bool; 3],
    loaded: [u64; 3],
    committed: [u64; 3],
    stale: bool,
}

fn value(version: u64) -> String {
    format!("{{\"version\":{version}}}")
}

fn version(value: &Value) -> Option<u64> {
    value.as_string()?.strip_prefix("{\"version\":")?.strip_suffix('}')?.parse().ok()
}

impl Play {
    fn new(key: String, steps: Vec<Step>) -> Self {
        Self {
            key,
            steps,
            database: 1,
            unlinked: 0,
            may_fill: [false; 3],
            loaded: [0; 3],
            committed: [0; 3],
            stale: false,
        }
    }

    /// The command of step `at`; steps that happen elsewhere have none.
    fn begin(&mut self, at: usize, protocol: &Protocol) -> Result<Option<Vec<String>>> {
        let companion = companion(&self.key).context("no braces")?;
        let run = |script: &Script, arguments: &[&str]| {
            let head = ["EVALSHA", script.sha1(), "2", &self.key, &companion];
            head.iter().chain(arguments).map(|&part| part.to_owned()).collect()
        };
        let plain = |parts: &[&str]| parts.iter().map(|&part| part.to_owned()).collect();
        let token = |n| format!("actor {n}");
        Ok(Some(match self.steps[at] {
            Step::Lease(n) => match &protocol.leases {
                Some((lease, _)) => run(lease, &[&token(n), LONG_MS]),
                None => plain(&["GET", &self.key]),
            },
            Step::Load(n) => {
                self.loaded[n] = self.database;
                return Ok(None);
            }
            Step::Fill(n) if self.may_fill[n] => match &protocol.leases {
                Some((_, fill)) => run(fill, &[&token(n), &value(self.loaded[n]), LONG_MS]),
                None => plain(&["SET", &self.key, &value(self.loaded[n]), "PX", LONG_MS]),
            },
            Step::Fill(_) => return Ok(None),
            Step::Claim(n) => run(&protocol.claim, &[&token(n), LONG_MS]),
            Step::Commit(n) => {
                self.database += 1;
                self.committed[n] = self.database;
                return Ok(None);
            }
            Step::Write(n) => match &protocol.write {
                Some(write) => {
                    let claimed = if self.may_fill[n] { token(n) } else { String::new() };
                    run(write, &[&claimed, &value(self.committed[n]), "version", LONG_MS])
                }
                None => plain(&["SET", &self.key, &value(self.committed[n]), "PX", LONG_MS]),
            },
            Step::Unlink(n) => {
                self.unlinked = self.unlinked.max(self.committed[n]);
                plain(&["UNLINK", &self.key])
            }
            Step::ExpireKey => plain(&["UNLINK", &self.key]),
            Step::ExpireCompanion => plain(&["UNLINK", &companion]),
        }))
    }

    /// Takes the answer to step `at`.
    fn end(&mut self, at: usize, answer: &Value) {
        match self.steps[at] {
            Step::Lease(n) => {
                self.may_fill[n] = answer.is_null();
                // After the deletion a page may be told and ask again: it must not be given what was there before.
                self.stale |= version(answer).is_some_and(|found| found < self.unlinked);
            }
            Step::Claim(n) => self.may_fill[n] = answer.as_u64() == Some(1),
            _ => {}
        }
    }
}

/// Sends `commands` in one pipeline.
async fn send(redis: &Client, commands: impl IntoIterator<Item = Vec<String>>) -> Result<Vec<Value>> {
    let pipeline = redis.pipeline();
    let mut sent = 0;
    for mut command in commands {
        let arguments = command.split_off(1);
        let command = CustomCommand::new(command.remove(0), None::<u16>, false);
        pipeline.custom::<(), _>(command, arguments).await?;
        sent += 1;
    }
    if sent == 0 {
        return Ok(Vec::new());
    }
    let answers: Vec<Value> = pipeline.all().await?;
    ensure!(answers.len() == sent, "{} answers to {sent} commands", answers.len());
    Ok(answers)
}

/// Plays all `orders` and returns how many were, and how many ended with a value older than the newest, or showed one to a
/// reader after the deletion for a newer one.
async fn play(orders: Vec<Vec<Step>>, before: Option<u64>, protocol: &Protocol) -> Result<(usize, usize)> {
    let redis = shared().await.redis.client().await?;
    protocol.load(&redis).await?;
    let (prefix, count) = (prefix(), orders.len());
    let mut stale = 0;
    let mut orders = orders.into_iter().enumerate().peekable();
    while orders.peek().is_some() {
        let part = orders.by_ref().take(PIPELINE);
        let mut plays: Vec<Play> = part.map(|(n, steps)| Play::new(format!("{prefix}{n}"), steps)).collect();
        if let Some(version) = before {
            let sets = plays.iter().map(|play| ["SET", &play.key, &value(version)].map(str::to_owned).to_vec());
            send(&redis, sets).await?;
        }
        for at in 0..plays[0].steps.len() {
            let mut commands = Vec::new();
            let mut asked = Vec::new();
            for (n, play) in plays.iter_mut().enumerate() {
                if let Some(command) = play.begin(at, protocol)? {
                    asked.push(n);
                    commands.push(command);
                }
            }
            for (n, answer) in asked.into_iter().zip(&send(&redis, commands).await?) {
                plays[n].end(at, answer);
            }
        }
        let left = send(&redis, plays.iter().map(|play| vec!["GETDEL".into(), play.key.clone()])).await?;
        let old = |play: &Play, left: &Value| version(left).is_some_and(|left| left < play.database);
        stale += plays.iter().zip(&left).filter(|(play, left)| play.stale || old(play, left)).count();
    }
    Ok((count, stale))
}

/// Two readers, a writer who commits and whose commit deletes the key, and an expiry.
fn readings(expiry: Step) -> Vec<Vec<Step>> {
    orders(&[reader(0), reader(1), vec![Step::Commit(2), Step::Unlink(2)], vec![expiry]])
}

#[tokio::test]
async fn no_order_of_readers_a_commit_its_deletion_and_an_expiry_leaves_an_old_value() -> Result<()> {
    for expiry in [Step::ExpireKey, Step::ExpireCompanion] {
        let (played, stale) = play(readings(expiry), None, &Protocol::real()).await?;
        println!("{played} orders with {expiry:?}: {stale} stale");
        assert_eq!((played, stale), (5_040, 0));
    }
    Ok(())
}

#[tokio::test]
async fn with_a_guard_of_the_lease_taken_out_some_orders_leave_an_old_value() -> Result<()> {
    let token = mutated(script::FILL, " or redis.call('GET', KEYS[2]) ~= ARGV[1]", "")?;
    let placeholder = mutated(script::FILL, "redis.call('GET', KEYS[1]) ~= '' or ", "")?;
    for (missing, protocol) in [
        ("leases", Protocol::without_leases()),
        ("the token", Protocol::with_fill(&token)),
        ("the placeholder", Protocol::with_fill(&placeholder)),
    ] {
        let (played, stale) = play(readings(Step::ExpireKey), None, &protocol).await?;
        println!("{played} orders without {missing}: {stale} stale");
        assert!(stale > 0, "this test would not notice that {missing} is missing");
    }
    Ok(())
}

fn writer(n: usize) -> Vec<Step> {
    vec![Step::Claim(n), Step::Commit(n), Step::Write(n)]
}

/// Of two actors that are alike one comes first; which one, is all the same.
fn first(orders: &mut Vec<Vec<Step>>, earlier: Step, later: Step) {
    let at = |order: &[Step], step| order.iter().position(|other| *other == step);
    orders.retain(|order| at(order, earlier) < at(order, later));
}

/// Two writers, a reader, and what `more` adds. Rows are locked, so one writer commits first.
fn writings(more: &[Vec<Step>]) -> Vec<Vec<Step>> {
    let mut orders = orders(&[&[writer(0), writer(1), reader(2)], more].concat());
    first(&mut orders, Step::Commit(0), Step::Commit(1));
    orders
}

#[tokio::test]
async fn no_order_of_readers_a_write_through_its_deletion_and_an_expiry_leaves_an_old_value() -> Result<()> {
    let more = [vec![Step::Unlink(2)], vec![Step::ExpireKey]];
    let mut orders = orders(&[&[reader(0), reader(1), writer(2)], &more[..]].concat());
    first(&mut orders, Step::Lease(0), Step::Lease(1));
    for (protocol, is_whole) in [(Protocol::real(), true), (Protocol::without_leases(), false)] {
        let (played, stale) = play(orders.clone(), None, &protocol).await?;
        println!("{played} orders of two readers and a write-through, leases {is_whole}: {stale} stale");
        assert_eq!((played, stale == 0), (46_200, is_whole));
    }
    Ok(())
}

#[tokio::test]
async fn two_writers_in_any_order_leave_the_newest_version_or_nothing() -> Result<()> {
    let deletions = [vec![Step::Unlink(0)], vec![Step::Unlink(1)]];
    let expiry = |step| [vec![step]];
    for (with, more, before) in [
        ("nobody else", &[][..], &[None, Some(1)][..]),
        ("the deletions of both commits", &deletions, &[None]),
        ("the deletion of the newer commit", &deletions[1..], &[Some(1)]),
        ("an expiry", &expiry(Step::ExpireKey), &[None, Some(1)]),
        ("an expiry of the companion", &expiry(Step::ExpireCompanion), &[None]),
    ] {
        for before in before {
            let (played, stale) = play(writings(more), *before, &Protocol::real()).await?;
            println!("{played} orders of two writers, a reader and {with}, before them {before:?}: {stale} stale");
            assert_eq!(stale, 0);
        }
    }
    Ok(())
}

#[tokio::test]
async fn with_a_guard_of_write_through_taken_out_some_orders_leave_an_older_version() -> Result<()> {
    let deletion = [vec![Step::Unlink(1)]];
    let any_lease =
        mutated(script::WRITE, "value == '' and (ARGV[1] == '' or redis.call('GET', KEYS[2]) ~= ARGV[1])", "false")?;
    let absent = mutated(script::WRITE, "if not value then", "value = value or '{\"version\":0}' if false then")?;
    let version = mutated(script::WRITE, "theirs and theirs >= ours", "false")?;
    let ending = mutated(script::WRITE, "redis.call('UNLINK', KEYS[1])\n  return 'absent'", "return 'absent'")?;
    for (missing, protocol) in [
        ("any guard", Protocol { write: None, ..Protocol::real() }),
        ("the comparison of versions", Protocol::with_write(&version)),
        ("the check of whose lease it is", Protocol::with_write(&any_lease)),
        ("the check that something is there", Protocol::with_write(&absent)),
        ("the end of another's lease", Protocol::with_write(&ending)),
    ] {
        let mut stale = 0;
        for (more, before) in [(&[][..], None), (&[], Some(1)), (&deletion, None)] {
            stale += play(writings(more), before, &protocol).await?.1;
        }
        println!("without {missing}: {stale} stale");
        assert!(stale > 0, "this test would not notice that {missing} is missing");
    }
    Ok(())
}
