//! What triggers write for every way to change a table.

use std::time::Duration;

use change_log::{Body, entry::Op};
use change_log::{Effects, Entry, PgPool, Reader, Rules, install};
use griot_tests::servers::Database;
use sqlx::postgres::PgPoolCopyExt;

use super::{database, execute, take};

const RULES: &str = r##"
[rules.products]
table = "public.products"
keys = ["product:{id}", "product:slug:{slug}"]
patterns = ["search:*"]
[rules.products.publication]
channel = "products:{id}"
data = ["id", "price", "meta"]
"##;

struct Shop {
    database: Database,
    rules: Rules,
    reader: Reader,
}

impl Shop {
    async fn open(tables: &str, rules: &str) -> Self {
        let database = database().await;
        execute(database.pool(), tables).await;
        let rules = Rules::parse(rules).expect("rules");
        install::apply(database.pool(), &rules, Duration::from_secs(2)).await.expect("apply");
        let reader = super::reader(database.pool()).await;
        Self { database, rules, reader }
    }

    async fn products() -> Self {
        let table = "create table public.products (id bigint primary key, slug text, price numeric, meta json)";
        Self::open(table, RULES).await
    }

    fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    /// Runs SQL and returns the entries that it caused.
    async fn run(&mut self, sql: &str) -> Vec<Entry> {
        execute(self.database.pool(), sql).await;
        take(&mut self.reader).await
    }

    /// Runs SQL and returns the effects of its row entries, which must have no fault.
    async fn effects(&mut self, sql: &str) -> Vec<(Op, Effects)> {
        let entries = self.run(sql).await;
        entries
            .iter()
            .map(|entry| {
                let Body::Row(change) = &entry.body else { panic!("{entry:?}") };
                let effects = self.rules.effects(entry.uid, change);
                assert!(effects.faults.is_empty(), "{:?}", effects.faults);
                (change.op, effects)
            })
            .collect()
    }
}

fn op_keys(effects: &[(Op, Effects)]) -> Vec<(Op, Vec<&str>)> {
    effects.iter().map(|(op, effects)| (*op, effects.keys.iter().map(String::as_str).collect())).collect()
}

