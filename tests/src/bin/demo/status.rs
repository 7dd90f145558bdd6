//! The one live line in the terminal of the demo.

use std::collections::BTreeMap;
use std::io::{IsTerminal, Write};
use std::time::Duration;

use griot_tests::http;
use griot_tests::stage::Stage;
use tokio::time::interval;

/// Renews the line every second, on a terminal; writes one line a minute elsewhere. Never returns.
pub(crate) async fn run(stage: &Stage) {
    let live = std::io::stdout().is_terminal();
    let seconds = if live { 1.0 } else { 60.0 };
    let mut turns = interval(Duration::from_secs_f64(seconds));
    let mut before: Option<BTreeMap<String, f64>> = None;
    loop {
        turns.tick().await;
        let metrics = http::get(stage.bridge_admin, "/metrics").await.map(|answer| parse(&answer.body));
        let line = match metrics {
            Ok(now) => {
                let value = |name: &str| now.get(name).copied().unwrap_or(0.0);
                let earlier = |name: &str| before.as_ref().and_then(|before| before.get(name)).copied();
                let rate = |name: &str| earlier(name).map_or(0.0, |earlier| (value(name) - earlier) / seconds);
                let line = format!(
                    "browsers {:>3}   connects {:>3.0}/s   recovered {:>4}   told of a gap {:>3}   publications {:>4.0}/s   \
                     deliveries {:>4.0}/s   in all {:>7}",
                    value("griot_connections"),
                    rate("griot_connects_total"),
                    value("griot_recoveries_total{reason=\"recovered\"}"),
                    value("griot_continuity_lost_total{reason=\"server-side\"}")
                        + value("griot_continuity_lost_total{reason=\"client-side\"}"),
                    rate("griot_publications_received_total"),
                    rate("griot_deliveries_total"),
                    value("griot_deliveries_total"),
                );
                before = Some(now);
                line
            }
            Err(_) => "the bridge is away; it is started again in a moment".to_owned(),
        };
        if live {
            print!("\r\x1b[K  {line}");
            let _ = std::io::stdout().flush();
        } else {
            println!("  {line}");
        }
    }
}

fn parse(text: &str) -> BTreeMap<String, f64> {
    let lines = text.lines().filter(|line| !line.starts_with('#'));
    lines
        .filter_map(|line| line.rsplit_once(' ').and_then(|(name, value)| Some((name.to_owned(), value.parse().ok()?))))
        .collect()
}
