//! What notifications of the usual shapes tell, and which tell nothing.

use uuid::Uuid;

use crate::entry::{Columns, Op};
use crate::rules::{Rules, Unheard};

const RULES: &str = r#"
    [rules.products]
    table = "public.products"
    keys = ["product:{id}", "product:slug:{slug}"]
    columns = ["price"]
    [rules.products.publication]
    channel = "products"
    data = ["id", "price"]

    [rules.stock]
    table = "store.stock"
    keys = ["stock:{id}"]

    [listen.product_changed]
    tables = ["public.products"]

    [listen.changes]
    tables = ["public.products", "store.stock"]
"#;

fn rules() -> Rules {
    Rules::parse(RULES).expect("rules")
}

/// What is heard on `product_changed`: the kind, and the keys that go.
fn keys(text: &str) -> (Op, Vec<String>) {
    let change = rules().heard("product_changed", text).expect(text);
    (change.op, rules().effects(Uuid::nil(), &change).keys)
}

fn refused(channel: &str, text: &str) -> Unheard {
    rules().heard(channel, text).map(|change| change.source).expect_err(text)
}

#[test]
fn a_row_is_an_update_unless_it_says_otherwise() {
    let (id, slug) = ("product:1".to_owned(), "product:slug:x".to_owned());
    assert_eq!(keys(r#"{"id":1,"slug":"x"}"#), (Op::Update, vec![id.clone(), slug.clone()]));
    for field in ["op", "operation", "action", "type", "TG_OP"] {
        for (word, op) in [("INSERT", Op::Insert), ("Update", Op::Update), ("delete", Op::Delete)] {
            let text = format!(r#"{{"{field}":"{word}","id":1,"slug":"x"}}"#);
            assert_eq!(keys(&text), (op, vec![id.clone(), slug.clone()]), "{text}");
        }
    }
    assert_eq!(keys(r#"{"id":1,"slug":"x","type":"book"}"#).0, Op::Update, "a column of its own");
}

#[test]
fn a_wrapper_tells_the_values_before_too() {
    let both = ["product:1", "product:slug:old", "product:slug:new"];
    for text in [
        r#"{"op":"UPDATE","table":"products","old":{"id":1,"slug":"old"},"new":{"id":1,"slug":"new","price":2}}"#,
        r#"{"type":"UPDATE","table":"products","record":{"id":1,"slug":"new","price":2},"old_record":{"slug":"old"}}"#,
        r#"{"table":"public.products","data":{"id":1,"slug":"new","price":2},"before":{"slug":"old"}}"#,
    ] {
        let (op, mut keys) = keys(text);
        keys.sort_by_key(|key| both.iter().position(|wanted| wanted == key));
        assert_eq!((op, keys), (Op::Update, both.map(str::to_owned).to_vec()), "{text}");
    }
    let deleted = (Op::Delete, vec!["product:1".to_owned(), "product:slug:x".to_owned()]);
    for name in ["old", "data", "row", "record"] {
        let text = format!(r#"{{"action":"DELETE","table":"products","{name}":{{"id":1,"slug":"x"}},"new":null}}"#);
        assert_eq!(keys(&text), deleted, "{text}");
    }
}

#[test]
fn a_column_that_is_named_like_a_part_of_a_wrapper_stays_a_column() {
    let change = rules().heard("product_changed", r#"{"id":1,"slug":"x","data":{"id":2}}"#).expect("a row");
    assert_eq!(change.new.get("id"), Some(&Some("1".to_owned())));
    assert_eq!(change.new.get("data"), Some(&Some(r#"{"id":2}"#.to_owned())));
}

#[test]
fn only_changes_of_the_rules_columns_count_where_both_versions_are_told() {
    let text = |old: u8| {
        let row = |price| format!(r#"{{"id":1,"slug":"x","price":{price}}}"#);
        format!(r#"{{"op":"update","old":{},"new":{}}}"#, row(old), row(2))
    };
    assert_eq!(keys(&text(1)).1.len(), 2);
    assert!(keys(&text(2)).1.is_empty());
}

#[test]
fn values_are_the_text_that_postgresql_writes() {
    let text = r#"{"a":1.50,"b":true,"c":null,"d":"q\"\u00e9","e":12345678901234567890,"f":[1, 2]}"#;
    let change = rules().heard("product_changed", text).expect("a row");
    let columns = [("a", "1.50"), ("b", "true"), ("d", "q\"é"), ("e", "12345678901234567890"), ("f", "[1, 2]")];
    let mut wanted: Columns = columns.map(|(name, value)| (name.to_owned(), Some(value.to_owned()))).into();
    wanted.insert("c".to_owned(), None);
    assert_eq!((&change.old, &change.new), (&wanted, &wanted));
    assert_eq!(change.data.expect("data").get(), text);
}

#[test]
fn the_publication_carries_the_row_after_the_change() {
    let text = r#"{"op":"update","old":{"id":1,"slug":"x","price":1.0},"new":{"id":1,"slug":"x","price":2.50}}"#;
    let change = rules().heard("product_changed", text).expect("a row");
    let effects = rules().effects(Uuid::nil(), &change);
    let data: Vec<&str> = effects.publications.iter().map(|publication| publication.data.get()).collect();
    assert_eq!(data, [r#"{"id":1,"price":2.50}"#]);
}

#[test]
fn a_channel_of_several_tables_is_told_which() {
    let source = |text| rules().heard("changes", text).map(|change| change.source);
    assert_eq!(source(r#"{"table":"stock","id":1}"#), Ok("store.stock".to_owned()));
    assert_eq!(
        source(r#"{"TG_TABLE_NAME":"products","TG_TABLE_SCHEMA":"public","id":1}"#),
        Ok("public.products".into())
    );
    assert_eq!(refused("changes", r#"{"id":1}"#), Unheard::NoTable);
    assert_eq!(refused("changes", r#"{"table":"stock","schema":"public","id":1}"#), Unheard::OtherTable);
}

#[test]
fn what_tells_of_no_row_of_ours_is_refused() {
    for text in
        ["", "1", "null", "[{\"id\":1}]", "{\"id\":1", "{\"id\":1} 2", "product 1 changed", r#"{"id":"\ud800"}"#]
    {
        assert_eq!(refused("product_changed", text), Unheard::NotAnObject, "{text}");
    }
    assert_eq!(refused("product_changed", r#"{"table":"users","id":1}"#), Unheard::OtherTable);
}
