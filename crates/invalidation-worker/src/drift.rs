//! Not ready while the installed triggers are not those of the rules: rows would have other effects than the file says,
//! or none.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use change_log::install::{self, State};
use change_log::{Rules, Servers};
use fanout_core::Shutdown;
use fanout_core::admin::Health;

/// Between two looks.
const LOOK: Duration = Duration::from_secs(3);
/// After one that failed.
const RETRY: Duration = Duration::from_millis(250);

/// Compares until the ending is asked for, as the leader and as a standby alike. `servers` are nobody else's: they are
/// chosen again after a failure.
pub(crate) async fn watch(servers: Servers, rules: Arc<Rules>, health: Health, shutdown: Shutdown) {
    let mut chosen = false;
    health.down("rules", "not compared with the triggers in the database yet");
    while !shutdown.is_requested() {
        let compared = async {
            if !chosen {
                servers.choose().await?;
            }
            install::compare(servers.pool(), &rules).await
        };
        let compared = compared.await;
        chosen = compared.is_ok();
        let wait = match compared {
            Ok(states) => {
                match difference(&states) {
                    None => health.up("rules"),
                    Some(difference) => health.down("rules", difference),
                }
                LOOK
            }
            // That PostgreSQL is away says nothing about triggers, and is told by those who need it.
            Err(error) if error.is_transient() => RETRY,
            Err(error) => {
                health.down("rules", error.to_string());
                LOOK
            }
        };
        shutdown.pause(wait).await;
    }
}

/// The sentence for operators; `None` when all is as it should be.
fn difference(states: &BTreeMap<String, State>) -> Option<String> {
    let differing: Vec<String> = states
        .iter()
        .filter_map(|(table, state)| match state {
            State::Current => None,
            State::Missing => Some(format!("{table} has no triggers")),
            State::Differs => Some(format!("the triggers of {table} are not those of the rules")),
            State::Extra => Some(format!("{table} has triggers that no rule needs")),
        })
        .collect();
    (!differing.is_empty()).then(|| {
        let differing = differing.join(", ");
        format!("{differing}: run `invalidation-worker rules apply` with the file that this worker was started with")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_that_differs_is_named() {
        let states = |states: &[(&str, State)]| states.iter().map(|(name, state)| ((*name).into(), *state)).collect();
        assert_eq!(difference(&states(&[("public.a", State::Current)])), None);
        let text = difference(&states(&[
            ("public.a", State::Missing),
            ("public.b", State::Current),
            ("public.c", State::Differs),
            ("public.d", State::Extra),
        ]));
        assert_eq!(
            text.as_deref(),
            Some(
                "public.a has no triggers, the triggers of public.c are not those of the rules, public.d has triggers \
                 that no rule needs: run `invalidation-worker rules apply` with the file that this worker was started with"
            )
        );
    }
}
