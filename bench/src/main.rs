//! `just bench ROW…`: measures rows, in rounds that alternate between the subjects.

use std::fs;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use griot_bench::process;
use griot_bench::results::{Machine, Measurement, Results};
use griot_bench::rows::{Figure, Round, Row};
use griot_bench::subjects::Subject;
use griot_tests::servers::Redis;

/// Measures what a delivery and a connection cost, beside the floor server and what users would pick instead.
#[derive(Debug, Parser)]
struct Arguments {
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

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
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
        }
    }
    Ok(())
}

/// All rounds of a row at one size. The order of the subjects changes from round to round.
async fn measure(arguments: &Arguments, row: Row, size: usize, subjects: &[Subject]) -> Result<Vec<Measurement>> {
    let mut measurements: Vec<Measurement> = Vec::new();
    for number in 0..arguments.rounds {
        for index in 0..subjects.len() {
            let subject = subjects[(index + number) % subjects.len()];
            // The second Griot shows the noise where there is a floor to compare it with.
            if subject == Subject::GriotAgain && row != Row::BroadcastPaced && row != Row::Personal {
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
        notes: String::new(),
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
        cores: process::cores(),
        memory: format!("{} GB", kilobytes / 1_000_000),
        kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
        redis: first_line("redis-server", "--version")?
            .split(' ')
            .find_map(|word| word.strip_prefix("v=").map(str::to_owned))
            .unwrap_or_default(),
        date: first_line("date", "+%Y-%m-%d")?,
    })
}
