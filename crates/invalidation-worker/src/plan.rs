//! What a page of the change log asks for. Pure: entries and rules in, effects out.

use std::collections::HashSet;
use std::time::Duration;

use change_log::{Body, Entry, Rules};
use fanout_core::publisher::Once;
use fanout_core::{Channel, Data, Publication};
use serde_json::value::RawValue;
use uuid::Uuid;

/// Everything that a page does, in the order in which it is done.
#[derive(Debug, Default)]
pub struct Plan {
    /// Exact keys to delete, each once.
    pub keys: Vec<String>,
    /// Keys among them to delete once more after a time, each once per time.
    pub redelete: Vec<(Duration, String)>,
    /// Patterns to sweep, each once.
    pub patterns: Vec<String>,
    /// Publications, in the order of the log.
    pub publications: Vec<Planned>,
    /// What cannot take effect, however often it is tried.
    pub poison: Vec<Poison>,
}

/// A publication with where it comes from.
#[derive(Debug)]
pub struct Planned {
    /// The entry.
    pub entry: i64,
    /// What to publish.
    pub publication: Publication,
    /// Only once the patterns that were asked for up to its entry are swept.
    pub after_sweep: bool,
}

/// A part of an entry that cannot take effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// The entry.
    pub entry: i64,
    /// From a fixed list; the metric's label.
    pub reason: &'static str,
    /// What was wrong, for the log.
    pub text: String,
}

/// What `entries` ask for under `rules`.
pub fn plan<'e>(entries: impl IntoIterator<Item = &'e Entry>, rules: &Rules) -> Plan {
    let mut planning = Planning::default();
    for entry in entries {
        planning.entry(entry, rules);
    }
    planning.plan
}

#[derive(Default)]
struct Planning {
    plan: Plan,
    keys: HashSet<String>,
    redelete: HashSet<(Duration, String)>,
    patterns: HashSet<String>,
}

impl Planning {
    fn entry(&mut self, entry: &Entry, rules: &Rules) {
        match &entry.body {
            Body::Publish { channel, data, conflation_key } => {
                self.publish(entry, entry.uid, channel, data, conflation_key.as_ref(), None, false);
            }
            Body::Invalidate { key } => self.key(key.clone()),
            Body::InvalidatePattern { pattern } => self.pattern(pattern.clone()),
            Body::Row(change) => {
                let effects = rules.effects(entry.uid, change);
                self.invalidations(entry, &effects);
                for row in &effects.publications {
                    let key = row.conflation_key.as_ref();
                    self.publish(entry, row.id, &row.channel, &row.data, key, Some(change.op.word()), row.after_sweep);
                }
            }
            Body::Truncate { source } => self.invalidations(entry, &rules.truncate_effects(source)),
            Body::Many { source, op } => self.invalidations(entry, &rules.many_effects(source, *op)),
            Body::Unreadable { reason } => self.poison(entry, "unreadable", reason.clone()),
        }
    }

    fn invalidations(&mut self, entry: &Entry, effects: &change_log::Effects) {
        for key in &effects.keys {
            self.key(key.clone());
        }
        for again in &effects.redelete {
            if self.redelete.insert(again.clone()) {
                self.plan.redelete.push(again.clone());
            }
        }
        for pattern in &effects.patterns {
            self.pattern(pattern.clone());
        }
        for fault in &effects.faults {
            self.poison(entry, fault.reason.metric_label(), fault.to_string());
        }
    }

    #[expect(clippy::too_many_arguments, reason = "the parts of a publication, from two kinds of entry")]
    fn publish(
        &mut self,
        entry: &Entry,
        id: Uuid,
        channel: &str,
        data: &RawValue,
        conflation_key: Option<&String>,
        op: Option<&str>,
        after_sweep: bool,
    ) {
        let channel = match Channel::parse(channel) {
            Ok(channel) => channel,
            Err(error) => return self.poison(entry, "channel", error.to_string()),
        };
        let data = match Data::parse(data.get().to_owned()) {
            Ok(data) => data,
            Err(error) => return self.poison(entry, "data", error.to_string()),
        };
        let mut publication = Publication::new(channel, data);
        publication.id = id;
        publication.once = Once::Entry;
        publication.conflation_key = conflation_key.cloned();
        publication.tags.extend(op.map(|op| ("op".to_owned(), op.to_owned())));
        self.plan.publications.push(Planned { entry: entry.id, publication, after_sweep });
    }

