//! The README's commands, taken out of it and run, in its order.

use std::path::PathBuf;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use griot_tests::client::Client;
use griot_tests::eventually::eventually_some;
use griot_tests::supervisor::{Program, Signal, Supervised};
use griot_tests::token;
use serde_json::json;
use tokio::process::Command;

/// Everything is built already; what takes time is starting the servers, beside other tests.
const PATIENCE: Duration = Duration::from_secs(120);

fn root() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The blocks that are commands, in order.
fn blocks(markdown: &str) -> Vec<String> {
    let mut blocks = Vec::new();
    let mut lines = markdown.lines();
    while lines.any(|line| line == "```sh") {
        let block: Vec<&str> = lines.by_ref().take_while(|line| *line != "```").collect();
        blocks.push(block.join("\n"));
    }
    blocks
}

/// The demo, and its end: the recipe's own process is not the demo's.
struct Demo {
    _recipe: Supervised,
    pid: String,
}

impl Drop for Demo {
    fn drop(&mut self) {
        // It has ended already when the test failed because of that.
        let _ = std::process::Command::new("kill").arg(&self.pid).status();
    }
}

async fn start_demo(command: &str) -> Result<(Demo, impl Fn(&str) -> String)> {
    let file = root().join("target/demo.env");
    let before = std::fs::read_to_string(&file).unwrap_or_default();
    let program = Program {
        name: command.to_owned(),
        command: ["sh", "-c"]
            .map(str::to_owned)
            .into_iter()
            .chain([format!("cd '{}' && {command}", root().display())])
            .collect(),
        env: Vec::new(),
        folder: None,
        ask: Signal::Term,
        grace: Duration::from_secs(10),
    };
    let recipe = Supervised::start(&program)?;
    let text = eventually_some(PATIENCE, "the demo is ready", || async {
        if let Some(code) = recipe.exit_code() {
            return Some(Err(anyhow::anyhow!("{command} ended with {code}\n{}", recipe.output())));
        }
        let text = std::fs::read_to_string(&file).ok()?;
        (text != before && text.contains("GRIOT_DEMO_PID")).then_some(Ok(text))
    })
    .await?;
    let value = move |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(&format!("export {name}='")));
        line.and_then(|value| value.strip_suffix('\'')).unwrap_or_default().to_owned()
    };
    Ok((Demo { _recipe: recipe, pid: value("GRIOT_DEMO_PID") }, value))
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_readme_works_as_printed() -> Result<()> {
    let readme = std::fs::read_to_string(root().join("README.md"))?;
    let blocks = blocks(&readme);
    ensure!(blocks.len() >= 6, "the README has commands: {blocks:?}");
    ensure!(blocks[0] == "./dev demo", "the first command starts the demo: {blocks:?}");
    let before_the_demo = readme.split("./dev demo").next().unwrap_or_default().matches("```sh").count();
    ensure!(before_the_demo <= 8, "at most eight commands lead to the demo");
    let (_demo, value) = start_demo(&blocks[0]).await?;
    let (client, _) =
        Client::connect(&value("GRIOT_SOCKET"), &token::token(&value("GRIOT_TOKEN_SECRET"), "42")).await?;
    client.subscribe("products").await?;
    let script = blocks[1..].join("\n");
    let ran = Command::new("bash")
        .args(["-euo", "pipefail", "-c", &script])
        .current_dir(root())
        .stdin(Stdio::null())
        .kill_on_drop(true)
        .output();
    let ran = tokio::time::timeout(PATIENCE, ran).await.context("the README's commands take too long")??;
    let said = format!("{}\n{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    ensure!(ran.status.success(), "the README's commands fail:\n{said}");
    let mut wanted = vec![
        json!("hello from Redis"),
        json!("hello from SQL"),
        json!("hello over HTTP"),
        json!("hello from the shell"),
        json!(777_000),
    ];
    while !wanted.is_empty() {
        // The simulated shop speaks too.
        let (_, publication) =
            client.next_publication(PATIENCE).await.with_context(|| format!("missing {wanted:?}\n{said}"))?;
        let data = &publication["data"];
        wanted.retain(|wanted| data["text"] != *wanted && data["price_cents"] != *wanted);
    }
    ensure!(said.contains("region local"), "status says where the region stands:\n{said}");
    Ok(())
}
