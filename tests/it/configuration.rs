//! Configuration: checked without starting anything, secrets from files, and errors that say where.

use std::fs;
use std::path::Path;

use anyhow::Result;
use griot_tests::bridge::SECRET;
use griot_tests::process::Launch;
use griot_tests::stage::TOPICS;
use griot_tests::supervisor::TemporaryFolder;

const WORKERS: [&str; 4] = ["subscriber-bridge", "publisher", "invalidation-worker", "griot"];

async fn check(worker: &str, file: &Path) -> Result<(bool, String)> {
    let launch = Launch::new(worker).arg("--check-config").arg("--config").arg(file.to_string_lossy());
    let ended = launch.run().await?;
    let said = [ended.stdout, ended.stderr].concat();
    Ok((ended.status.success(), String::from_utf8_lossy(&said).into_owned()))
}

#[tokio::test]
async fn one_file_serves_all_workers_and_secrets_may_stand_in_files() -> Result<()> {
    let folder = TemporaryFolder::new()?;
    let (file, secret) = (folder.path().join("griot.toml"), folder.path().join("secret"));
    fs::write(&secret, format!("{SECRET}\n"))?;
    let text = format!(
        "{TOPICS}\n[database]\nurl = \"postgres://u@h/d\"\n[subscriber_bridge]\ntoken_secret_file = {secret:?}\n\
         [publisher]\napi_key_file = {secret:?}\n[redis]\npassword_file = {secret:?}\n[invalidation_worker]\nregion = \"here\"\n"
    );
    fs::write(&file, text)?;
    for worker in WORKERS {
        let (valid, said) = check(worker, &file).await?;
        assert!(valid && said.contains("valid"), "{worker}: {said}");
    }
    let token = |launch: Launch| launch.arg("token").arg("--user").arg("42").run();
    let from_file = token(Launch::new("subscriber-bridge").arg("--config").arg(file.to_string_lossy())).await?;
    assert!(from_file.status.success(), "{}", String::from_utf8_lossy(&from_file.stderr));
    Ok(())
}

#[tokio::test]
async fn an_unknown_key_is_refused_with_its_line_and_no_secret_is_shown() -> Result<()> {
    let folder = TemporaryFolder::new()?;
    let file = folder.path().join("griot.toml");
    fs::write(&file, "[redis]\nurl = \"redis://127.0.0.1:1\"\npasword = \"hunter2\"\n")?;
    for worker in WORKERS {
        let (valid, said) = check(worker, &file).await?;
        assert!(!valid && said.contains("line 3") && said.contains("pasword"), "{worker}: {said}");
        assert!(said.contains("griot.toml") && !said.contains("hunter2"), "{worker}: {said}");
    }
    Ok(())
}

#[tokio::test]
async fn a_rule_that_publishes_to_a_topic_that_is_not_configured_is_refused_with_its_place() -> Result<()> {
    let folder = TemporaryFolder::new()?;
    let (file, rules) = (folder.path().join("griot.toml"), folder.path().join("rules.toml"));
    let database = "[database]\nurl = \"postgres://u@h/d\"\n";
    fs::write(&file, format!("{TOPICS}\n{database}[invalidation_worker]\nrules = {rules:?}\n"))?;
    let publishing = |channel: &str| {
        format!("[rules.r]\ntable = \"public.t\"\n[rules.r.publication]\nchannel = {channel:?}\ndata = [\"id\"]\n")
    };
    fs::write(&rules, publishing("ordrs:#{user_id}"))?;
    let (valid, said) = check("invalidation-worker", &file).await?;
    assert!(!valid && said.contains("rules.toml:\nline 4, column 11: "), "{said}");
    assert!(said.contains("no topic \"ordrs\" is configured; is it \"orders\"?"), "{said}");
    fs::write(&rules, publishing("orders:#{user_id}"))?;
    let (valid, said) = check("invalidation-worker", &file).await?;
    assert!(valid, "{said}");
    Ok(())
}