#[tokio::test]
async fn insert_update_delete() {
    let mut shop = Shop::products().await;
    let inserted = shop
        .effects("insert into products values (9007199254740993, 'a', 1.10, '{\"x\":  1}'), (2, null, null, null)")
        .await;
    assert_eq!(
        op_keys(&inserted),
        [(Op::Insert, vec!["product:9007199254740993", "product:slug:a"]), (Op::Insert, vec!["product:2"])]
    );
    let publication = &inserted[0].1.publications[0];
    assert_eq!(publication.channel, "products:9007199254740993");
    assert_eq!(publication.data.get(), r#"{"id":9007199254740993,"price":1.10,"meta":{"x":  1}}"#);

    let updated = shop.effects("update products set price = 2 where id = 2").await;
    assert_eq!(op_keys(&updated), [(Op::Update, vec!["product:2"])]);
    let deleted = shop.effects("delete from products where id > 2").await;
    assert_eq!(op_keys(&deleted), [(Op::Delete, vec!["product:9007199254740993", "product:slug:a"])]);
    assert_eq!(deleted[0].1.publications[0].channel, "products:9007199254740993");
}

#[tokio::test]
async fn keys_that_change_are_paired_by_row() {
    let mut shop = Shop::products().await;
    shop.run("insert into products select n, 's' || n, n from generate_series(1, 50) n").await;
    let updated = shop.effects("update products set id = id + 1000, slug = 'new' || id where id % 10 = 0").await;
    assert_eq!(updated.len(), 5);
    for (_, effects) in &updated {
        let id: i64 = effects.keys[0].strip_prefix("product:").and_then(|id| id.parse().ok()).expect("an id");
        let expected = [
            format!("product:{id}"),
            format!("product:slug:s{id}"),
            format!("product:{}", id + 1000),
            format!("product:slug:new{id}"),
        ];
        assert_eq!(effects.keys, expected);
        assert_eq!(effects.publications[0].channel, format!("products:{}", id + 1000));
    }
}

#[tokio::test]
async fn an_update_that_changes_nothing_is_not_logged_and_json_breaks_no_write() {
    let mut shop = Shop::products().await;
    // json has no equality, and its \u0000 has no place in jsonb.
    shop.run(r#"insert into products values (1, 'a', 1, '{"x":"\u0000"}')"#).await;
    assert!(shop.run("update products set price = price").await.is_empty());
    assert!(shop.run("update products set price = 7 where id = 99").await.is_empty());
    let updated = shop.effects(r#"update products set meta = '{"x": "\u0000"}'"#).await;
    assert_eq!(updated[0].1.publications[0].data.get(), r#"{"id":1,"price":1,"meta":{"x": "\u0000"}}"#);
}

#[tokio::test]
async fn upsert_copy_merge_and_truncate() {
    let mut shop = Shop::products().await;
    shop.run("insert into products values (1, 'a', 1)").await;
    let upserted = shop
        .effects("insert into products values (1, 'a', 2), (2, 'b', 2) on conflict (id) do update set price = excluded.price")
        .await;
    let mut found = op_keys(&upserted);
    found.sort();
    assert_eq!(
        found,
        [(Op::Insert, vec!["product:2", "product:slug:b"]), (Op::Update, vec!["product:1", "product:slug:a"])]
    );
    let nothing = shop.run("insert into products values (1) on conflict do nothing").await;
    assert!(nothing.is_empty());

    let mut copy = shop.pool().copy_in_raw("copy products (id, slug) from stdin").await.expect("copy");
    copy.send("3\tc\n4\td\n".as_bytes()).await.expect("rows");
    copy.finish().await.expect("finish");
    assert_eq!(take(&mut shop.reader).await.len(), 2);

    let merge = "merge into products p using (values (1), (9)) v(id) on p.id = v.id
                 when matched then delete when not matched then insert values (v.id, 'm')";
    let mut found: Vec<Op> = shop.effects(merge).await.into_iter().map(|(op, _)| op).collect();
    found.sort();
    assert_eq!(found, [Op::Insert, Op::Delete]);

    let entries = shop.run("truncate products").await;
    let [Entry { body: Body::Truncate { source }, .. }] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(shop.rules.truncate_effects(source).patterns, ["product:*", "product:slug:*", "search:*"]);
}

#[tokio::test]
async fn only_named_columns_enter_the_log_and_only_theirs_changes_count() {
    let rules = "[rules.r]\ntable = \"public.t\"\nkeys = [\"t:{id}\"]\ncolumns = [\"name\"]";
    let mut shop = Shop::open("create table t (id int, name text, secret text)", rules).await;
    let entries = shop.run("insert into t values (1, 'a', 'hidden')").await;
    assert!(!format!("{entries:?}").contains("hidden"), "{entries:?}");
    assert!(shop.run("update t set secret = 'x'").await.is_empty());
    let changed = shop.effects("update t set name = 'b'").await;
    assert_eq!(op_keys(&changed), [(Op::Update, vec!["t:1"])]);
    let moved = shop.effects("update t set id = 2").await;
    assert_eq!(op_keys(&moved), [(Op::Update, vec!["t:1", "t:2"])]);
}

#[tokio::test]
async fn text_is_the_same_whatever_the_session_has_set() {
    let rules = "[rules.r]\ntable = \"public.t\"\nkeys = [\"t:{at}:{f}:{b}:{i}:{d}:{fs}\"]";
    let tables = "create domain moment as timestamptz;
                  create table t (at timestamptz, f float8, b bytea, i interval, d moment, fs float8[])";
    let mut shop = Shop::open(tables, rules).await;
    let effects = shop
        .effects(&elsewhere(
            "insert into public.t values ('2026-11-23 12:00+00', 0.1::float8 + 0.2, '\\x00ff', '1 day',
                                          '2026-11-23 13:00+00', array[0.1::float8 + 0.2])",
        ))
        .await;
    let expected =
        r"t:2026-11-23 12:00:00+00:0.30000000000000004:\x00ff:1 day:2026-11-23 13:00:00+00:{0.30000000000000004}";
    assert_eq!(effects[0].1.keys, [expected]);
}

/// `sql` in a session in which nothing is as usual.
fn elsewhere(sql: &str) -> String {
    format!(
        "begin; set local timezone = 'Asia/Kathmandu'; set local datestyle = 'German'; set local extra_float_digits = -3;
         set local bytea_output = 'escape'; set local intervalstyle = 'iso_8601'; set local xmloption = 'document';
         set local standard_conforming_strings = off; set local quote_all_identifiers = on;
         set local search_path = pg_temp; set local session_replication_role = replica;
         {sql}; commit"
    )
}

/// For these types the triggers set nothing.
#[tokio::test]
async fn plain_columns_are_the_same_whatever_the_session_has_set() {
    let columns = "id int2 primary key, i4 int4, i8 int8, yes bool, n numeric, t text, v varchar(9), c char(9), u uuid,
                   j json, jb jsonb, e colour";
    let values =
        "-7, -70000, 9007199254740993, true, 1234567.10, E'a\\tb', 'é', 'x', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11',
                  '{\"a\" : 1.0}', '{\"b\":1e2, \"a\": \"2026-11-23 12:00+00\"}', 'dark red'";
    let names = ["id", "i4", "i8", "yes", "n", "t", "v", "c", "u", "j", "jb", "e"];
    let rules = format!(
        "[rules.r]\ntable = \"public.t\"\nkeys = [\"t:{}\"]\n[rules.r.publication]\nchannel = \"c\"\ndata = {names:?}",
        names.map(|name| format!("{{{name}}}")).join(":")
    );
    let mut shop =
        Shop::open(&format!("create type colour as enum ('dark red'); create table t ({columns})"), &rules).await;
    let settings: Option<Vec<String>> =
        sqlx::query_scalar("select proconfig from pg_proc where proname like 'capture%'")
            .fetch_one(shop.pool())
            .await
            .expect("the function");
    assert_eq!(settings.expect("settings").len(), 1, "none but the search path");
    let said = |effects: &[(Op, Effects)]| {
        let (_, effects) = effects.first().expect("an entry");
        (effects.keys.clone(), effects.publications[0].data.get().to_owned())
    };
    let here = said(&shop.effects(&format!("insert into t values ({values})")).await);
    assert!(here.0[0].starts_with("t:-7:-70000:9007199254740993:true:1234567.10:a"), "{here:?}");
    shop.run("delete from t").await;
    let there = said(&shop.effects(&elsewhere(&format!("insert into public.t values ({values})"))).await);
    assert_eq!(here, there);
}

#[tokio::test]
async fn partitions_and_rows_that_move_between_them() {
    let tables = "create table t (id int, home int, v text) partition by list (home);
                  create table t_1 partition of t for values in (1);
                  create table t_2 partition of t for values in (2)";
    let rules = "[rules.r]\ntable = \"public.t\"\nkeys = [\"t:{id}\"]";
    let mut shop = Shop::open(tables, rules).await;
    shop.run("insert into t select n, 1, '' from generate_series(1, 4) n").await;
    let moved = shop.effects("update t set home = 2, id = id + 10 where id in (2, 3)").await;
    let mut found = op_keys(&moved);
    found.sort();
    assert_eq!(found, [(Op::Update, vec!["t:2", "t:12"]), (Op::Update, vec!["t:3", "t:13"])]);
}

/// One new row beside two old ones: they are no pairs.
#[tokio::test]
async fn a_row_that_is_swallowed_on_its_way_to_another_partition_is_gone() {
    let tables = "create table t (id int, home int) partition by list (home);
                  create table t_1 partition of t for values in (1);
                  create table t_2 partition of t for values in (2);
                  create function swallow() returns trigger language plpgsql as
                      $$ begin if new.id = 3 then return null; end if; return new; end $$;
                  create trigger swallow before insert on t_2 for each row execute function swallow()";
    let rules = "[rules.r]\ntable = \"public.t\"\nkeys = [\"t:{id}\"]";
    let mut shop = Shop::open(tables, rules).await;
    shop.run("insert into t select n, 1 from generate_series(2, 4) n").await;
    let keys = |effects: &[(Op, Effects)]| {
        let mut keys: Vec<String> = effects.iter().flat_map(|(_, effects)| effects.keys.clone()).collect();
        keys.sort();
        (effects.len(), keys)
    };
    let moved = shop.effects("update t set home = 2 where id in (2, 3)").await;
    assert_eq!(keys(&moved), (2, vec!["t:2".to_owned(), "t:3".to_owned()]));
    shop.run("insert into t values (3, 1)").await;
    let alone = shop.effects("update t set home = 2 where id = 3").await;
    assert_eq!(op_keys(&alone), [(Op::Delete, vec!["t:3"])]);
}

#[tokio::test]
async fn odd_names_and_many_columns() {
    let columns: Vec<String> = (0..120).map(|n| format!("c{n} int default {n}")).collect();
    let names: Vec<String> = (0..120).map(|n| format!("\"c{n}\"")).collect();
    let tables = format!(
        r#"create schema "Odd Schema"; create table "Odd Schema"."it's $griot$ \ ""T""" ("a""b \" int, "found" int, {})"#,
        columns.join(", ")
    );
    let rules = format!(
        "[rules.r]\ntable = \"Odd Schema.it's $griot$ \\\\ \\\"T\\\"\"\nkeys = ['t:{{a\"b \\}}:{{found}}']\n\
         [rules.r.publication]\nchannel = \"odd\"\ndata = [{}]",
        names.join(", ")
    );
    let mut shop = Shop::open(&tables, &rules).await;
    let table = r#""Odd Schema"."it's $griot$ \ ""T""""#;
    let effects = shop.effects(&format!(r#"insert into {table} ("a""b \", "found") values (1, 2)"#)).await;
    assert_eq!(effects[0].1.keys, ["t:1:2"]);
    assert!(effects[0].1.publications[0].data.get().ends_with(r#","c119":119}"#));
    let effects = shop.effects(&format!(r#"update {table} set "a""b \" = 3"#)).await;
    assert_eq!(effects[0].1.keys, ["t:1:2", "t:3:2"]);
}

#[tokio::test]
async fn a_cascade_is_captured() {
    let tables = "create table parent (id int primary key);
                  create table child (id int, parent int references parent on delete cascade)";
    let mut shop = Shop::open(tables, "[rules.r]\ntable = \"public.child\"\nkeys = [\"child:{id}\"]").await;
    shop.run("insert into parent values (1); insert into child values (7, 1)").await;
    let effects = shop.effects("delete from parent").await;
    assert_eq!(op_keys(&effects), [(Op::Delete, vec!["child:7"])]);
}

#[tokio::test]
async fn cascades_of_updates_and_to_null_are_captured() {
    let tables = "create table parent (id int primary key);
                  create table child (id int, parent int references parent on update cascade on delete set null)";
    let mut shop = Shop::open(tables, "[rules.r]\ntable = \"public.child\"\nkeys = [\"of:{parent}\"]").await;
    shop.run("insert into parent values (1); insert into child values (7, 1)").await;
    let moved = shop.effects("update parent set id = 2").await;
    assert_eq!(op_keys(&moved), [(Op::Update, vec!["of:1", "of:2"])]);
    let orphaned = shop.effects("delete from parent").await;
    assert_eq!(op_keys(&orphaned), [(Op::Update, vec!["of:2"])]);
}

#[tokio::test]
async fn a_write_directly_to_a_partition_of_any_level() {
    // The columns of a table that was attached stand in another order.
    let tables = "create table t (id int, home int, v text) partition by list (home);
                  create table t_1 partition of t for values in (1) partition by range (id);
                  create table t_1_low partition of t_1 for values from (0) to (100);
                  create table t_2 (v text, home int, id int);
                  alter table t attach partition t_2 for values in (2)";
    let rules = "[rules.r]\ntable = \"public.t\"\nkeys = [\"t:{id}\"]\npatterns = [\"s:{v}:*\"]";
    let mut shop = Shop::open(tables, rules).await;
    for (statement, expected) in [
        ("insert into t_1_low values (1, 1, 'a')", (Op::Insert, vec!["t:1"])),
        ("insert into t_1 values (2, 1, 'a')", (Op::Insert, vec!["t:2"])),
        ("insert into t_2 (id, home) values (3, 2)", (Op::Insert, vec!["t:3"])),
        ("update t_2 set id = 4", (Op::Update, vec!["t:3", "t:4"])),
        ("update t set v = 'b' where id = 1", (Op::Update, vec!["t:1"])),
        ("delete from t_1_low where id = 1", (Op::Delete, vec!["t:1"])),
    ] {
        let effects = shop.effects(statement).await;
        assert_eq!(op_keys(&effects), [expected], "{statement}");
    }
    let mut copy = shop.pool().copy_in_raw("copy t_2 (id, home) from stdin").await.expect("copy");
    copy.send("5\t2\n".as_bytes()).await.expect("rows");
    copy.finish().await.expect("finish");
    assert_eq!(take(&mut shop.reader).await.len(), 1);
    let entries = shop.run("truncate t_2").await;
    let [Entry { body: Body::Truncate { source }, .. }] = entries.as_slice() else { panic!("{entries:?}") };
    assert_eq!(shop.rules.truncate_effects(source).patterns, ["t:*", "s:*:*"]);
}

#[tokio::test]
async fn a_statement_up_to_the_limit_is_logged_by_row_and_a_larger_one_as_a_whole() {
    let rules = "[limits]\nrows_per_statement = 3\n[rules.r]\ntable = \"public.t\"\nkeys = [\"t:{id}\"]";
    let mut shop = Shop::open("create table t (id int primary key, v int)", rules).await;
    let many = |entries: &[Entry], wanted: Op| matches!(entries, [Entry { body: Body::Many { source, op }, .. }] if source == "public.t" && *op == wanted);
    assert_eq!(shop.effects("insert into t select n, 0 from generate_series(1, 3) n").await.len(), 3);
    let entries = shop.run("insert into t select n, 0 from generate_series(4, 7) n").await;
    assert!(many(&entries, Op::Insert), "{entries:?}");
    assert_eq!(shop.effects("update t set v = 1 where id <= 3").await.len(), 3);
    let entries = shop.run("update t set v = 2 where id <= 4").await;
    assert!(many(&entries, Op::Update), "{entries:?}");
    // The parts of one statement that insert and that update are counted apart.
    let upsert = "insert into t select n, 3 from generate_series(1, 8) n on conflict (id) do update set v = 3";
    let entries = shop.run(upsert).await;
    let [row, whole] = entries.as_slice() else { panic!("{entries:?}") };
    let (row, whole) = if matches!(row.body, Body::Row(_)) { (row, whole) } else { (whole, row) };
    assert!(matches!(&row.body, Body::Row(change) if change.op == Op::Insert), "{entries:?}");
    assert!(matches!(whole.body, Body::Many { op: Op::Update, .. }), "{entries:?}");
    assert_eq!(shop.effects("delete from t where id <= 3").await.len(), 3);
    let entries = shop.run("delete from t").await;
    assert!(many(&entries, Op::Delete), "{entries:?}");
}

#[tokio::test]
async fn conditions_see_values_before_and_after_whatever_their_types() {
    let rules = "[rules.r]\ntable = \"public.t\"\nkeys = [\"t:{id}\"]\n\
                 when.new.paid = true\nwhen.old.paid = { not = true }\nwhen.new.total = [7, \"7.50\"]";
    let mut shop = Shop::open("create table t (id int, paid boolean, total numeric)", rules).await;
    let mut keys = async |sql: &str| {
        let effects = shop.effects(sql).await;
        effects.iter().flat_map(|(_, effects)| effects.keys.clone()).collect::<Vec<_>>()
    };
    assert_eq!(keys("insert into t values (1, null, 7), (2, true, 7.50), (3, true, 7.5)").await, ["t:2"]);
    assert_eq!(keys("update t set paid = true where id = 1").await, ["t:1"]);
    assert!(keys("update t set total = 7.50 where id = 1").await.is_empty(), "it was paid before");
    assert!(keys("delete from t").await.is_empty());
}
