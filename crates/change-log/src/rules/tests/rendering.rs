//! Rows and what they cause.

use std::time::Duration;

use serde_json::value::RawValue;
use uuid::Uuid;

use crate::entry::{Columns, Op, RowChange};
use crate::rules::{Effects, Fault, FaultReason, Part, Rules};

const UID: Uuid = Uuid::from_u128(7);

fn rules(text: &str) -> Rules {
    Rules::parse(text).expect("rules")
}

fn columns(pairs: &[(&str, Option<&str>)]) -> Columns {
    pairs.iter().map(|(name, value)| ((*name).to_owned(), value.map(str::to_owned))).collect()
}

fn change(op: Op, old: Columns, new: Columns, data: &str) -> RowChange {
    let data = Some(RawValue::from_string(data.to_owned()).expect("json"));
    RowChange { source: "public.t".to_owned(), op, old, new, changed: None, data }
}

/// An update of one text column from one value to another.
fn update(column: &str, old: Option<&str>, new: Option<&str>) -> RowChange {
    change(Op::Update, columns(&[(column, old)]), columns(&[(column, new)]), "{}")
}

/// The channel, or the fault, of a publication to `channel` whose column `v` has this value.
fn addressed(channel: &str, value: Option<&str>) -> Result<String, Fault> {
    let rules = rules(&format!(
        "[rules.r]\ntable = \"public.t\"\n[rules.r.publication]\nchannel = \"{channel}\"\ndata = [\"v\"]"
    ));
    let insert = change(Op::Insert, Columns::new(), columns(&[("v", value)]), r#"{"v":1}"#);
    let Effects { mut publications, mut faults, .. } = rules.effects(UID, &insert);
    assert_eq!(publications.len() + faults.len(), 1, "either published or at fault");
    faults.pop().map_or_else(|| Ok(publications.remove(0).channel), Err)
}

#[test]
fn keys_come_from_old_and_new_values_once() {
    let rules = rules(
        "[rules.a]\ntable = \"public.t\"\nkeys = [\"p:{id}\", \"p:slug:{slug}\", \"all\"]\n\
         [rules.b]\ntable = \"public.t\"\nkeys = [\"p:{id}\"]",
    );
    let old = columns(&[("id", Some("9007199254740993")), ("slug", Some("old"))]);
    let new = columns(&[("id", Some("9007199254740993")), ("slug", None)]);
    let effects = rules.effects(UID, &change(Op::Update, old, new, "{}"));
    assert_eq!(effects.keys, ["p:9007199254740993", "p:slug:old", "all"]);
    assert!(effects.faults.is_empty(), "a NULL gives no key and is no fault: {:?}", effects.faults);
}

#[test]
fn values_are_literal_in_patterns() {
    let rules = rules("[rules.r]\ntable = \"public.t\"\npatterns = [\"s:{v}:*\"]");
    let effects = rules.effects(UID, &update("v", Some(r"*?[a]\"), Some("plain")));
    assert_eq!(effects.patterns, [r"s:\*\?\[a\]\\:*", "s:plain:*"]);
}

#[test]
fn braces_are_written_twice_and_a_tag_cannot_be_left() {
    let rules = rules("[rules.r]\ntable = \"public.t\"\nkeys = [\"p:{{{v}}}:x\", \"q:{v}\"]");
    assert_eq!(rules.effects(UID, &update("v", Some("1"), None)).keys, ["p:{1}:x", "q:1"]);
    let effects = rules.effects(UID, &update("v", Some("}{"), None));
    assert_eq!(effects.keys, ["q:}{"], "braces are harmless outside a tag");
    assert_eq!(effects.faults[0].reason, FaultReason::BraceInTag);
}

#[test]
fn names_of_griots_own_and_long_ones_are_faults() {
    let rules = rules("[rules.r]\ntable = \"public.t\"\nkeys = [\"g{v}\"]");
    let effects = rules.effects(UID, &update("v", Some("riot:{a.0}:x"), Some(&"x".repeat(512))));
    assert!(effects.keys.is_empty());
    let reasons: Vec<_> = effects.faults.iter().map(|fault| fault.reason.metric_label()).collect();
    assert_eq!(reasons, ["own_name", "too_long"]);
}

#[test]
fn an_owner_is_whoever_the_value_spells_and_nobody_else() {
    for user in ["4", "2", "42", "1e2", "9007199254740993", "a:b", &"x".repeat(128)] {
        assert_eq!(addressed("orders:#{v}", Some(user)).expect(user), format!("orders:#{user}"));
    }
    for user in ["", "a#42", "4,2", "#42", "4 2", "4\n", "\u{e9}", "\u{ff14}", &"x".repeat(129)] {
        let fault = addressed("orders:#{v}", Some(user)).expect_err(user);
        assert_eq!((fault.part, fault.reason.metric_label()), (Part::Channel, "channel_value"), "{user:?}");
    }
    assert_eq!(addressed("orders:#{v}", None).expect_err("null").reason, FaultReason::NullOwner);
}

#[test]
fn a_name_never_becomes_an_owner() {
    assert_eq!(addressed("orders:{v}", Some("room")).expect("name"), "orders:room");
    for value in ["#42", "a:#42", ":#42", "a:b", "4,2", "", " "] {
        assert_eq!(addressed("orders:{v}", Some(value)).expect_err(value).reason.metric_label(), "channel_value");
    }
    assert_eq!(addressed("orders:{v}", None).expect_err("null").reason, FaultReason::NullChannel);
    let topic = "t".repeat(64);
    let long = addressed(&format!("{topic}:{{v}}-{{v}}"), Some(&"x".repeat(128))).expect_err("long");
    assert_eq!(long.reason, FaultReason::TooLong { bytes: 64 + 1 + 128 + 1 + 128, limit: 255 });
}

#[test]
fn data_is_picked_in_the_rules_order_and_numbers_stay_exact() {
    let rules = rules(
        "[rules.r]\ntable = \"public.t\"\n[rules.r.publication]\nchannel = \"orders:#{u}\"\n\
         data = [\"total\", \"id\"]\nconflation_key = \"{id}\"",
    );
    let new = columns(&[("u", Some("42")), ("id", Some("7"))]);
    let data = r#"{"id":9007199254740993,"secret":"x","total":12345678901234567890.10}"#;
    let effects = rules.effects(UID, &change(Op::Insert, Columns::new(), new, data));
    let publication = &effects.publications[0];
    assert_eq!(publication.data.get(), r#"{"total":12345678901234567890.10,"id":9007199254740993}"#);
    assert_eq!((publication.id, publication.conflation_key.as_deref()), (UID, Some("7")));
}

#[test]
fn a_delete_speaks_of_the_row_that_was() {
    let rules =
        rules("[rules.r]\ntable = \"public.t\"\n[rules.r.publication]\nchannel = \"orders:#{u}\"\ndata = [\"id\"]");
    let gone = change(Op::Delete, columns(&[("u", Some("42"))]), Columns::new(), r#"{"id":1}"#);
    assert_eq!(rules.effects(UID, &gone).publications[0].channel, "orders:#42");
}

#[test]
fn several_publications_of_one_entry_have_ids_that_differ_and_stay() {
    let text = "[rules.a]\ntable = \"public.t\"\n[rules.a.publication]\nchannel = \"x\"\ndata = [\"id\"]\n\
                [rules.b]\ntable = \"public.t\"\n[rules.b.publication]\nchannel = \"y\"\ndata = [\"id\"]\n";
    let insert = change(Op::Insert, Columns::new(), Columns::new(), r#"{"id":1}"#);
    let ids = || rules(text).effects(UID, &insert).publications.iter().map(|p| p.id).collect::<Vec<_>>();
    assert_eq!(ids()[0], UID, "the first is the entry's own");
    assert_ne!(ids()[1], UID);
    assert_eq!(ids(), ids());
}

#[test]
fn only_the_columns_that_count_make_an_update() {
    let rules = rules(
        "[rules.price]\ntable = \"public.t\"\nkeys = [\"price:{id}\"]\ncolumns = [\"price\"]\n\
         [rules.any]\ntable = \"public.t\"\nkeys = [\"any:{id}\"]\n\
         [rules.born]\ntable = \"public.t\"\nkeys = [\"born:{id}\"]\non = [\"insert\"]",
    );
    let row = || columns(&[("id", Some("1"))]);
    let mut update = change(Op::Update, row(), row(), "{}");
    let mut keys = |changed: &[&str]| {
        update.changed = Some(changed.iter().map(|c| (*c).to_owned()).collect());
        rules.effects(UID, &update).keys
    };
    assert_eq!(keys(&[]), ["any:1"]);
    assert_eq!(keys(&["price"]), ["any:1", "price:1"]);
    assert_eq!(keys(&["id"]), ["any:1", "price:1"], "a key that moves always counts");
    assert_eq!(rules.effects(UID, &change(Op::Insert, Columns::new(), row(), "{}")).keys.len(), 3);
}

#[test]
fn a_truncate_sweeps_every_key_that_a_rule_could_have_made() {
    let rules = rules(
        "[rules.r]\ntable = \"public.t\"\nkeys = [\"p:{{{id}}}:[x]\", \"p:{a}{b}\", \"fixed\"]\n\
         patterns = [\"s:{id}:*\"]\n\
         [rules.born]\ntable = \"public.t\"\non = [\"insert\"]\nkeys = [\"born:{id}\"]",
    );
    let effects = rules.truncate_effects("public.t");
    assert_eq!(effects.keys, ["fixed"]);
    assert_eq!(effects.patterns, [r"p:{*}:\[x\]", "p:*", "s:*:*"]);
    assert!(effects.publications.is_empty());
}

#[test]
fn an_entry_from_other_rules_is_a_fault_of_its_part_only() {
    let rules = rules(
        "[rules.r]\ntable = \"public.t\"\nkeys = [\"a:{v}\", \"a:{other}\"]\n\
         [rules.r.publication]\nchannel = \"orders\"\ndata = [\"other\"]",
    );
    let effects = rules.effects(UID, &update("v", Some("1"), Some("1")));
    assert_eq!(effects.keys, ["a:1"]);
    let parts: Vec<_> = effects.faults.iter().map(|f| (f.part, f.reason.metric_label())).collect();
    assert_eq!(parts, [(Part::Key, "missing_column"), (Part::Data, "missing_column")]);
    assert!(effects.faults[0].to_string().contains("rules apply"), "{}", effects.faults[0]);
}

#[test]
fn a_table_without_rules_has_no_effects() {
    let mut update = update("v", None, None);
    update.source = "no_such_form".to_owned();
    let effects = rules("").effects(UID, &update);
    assert!(effects.keys.is_empty() && effects.faults.is_empty());
}

#[test]
fn a_condition_asks_the_values_before_and_after() {
    let rules = rules(
        "[rules.r]\ntable = \"public.t\"\nkeys = [\"paid\"]\n\
         when.new.v = \"paid\"\nwhen.old.v = { not = [\"paid\", \"sent\"] }",
    );
    let applies = |old, new| !rules.effects(UID, &update("v", old, new)).keys.is_empty();
    assert!(applies(Some("open"), Some("paid")));
    assert!(applies(None, Some("paid")), "NULL is not paid");
    assert!(!applies(Some("sent"), Some("paid")));
    assert!(!applies(Some("paid"), Some("paid")));
    assert!(!applies(Some("open"), Some("sent")));
    assert!(!applies(Some("open"), None));
    let v = |value| columns(&[("v", Some(value))]);
    let inserted = change(Op::Insert, Columns::new(), v("paid"), "{}");
    assert_eq!(rules.effects(UID, &inserted).keys, ["paid"], "an insert's old values are NULL");
    let deleted = change(Op::Delete, v("open"), Columns::new(), "{}");
    assert!(rules.effects(UID, &deleted).keys.is_empty(), "a delete's new values are NULL");
}

#[test]
fn a_condition_knows_numbers_booleans_and_null() {
    let holds = |test: &str, value| {
        let rules = rules(&format!("[rules.r]\ntable = \"public.t\"\nkeys = [\"k\"]\nwhen.new.v = {test}"));
        !rules.effects(UID, &update("v", None, value)).keys.is_empty()
    };
    assert!(holds("7", Some("7")) && !holds("7", Some("7.0")));
    assert!(holds("[true, 7]", Some("true")) && !holds("true", Some("false")));
    assert!(holds("{ null = true }", None) && !holds("{ null = true }", Some("")));
    assert!(holds("{ null = false }", Some("")) && !holds("{ null = false }", None));
}

#[test]
fn without_the_condition_s_column_a_rule_invalidates_and_publishes_nothing() {
    let rules = rules(
        "[rules.r]\ntable = \"public.t\"\nkeys = [\"a:{v}\"]\nwhen.new.other = \"x\"\n\
         [rules.r.publication]\nchannel = \"orders\"\ndata = [\"v\"]",
    );
    let effects = rules.effects(UID, &update("v", Some("1"), Some("2")));
    assert_eq!(effects.keys, ["a:1", "a:2"]);
    assert!(effects.publications.is_empty());
    assert_eq!((effects.faults[0].part, effects.faults[0].reason.metric_label()), (Part::Condition, "missing_column"));
}

#[test]
fn a_template_may_name_the_old_or_the_new_value() {
    let rules = rules(
        "[rules.r]\ntable = \"public.t\"\non = [\"update\", \"delete\"]\n\
         keys = [\"was:{old.v}\", \"is:{new.v}\", \"{{{old.v}}}>{new.v}\"]\npatterns = [\"s:{old.v}:*\"]\n\
         [rules.r.publication]\nchannel = \"moved:{old.v}\"\ndata = [\"v\"]",
    );
    let old = || columns(&[("v", Some("a"))]);
    let effects = rules.effects(UID, &change(Op::Update, old(), columns(&[("v", Some("b"))]), r#"{"v":"b"}"#));
    assert_eq!((effects.keys, effects.patterns), (to_vec(["was:a", "is:b", "{a}>b"]), to_vec(["s:a:*"])));
    assert_eq!(effects.publications[0].channel, "moved:a");
    let effects = rules.effects(UID, &change(Op::Delete, old(), Columns::new(), r#"{"v":"a"}"#));
    assert_eq!(effects.keys, ["was:a"], "what has no new value names none");
    assert_eq!(effects.publications[0].channel, "moved:a");
    assert!(effects.faults.is_empty(), "{:?}", effects.faults);
}

#[test]
fn keys_are_deleted_once_more_where_a_rule_asks() {
    let rules = rules(
        "[rules.a]\ntable = \"public.t\"\nkeys = [\"a:{v}\", \"all\"]\nredelete = \"500ms\"\n\
         [rules.b]\ntable = \"public.t\"\nkeys = [\"b:{v}\"]",
    );
    let effects = rules.effects(UID, &update("v", Some("1"), Some("1")));
    assert_eq!(effects.keys, ["a:1", "all", "b:1"]);
    let after = Duration::from_millis(500);
    assert_eq!(effects.redelete, [(after, "a:1".to_owned()), (after, "all".to_owned())]);
    assert_eq!(rules.truncate_effects("public.t").redelete, [(after, "all".to_owned())]);
}

#[test]
fn too_many_rows_sweep_what_they_could_have_named_and_admit_what_was_not_published() {
    let rules = rules(
        "[rules.a]\ntable = \"public.t\"\nkeys = [\"a:{v}\"]\nwhen.new.v = \"1\"\n\
         [rules.a.publication]\nchannel = \"orders\"\ndata = [\"v\"]\n\
         [rules.b]\ntable = \"public.t\"\non = [\"insert\"]\nkeys = [\"b:{v}\"]",
    );
    let effects = rules.many_effects("public.t", Op::Update);
    assert_eq!(effects.patterns, ["a:*"]);
    let faults: Vec<_> = effects.faults.iter().map(|f| (f.rule.as_str(), f.part, f.reason.metric_label())).collect();
    assert_eq!(faults, [("a", Part::Publication, "too_many_rows")]);
}

fn to_vec<const N: usize>(items: [&str; N]) -> Vec<String> {
    items.map(str::to_owned).to_vec()
}
