//! Files of rules that are refused, each with the place and the sentence.

use crate::error::Error;
use crate::rules::Rules;

/// The problems of a file, as lines of text.
fn refused(text: &str) -> String {
    match Rules::parse(text) {
        Err(error @ Error::Rules(_)) => {
            assert!(!error.is_transient(), "waiting does not mend a file");
            error.to_string()
        }
        other => panic!("not refused: {other:?}"),
    }
}

/// A rule on `public.t` with these further lines.
fn rule(lines: &str) -> String {
    format!("[rules.r]\ntable = \"public.t\"\n{lines}\n")
}

#[test]
fn the_example_of_the_design_is_accepted() {
    let rules = Rules::parse(
        r##"
        [limits]
        rows_per_statement = 500

        [rules.products]
        table = "public.products"
        on = ["insert", "update", "delete"]
        keys = ["product:{id}", "product:slug:{slug}"]
        patterns = ["search:*"]
        columns = ["name", "price"]
        publish = "after-sweep"
        redelete = "2s"
        when.new.status = ["live", "sold out"]
        when.old.removed_at = { null = true }

        [rules.orders]
        table = "public.orders"
        [rules.orders.publication]
        channel = "orders:#{user_id}"
        data = ["id", "status", "total_cents"]
        conflation_key = "{id}"
        "##,
    )
    .expect("rules");
    assert_eq!(rules.len(), 2);
    assert_eq!(
        rules.tables().map(|(table, _)| table.to_string()).collect::<Vec<_>>(),
        ["public.orders", "public.products"]
    );
}

#[test]
fn an_empty_file_has_no_rules() {
    assert!(Rules::parse("# none yet\n").expect("rules").is_empty());
}

#[test]
fn what_is_listened_to_has_rules_and_is_not_captured() {
    let heard = "[listen.t_changed]\ntables = [\"public.t\"]\n";
    let rules = Rules::parse(&format!("{}{heard}", rule("keys = [\"t:{id}\"]"))).expect("rules");
    assert_eq!(rules.channels().collect::<Vec<_>>(), ["t_changed"]);
    assert_eq!(rules.channels_of("public.t").collect::<Vec<_>>(), ["t_changed"]);
    assert_eq!((rules.captured().count(), rules.tables().count()), (0, 1));
    assert_eq!(rules.namespaces().patterns, ["t:*"], "it is flushed with the others");

    let refused = |listen: &str| refused(&format!("{}{listen}", rule("keys = [\"t:{id}\"]")));
    let place = "line 5, column 11: channel \"c\" of [listen]:";
    let text = refused("[listen.c]\ntables = [\"public.tt\"]\n");
    assert_eq!(text, format!("{place} no rule is for table \"public.tt\"; is it \"public.t\"?"));
    assert!(refused("[listen.c]\ntables = []\n").contains("tables names none"));
    let long = format!("[listen.{}]\ntables = [\"public.t\"]\n", "c".repeat(64));
    assert!(refused(&long).contains("1 to 63 bytes"));
}

#[test]
fn an_unknown_key_is_told_with_its_line_and_the_valid_ones() {
    let text = refused(&rule("keyz = [\"a:{id}\"]"));
    assert!(text.starts_with("line 3, column 1: unknown field `keyz` (is it `keys`?), expected one of"), "{text}");
    assert!(text.contains("`keys`") && text.contains("`publication`"), "{text}");

    let text = refused(&rule("keys = [\"a\"]\non = [\"upsert\"]"));
    assert!(text.starts_with("line 4, column 7: ") && text.contains("`insert`"), "{text}");

    let text = refused(&rule("keys = [\"a\"]\non = [\"updated\"]"));
    assert!(text.contains("`updated` (is it `update`?)"), "{text}");

    let text = refused(&rule("keys = [\"a\"]\nwhen.nw.status = \"paid\""));
    assert!(text.starts_with("line 4, column 6: unknown field `nw` (is it `new`?)"), "{text}");

    let text = refused(&rule("keys = [\"a\"]\npublish = \"later\""));
    assert!(text.contains("`after-keys`") && text.contains("`after-sweep`"), "{text}");
}

