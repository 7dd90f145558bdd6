//! `just bench ROW…`: measures rows, in rounds that alternate between the subjects.

use std::fs;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::{Args, Parser, Subcommand};
use griot_bench::floor::Floor;
use griot_bench::results::{Machine, Measurement, Results};
use griot_bench::rows::{Figure, Round, Row};
use griot_bench::subjects::Subject;
use griot_bench::{load, process, report};
use griot_tests::servers::Redis;
use tokio::runtime::Runtime;

/// Measures what a delivery and a connection cost, beside the floor server and what users would pick instead.
#[derive(Debug, Parser)]
#[command(args_conflicts_with_subcommands = true)]
struct Arguments {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    measuring: Measuring,
}

/// One binary does everything, so that there is one to build.
#[derive(Debug, Subcommand)]
enum Command {
    /// The floor server: the least that a server can do. Clients connect to `/?channel=NAME`, any number of channels.
    Floor {
        /// Where clients connect.
        #[arg(long)]
        listen: SocketAddr,
        /// Where Redis is.
        #[arg(long)]
        redis: SocketAddr,
    },
    /// The load client, which measuring starts: it takes commands on standard input.
    #[command(hide = true)]
    Load {
        /// Leave the cores to others who want them.
        #[arg(long)]
        behind: bool,
    },
    /// Write the report of results that are there.
    Report {
        /// What was measured.
        #[arg(default_value = "target/bench/results.json")]
        results: PathBuf,
        /// Where the report and its plots go.
        #[arg(default_value = "target/bench")]
        dir: PathBuf,
        /// Print the README's block, and write nothing.
        #[arg(long)]
        readme: bool,
    },
}

#[derive(Debug, Args)]
struct Measuring {
    /// The rows; all of them when none is named.
    rows: Vec<String>,
    /// Rounds of each subject.
    #[arg(long, default_value_t = 7)]
    rounds: usize,
    /// Numbers of connections, instead of each row's own.
    #[arg(long, value_delimiter = ',')]
    sizes: Vec<usize>,
    /// Subjects, instead of all that are installed.
    #[arg(long, value_delimiter = ',')]
    subjects: Vec<String>,
    /// Short rounds, whose numbers mean little.
    #[arg(long)]
    quick: bool,
    /// Where results are kept.
    #[arg(long, default_value = "target/bench")]
    out: PathBuf,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let done = match arguments.command {
        None => Runtime::new().map_err(Into::into).and_then(|runtime| runtime.block_on(run(&arguments.measuring))),
        Some(Command::Floor { listen, redis }) => Floor::new(listen, redis).and_then(Floor::run),
        Some(Command::Load { behind }) => load::serve(behind),
        Some(Command::Report { results, dir, readme }) => write_report(&results, &dir, readme),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Measuring) -> Result<()> {
    let rows: Vec<Row> = if arguments.rows.is_empty() {
        Row::ALL.to_vec()
    } else {
        arguments.rows.iter().map(|name| Row::named(name)).collect::<Result<_>>()?
    };
    let subjects: Vec<Subject> = if arguments.subjects.is_empty() {
        Subject::ALL.into_iter().filter(|subject| subject.is_installed()).collect()
    } else {
        arguments.subjects.iter().map(|name| Subject::named(name)).collect::<Result<_>>()?
    };
    let file = arguments.out.join("results.json");
    for row in rows {
        let sizes = if arguments.sizes.is_empty() { row.sizes() } else { &arguments.sizes };
        for size in sizes {
            let measurements = measure(arguments, row, *size, &subjects).await?;
            let mut results = Results::read(&file)?;
            results.machine = machine()?;
            results.replace(row.name(), measurements);
            results.write(&file)?;
            report::write(&results, &arguments.out)?;
        }
    }
    eprintln!("the report is {}", arguments.out.join("report.md").display());
    Ok(())
}

fn write_report(results: &Path, dir: &Path, readme: bool) -> Result<()> {
    let results = Results::read(results)?;
    if readme {
        print!("{}", report::readme_block(&results));
        return Ok(());
    }
    report::write(&results, dir)?;
    println!("{}", dir.join("report.md").display());
    Ok(())
}

/// All rounds of a row at one size. The order of the subjects changes from round to round.
async fn measure(arguments: &Measuring, row: Row, size: usize, subjects: &[Subject]) -> Result<Vec<Measurement>> {
    let mut measurements: Vec<Measurement> = Vec::new();
    for number in 0..arguments.rounds {
        for index in 0..subjects.len() {
            let subject = subjects[(index + number) % subjects.len()];
            if !row.compares(subject) {
                continue;
            }
            let redis = Redis::start().await?;
            process::pin_others(redis.pid())?;
            let round = Round { subject, size, redis: &redis, quick: arguments.quick };
            let figures = row.measure(round).await;
            let figures = figures.with_context(|| format!("{} of {} at {size}", row.name(), subject.name()))?;
            for figure in figures {
                eprintln!(
                    "{} {size} round {} {}: {} {:.3} {}",
                    row.name(),
                    number + 1,
                    subject.name(),
                    figure.metric,
                    figure.value,
                    figure.unit
                );
                add(&mut measurements, row, size, subject, &figure);
            }
        }
    }
    Ok(measurements)
}

fn add(measurements: &mut Vec<Measurement>, row: Row, size: usize, subject: Subject, figure: &Figure) {
    let known = measurements.iter_mut().find(|of| of.subject == subject.name() && of.metric == figure.metric);
    if let Some(known) = known {
        known.rounds.push(figure.value);
        return;
    }
    measurements.push(Measurement {
        row: row.name().into(),
        size,
        subject: subject.name().into(),
        metric: figure.metric.into(),
        unit: figure.unit.into(),
        better: figure.better,
        rounds: vec![figure.value],
        notes: subject
            .leaves_out(row, figure.metric)
            .map_or(String::new(), |what| format!("{}: {what}", report::LESSER_WORK)),
    });
}

fn machine() -> Result<Machine> {
    let read = |file: &str| fs::read_to_string(file).unwrap_or_default();
    let after = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).unwrap_or_default().to_owned();
        line.split_once(':').map_or(String::new(), |(_, value)| value.trim().to_owned())
    };
    let kilobytes: u64 =
        after(&read("/proc/meminfo"), "MemTotal").trim_end_matches("kB").trim().parse().unwrap_or_default();
    let first_line = |program: &str, argument: &str| -> Result<String> {
        let output = std::process::Command::new(program).arg(argument).output().with_context(|| program.to_owned())?;
        Ok(String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or_default().to_owned())
    };
    Ok(Machine {
        cpu: after(&read("/proc/cpuinfo"), "model name"),
        cores: process::cores().len(),
        memory: format!("{} GB", kilobytes / 1_000_000),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        redis: first_line("redis-server", "--version")?
            .split(' ')
            .find_map(|word| word.strip_prefix("v=").map(str::to_owned))
            .unwrap_or_default(),
        date: first_line("date", "+%Y-%m-%d")?,
    })
}