    fn key(&mut self, key: String) {
        if self.keys.insert(key.clone()) {
            self.plan.keys.push(key);
        }
    }

    fn pattern(&mut self, pattern: String) {
        if self.patterns.insert(pattern.clone()) {
            self.plan.patterns.push(pattern);
        }
    }

    fn poison(&mut self, entry: &Entry, reason: &'static str, text: String) {
        self.plan.poison.push(Poison { entry: entry.id, reason, text });
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use change_log::RowChange;
    use change_log::entry::Op;

    use super::*;

    const RULES: &str = r#"
        [rules.orders]
        table = "public.orders"
        [rules.orders.publication]
        channel = "orders:#{user_id}"
        data = ["id"]

        [rules.products]
        table = "public.products"
        keys = ["product:{id}"]
        redelete = "2s"
        patterns = ["search:*"]
        publish = "after-sweep"
        [rules.products.publication]
        channel = "products"
        data = ["id"]
    "#;

    fn row(id: i64, table: &str, columns: &[(&str, Option<&str>)]) -> Entry {
        let columns = columns.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned)));
        let data = RawValue::from_string(format!("{{\"id\":{id}}}")).expect("JSON");
        let change = RowChange {
            source: format!("public.{table}"),
            op: Op::Update,
            old: columns.clone().collect(),
            new: columns.collect(),
            changed: None,
            data: Some(data),
        };
        entry(id, Body::Row(change))
    }

    fn entry(id: i64, body: Body) -> Entry {
        let uid = Uuid::from_u128(id.unsigned_abs().into());
        Entry { id, xid: id.unsigned_abs(), uid, at: SystemTime::UNIX_EPOCH, body }
    }

    fn publish(id: i64, channel: &str) -> Entry {
        let data = RawValue::from_string("1".into()).expect("JSON");
        entry(id, Body::Publish { channel: channel.into(), data, conflation_key: None })
    }

    fn channels(publications: &[Planned]) -> Vec<(u128, &str, bool)> {
        publications
            .iter()
            .map(|p| (p.publication.id.as_u128(), p.publication.channel.as_str(), p.after_sweep))
            .collect()
    }

    #[test]
    fn keys_and_patterns_are_named_once_and_publications_stay_in_order() {
        let rules = Rules::parse(RULES).expect("rules");
        let entries = [
            publish(1, "products"),
            row(2, "products", &[("id", Some("7"))]),
            row(3, "products", &[("id", Some("7"))]),
            row(4, "orders", &[("user_id", Some("42"))]),
            publish(5, "products"),
            entry(6, Body::Invalidate { key: "product:7".into() }),
        ];
        let plan = plan(&entries, &rules);
        assert_eq!(plan.keys, ["product:7"]);
        assert_eq!(plan.redelete, [(Duration::from_secs(2), "product:7".to_owned())]);
        assert_eq!(plan.patterns, ["search:*"]);
        let (now, waits) = (false, true);
        assert_eq!(
            channels(&plan.publications),
            [
                (1, "products", now),
                (2, "products", waits),
                (3, "products", waits),
                (4, "orders:#42", now),
                (5, "products", now)
            ]
        );
    }

    #[test]
    fn of_too_many_rows_the_keys_go_by_pattern_and_no_publication_is_made() {
        let rules = Rules::parse(RULES).expect("rules");
        let plan = plan(&[entry(1, Body::Many { source: "public.products".into(), op: Op::Update })], &rules);
        assert_eq!(plan.patterns, ["product:*", "search:*"]);
        assert!(plan.keys.is_empty() && plan.publications.is_empty());
        assert_eq!(plan.poison.iter().map(|p| p.reason).collect::<Vec<_>>(), ["too_many_rows"]);
    }

    #[test]
    fn what_cannot_take_effect_stops_nothing_else() {
        let rules = Rules::parse(RULES).expect("rules");
        let entries = [
            row(1, "orders", &[("user_id", None)]),
            row(2, "orders", &[("user_id", Some("4,2"))]),
            publish(3, "orders:#4,2"),
            publish(4, "orders:#42"),
        ];
        let plan = plan(&entries, &rules);
        assert_eq!(channels(&plan.publications), [(4, "orders:#42", false)]);
        assert_eq!(
            plan.poison.iter().map(|p| (p.entry, p.reason)).collect::<Vec<_>>(),
            [(1, "null_owner"), (2, "channel_value"), (3, "channel"),]
        );
    }
}
