//! `just autobahn [WSTEST]`: Autobahn's fuzzing client against the echo server, judged by its report. All cases outside
//! compression, which is refused.

use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context, Result, ensure};
use clap::Parser;
use griot_tests::process::Launch;
use griot_tests::supervisor::TemporaryFolder;
use serde_json::{Map, Value, json};

/// The name under which the echo server stands in the report.
const AGENT: &str = "griot";
/// Cases outside compression, as the test suite has counted them for ten years; fewer were not run.
const CASES: usize = 301;
/// What a case may be: a close that the RFC leaves open is informational.
const GOOD: [&str; 3] = ["OK", "NON-STRICT", "INFORMATIONAL"];

/// Runs Autobahn's fuzzing client against the echo server.
#[derive(Debug, Parser)]
struct Arguments {
    /// The program `wstest`, where it is not in the path.
    #[arg(default_value = "wstest")]
    wstest: PathBuf,
    /// Where the report is written, in JSON and HTML.
    #[arg(long, default_value = "target/autobahn")]
    report: PathBuf,
}

#[tokio::main]
async fn main() -> ExitCode {
    match run(&Arguments::parse()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("autobahn: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(arguments: &Arguments) -> Result<()> {
    let echo = Launch::new("echo").arg("0").start().await?;
    let line = echo.line("listening on ").await?;
    let addr = line.rsplit(' ').next().context("the echo server names no address")?;
    let report = std::path::absolute(&arguments.report)?;
    let index = report.join("index.json");
    // An old report must not be taken for this run's.
    match std::fs::remove_file(&index) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).context("removing the old report"),
        _ => {}
    }
    fuzz(&arguments.wstest, addr, &report)?;
    let text = std::fs::read_to_string(&index).with_context(|| format!("wstest wrote no {}", index.display()))?;
    let all: Value = serde_json::from_str(&text).with_context(|| index.display().to_string())?;
    let cases = all[AGENT].as_object().with_context(|| format!("{} has nothing about {AGENT}", index.display()))?;
    judge(cases).with_context(|| format!("see {}", report.join("index.html").display()))?;
    println!("autobahn: {} cases, nothing found; {}", cases.len(), report.join("index.html").display());
    Ok(())
}

fn fuzz(wstest: &Path, addr: &str, report: &Path) -> Result<()> {
    let folder = TemporaryFolder::new()?;
    let spec = folder.path().join("fuzzingclient.json");
    let spec_text = json!({
        "outdir": report,
        "servers": [{ "agent": AGENT, "url": format!("ws://{addr}") }],
        "cases": ["*"],
        "exclude-cases": ["12.*", "13.*"],
        "exclude-agent-cases": {},
    });
    std::fs::write(&spec, spec_text.to_string())?;
    // Its exit code says nothing: it is 0 whatever was found.
    match Command::new(wstest).args(["--mode", "fuzzingclient", "--spec"]).arg(&spec).status() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => anyhow::bail!(
            "{} is not there. It comes with the Python package autobahntestsuite, which needs Python 2.7: install it into \
             an environment of its own and name it, `just autobahn ENVIRONMENT/bin/wstest`. What it tests stands in \
             tests/it/rfc6455.rs, too",
            wstest.display()
        ),
        Err(error) => Err(error).with_context(|| format!("running {}", wstest.display())),
        Ok(_) => Ok(()),
    }
}

/// Fails when a case was not run, or anything was found.
fn judge(cases: &Map<String, Value>) -> Result<()> {
    let is_good = |verdict: &Value| verdict.as_str().is_some_and(|verdict| GOOD.contains(&verdict));
    let bad = cases.iter().filter(|(_, case)| !is_good(&case["behavior"]) || !is_good(&case["behaviorClose"]));
    let bad: Vec<_> = bad
        .map(|(name, case)| format!("{name}: {}, at the close {}", case["behavior"], case["behaviorClose"]))
        .collect();
    ensure!(bad.is_empty(), "{} of {} cases failed:\n{}", bad.len(), cases.len(), bad.join("\n"));
    ensure!(cases.len() >= CASES, "only {} of {CASES} cases were run", cases.len());
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_with_anything_but_good_cases_fails() {
        let good = json!({ "behavior": "OK", "behaviorClose": "INFORMATIONAL" });
        let mut cases: Map<String, Value> = (0..CASES).map(|n| (n.to_string(), good.clone())).collect();
        assert!(judge(&cases).is_ok());
        for bad in [
            json!({ "behavior": "FAILED", "behaviorClose": "OK" }),
            json!({ "behavior": "OK", "behaviorClose": "UNCLEAN" }),
            json!({}),
        ] {
            cases.insert("7.1.1".into(), bad);
            assert!(judge(&cases).unwrap_err().to_string().contains("7.1.1"));
        }
        cases.remove("7.1.1");
        cases.remove("0");
        assert!(judge(&cases).is_err(), "one was not run");
    }
}