#[test]
fn every_problem_of_a_file_is_told_at_once() {
    let text = refused("[rules.one]\ntable = \"products\"\nkeys = [\"{id}\"]\n\n[rules.two]\ntable = \"public.t\"\n");
    assert_eq!(
        text,
        "line 2, column 9: rule \"one\": table \"products\" lacks its schema; is it \"public.products\"?\n\
         line 3, column 9: rule \"one\": a key must begin with something before its first placeholder\n\
         line 5, column 1: rule \"two\": it does nothing; give keys, patterns or a [publication]"
    );
}

#[test]
fn templates_are_checked() {
    for (lines, sentence) in [
        (r#"keys = ["a:{id"]"#, "a { is not closed"),
        (r#"keys = ["a:id}"]"#, "a } stands alone"),
        (r#"keys = ["a:{}"]"#, "names no column"),
        (r#"keys = [""]"#, "it is empty"),
        (r#"keys = ["{id}:a"]"#, "before its first placeholder"),
        (r#"keys = ["griot:{id}"]"#, "Griot's own"),
        (r#"patterns = ["*"]"#, "literal character"),
        (r#"patterns = ["**"]"#, "literal character"),
        (r#"patterns = ["?*"]"#, "literal character"),
        (r#"patterns = ["[a-z]*"]"#, "literal character"),
        (r#"patterns = ["{id}:*"]"#, "literal character"),
        (r#"patterns = ["griot:*"]"#, "Griot's own"),
        (r#"patterns = ["a:[{id}]"]"#, "between [ and ]"),
        (
            r#"keys = ["a"]
on = []"#,
            "on is empty",
        ),
        (
            r#"keys = ["a"]
columns = []"#,
            "columns is empty",
        ),
    ] {
        let text = refused(&rule(lines));
        assert!(text.contains(sentence), "{lines}: {text}");
    }
    Rules::parse(&rule(r#"patterns = ['\*literal:*', 'a:\[{id}:*']"#)).expect("escaped wildcards are literal");
}

#[test]
fn a_channel_has_a_fixed_topic_and_exactly_one_owner() {
    let channel = |channel: &str| rule(&format!("[rules.r.publication]\nchannel = \"{channel}\"\ndata = [\"id\"]"));
    for (name, sentence) in [
        ("", "it is empty"),
        ("{topic}:x", "begin with a topic"),
        ("orders{id}", "topic is fixed"),
        ("or ders", "begin with a topic"),
        (":x", "begin with a topic"),
        ("orders:", "nothing follows"),
        ("orders:#", "exactly one placeholder"),
        ("orders:#{a}{b}", "exactly one placeholder"),
        ("orders:#{a},{b}", "exactly one placeholder"),
        ("orders:#a{b}", "exactly one placeholder"),
        ("orders:#4,2", "exactly one placeholder"),
        ("orders:#a#42", "exactly one placeholder"),
        ("orders:{a}#{b}", "printable ASCII"),
        ("orders:{a},{b}", "printable ASCII"),
        ("orders:a b", "printable ASCII"),
        ("orders:\u{e9}", "printable ASCII"),
    ] {
        let text = refused(&channel(name));
        assert!(text.contains(sentence), "{name}: {text}");
    }
    for name in ["orders", "orders:#{user_id}", "orders:#42", "orders:{room}", "orders:a:{b}:{c}", "orders:room"] {
        Rules::parse(&channel(name)).expect(name);
    }
}

#[test]
fn a_publication_names_its_data() {
    let text = refused(&rule("[rules.r.publication]\nchannel = \"orders\"\ndata = []"));
    assert!(text.contains("line 5, column 8") && text.contains("names no column"), "{text}");
    let text = refused(&rule("[rules.r.publication]\nchannel = \"orders\""));
    assert!(text.contains("missing field `data`"), "{text}");
}

#[test]
fn conditions_redelete_and_limits_are_checked() {
    for (lines, sentence) in [
        ("keys = ['a']\nwhen.new.status = []", "line 4, column 19: rule \"r\": an empty list"),
        ("keys = ['a']\nwhen.new.price = 1.5", "line 4, column 18: a column is compared with a text"),
        ("keys = ['a']\nwhen.new.price = { above = 1 }", "line 4, column 18: a column is compared with a text"),
        ("keys = ['a']\n[rules.r.when]", "compares no column"),
        ("keys = ['a']\nredelete = '2 s'", "line 4, column 12: rule \"r\": redelete \"2 s\" is not 100ms to 60s"),
        ("keys = ['a']\nredelete = '99ms'", "is not 100ms to 60s"),
        ("keys = ['a']\nredelete = '61s'", "is not 100ms to 60s"),
        ("patterns = ['a*']\nredelete = '2s'", "give keys"),
        ("keys = ['a:{old.}']", "names no column"),
        ("[limits]\nrows_per_statement = 0\n[rules.s]\ntable = 'public.t'\nkeys = ['a']", "must be at least 1"),
    ] {
        let text = refused(&rule(lines));
        assert!(text.contains(sentence), "{lines}: {text}");
    }
}

#[test]
fn a_channel_names_no_version_that_the_change_does_not_have() {
    let channel = |on: &str, channel: &str| {
        rule(&format!("on = [{on}]\n[rules.r.publication]\nchannel = \"{channel}\"\ndata = [\"id\"]"))
    };
    let text = refused(&channel("'insert', 'update'", "orders:#{old.user_id}"));
    assert!(text.contains("line 5, column 11") && text.contains("an insert has no old row"), "{text}");
    let text = refused(&channel("'delete'", "orders:{new.room}"));
    assert!(text.contains("a delete has no new row"), "{text}");
    Rules::parse(&channel("'update', 'delete'", "orders:#{old.user_id}")).expect("both have an old row");
}

#[test]
fn a_channel_of_an_unknown_topic_is_told_with_the_nearest_one() {
    let text = rule("[rules.r.publication]\nchannel = \"ordrs:#{user_id}\"\ndata = [\"id\"]");
    let rules = Rules::parse(&text).expect("rules");
    rules.check_topics(&["ordrs"], false).expect("known");
    let error = rules.check_topics(&["orders", "wallet-updates"], true).expect_err("unknown");
    let expected = "line 4, column 11: rule \"r\": no topic \"ordrs\" is configured; is it \"orders\"?";
    assert_eq!(error.to_string(), expected);

    let bare = rule("[rules.r.publication]\nchannel = \"news\"\ndata = [\"id\"]");
    let bare = Rules::parse(&bare).expect("rules");
    bare.check_topics(&["orders"], true).expect("bare names belong to the default topic");
    bare.check_topics(&["orders"], false).expect_err("which there is not");
}

#[test]
fn rules_can_be_said_in_sentences() {
    let text = r##"
        [rules.paid]
        table = "public.orders"
        on = ["insert", "update"]
        keys = ["order:{id}"]
        patterns = ["orders:{old.user_id}:*"]
        redelete = "2s"
        publish = "after-sweep"
        when.new.status = "paid"
        when.old.status = { not = ["paid", "sent"] }
        [rules.paid.publication]
        channel = "orders:#{user_id}"
        data = ["id", "status"]
    "##;
    let rules = Rules::parse(text).expect("rules");
    let (table, sentences) = rules.sentences().next().expect("a table");
    assert_eq!(table, "public.orders");
    assert_eq!(
        sentences,
        ["paid: on insert or update, if old.status is not \"paid\" or \"sent\" and new.status is \"paid\": \
          deletes order:{id}, and again after 2s; sweeps orders:{old.user_id}:*; \
          publishes id, status to orders:#{user_id} after the sweep"]
    );
}
