//! Where everything is: printed for people, as JSON for programs, and as a file for the commands of the README.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context, Result};
use griot_tests::stage::Stage;
use serde::{Deserialize, Serialize};

/// The addresses and keys of a demo that runs.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Facts {
    pub(crate) storefront: String,
    pub(crate) redis: String,
    pub(crate) database: String,
    pub(crate) api: String,
    pub(crate) api_key: String,
    pub(crate) socket: String,
    pub(crate) token_secret: String,
    pub(crate) bridge_admin: String,
    pub(crate) bridge_pid: u32,
}

/// Removes the file when the demo ends, unless another demo has written it since.
pub(crate) struct Written(PathBuf, String);

impl Drop for Written {
    fn drop(&mut self) {
        if fs::read_to_string(&self.0).is_ok_and(|text| text == self.1) {
            // The next demo writes it anew.
            let _ = fs::remove_file(&self.0);
        }
    }
}

impl Facts {
    pub(crate) async fn of(stage: &Stage, storefront: &str) -> Self {
        Self {
            storefront: format!("{storefront}/"),
            redis: stage.servers.redis.url(),
            database: stage.database.url().to_owned(),
            api: format!("http://{}", stage.api_addr),
            api_key: stage.api_key.clone(),
            socket: stage.socket(),
            token_secret: stage.secret.clone(),
            bridge_admin: format!("http://{}", stage.bridge_admin),
            bridge_pid: stage.bridge_pid().await,
        }
    }

    /// Writes `demo.env` beside the binaries' folder, to be read by a shell.
    pub(crate) fn write(&self) -> Result<Written> {
        let file = path()?;
        let variables = [
            ("STOREFRONT", &self.storefront),
            ("REDIS_URL", &self.redis),
            ("DATABASE_URL", &self.database),
            ("GRIOT_API", &self.api),
            ("GRIOT_API_KEY", &self.api_key),
            ("GRIOT_SOCKET", &self.socket),
            ("GRIOT_TOKEN_SECRET", &self.token_secret),
            ("GRIOT_BRIDGE_ADMIN", &self.bridge_admin),
            ("GRIOT_DEMO_PID", &std::process::id().to_string()),
        ];
        let text: String = variables.iter().map(|(name, value)| format!("export {name}='{value}'\n")).collect();
        fs::write(&file, &text).with_context(|| format!("writing {}", file.display()))?;
        Ok(Written(file, text))
    }

    pub(crate) fn show(&self) {
        println!("\n  storefront   {}", self.storefront);
        println!("  HTTP API     {}/api/publish", self.api);
        println!("  Redis        {}", self.redis);
        println!("  PostgreSQL   {}", self.database);
        println!("  metrics      {}/metrics", self.bridge_admin);
        println!(
            "\n  in another terminal: `. target/demo.env` gives these to your shell; `./dev watch 42` prints what"
        );
        println!("  user 42 receives. Ctrl-C ends the demo and everything that it started.\n");
    }
}

/// A variable of a demo that runs.
pub(crate) fn read(name: &str) -> Result<String> {
    let file = path()?;
    let text = fs::read_to_string(&file).context("no demo runs here: start one with `./dev demo`")?;
    let line = text.lines().find_map(|line| line.strip_prefix(&format!("export {name}='"))?.strip_suffix('\''));
    Ok(line.with_context(|| format!("{} has no {name}", file.display()))?.to_owned())
}

/// `target/demo.env`, when the demo lies in `target/PROFILE/`.
fn path() -> Result<PathBuf> {
    let ours = std::env::current_exe()?;
    let target = ours.parent().and_then(|profile| profile.parent()).context("the demo lies in target/PROFILE/")?;
    Ok(target.join("demo.env"))
}
