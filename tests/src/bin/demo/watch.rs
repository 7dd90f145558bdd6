//! Prints what one user receives from the demo that runs.

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Result;
use griot_tests::client::{Client, Received};
use griot_tests::token;

use crate::facts;

/// A day: whoever watches longer starts again.
const LONG: Duration = Duration::from_secs(24 * 3600);

pub(crate) async fn run(user: &str, count: Option<usize>) -> Result<ExitCode> {
    let (socket, secret) = (facts::read("GRIOT_SOCKET")?, facts::read("GRIOT_TOKEN_SECRET")?);
    let (client, connected) = Client::connect(&socket, &token::token(&secret, user)).await?;
    let channels: Vec<&String> = connected["subs"].as_object().into_iter().flat_map(|subs| subs.keys()).collect();
    println!("user {user} is connected, subscribed to {channels:?}");
    let mut seen = 0;
    while count.is_none_or(|count| seen < count) {
        match client.next(LONG).await?.1 {
            Received::Push(push) => {
                let at = push["pub"]["offset"].as_u64().map_or_else(String::new, |offset| format!(" at {offset}"));
                println!("{}{at}  {}", push["channel"].as_str().unwrap_or("?"), push["pub"]["data"]);
                seen += 1;
            }
            Received::Closed(closed) => anyhow::bail!("the bridge closed: {} {}", closed.code, closed.reason),
            Received::Ping | Received::Reply(_) => {}
        }
    }
    Ok(ExitCode::SUCCESS)
}
