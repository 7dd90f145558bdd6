//! Recovery by position: what a client that comes back is given, and when it is told that this is not all.

use std::time::Duration;

use anyhow::Result;
use fanout_core::{Channel, Data, Publication, Publisher};
use griot_tests::bridge::{LoneBridge, SECRET, publisher};
use griot_tests::client::{Client, open};
use griot_tests::servers::Redis;
use griot_tests::token;
use serde_json::{Value, json};

const SOON: Duration = Duration::from_secs(15);

async fn publish(publisher: &Publisher, channel: &str, json: &str, key: Option<&str>) -> Result<()> {
    let mut publication = Publication::new(Channel::parse(channel)?, Data::parse(json.to_owned())?);
    publication.conflation_key = key.map(str::to_owned);
    publisher.publish(publication).await?;
    Ok(())
}

/// The data of recovered publications, in their order.
fn data(result: &Value) -> Vec<Value> {
    result["publications"].as_array().into_iter().flatten().map(|publication| publication["data"].clone()).collect()
}

#[tokio::test]
async fn a_client_gets_exactly_what_it_missed_or_is_told() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "").await?;
    let publisher = publisher(&redis.url())?;
    let (client, _) = bridge.client("42").await?;
    let epoch = client.subscribe("products").await?["epoch"].as_str().expect("epoch").to_owned();
    assert_eq!(epoch.len(), 8, "an epoch exists before the first publication");
    client.unsubscribe("products").await?;
    let nothing = client.recover("products", &epoch, 0).await?;
    assert_eq!((&nothing["recovered"], nothing.get("publications")), (&json!(true), None), "{nothing}");
    client.unsubscribe("products").await?;
    for n in 1..=5 {
        publish(&publisher, "products", &n.to_string(), None).await?;
    }
    let fresh = client.subscribe("products").await?;
    assert_eq!((fresh.get("publications"), &fresh["offset"]), (None, &json!(5)), "no history without asking: {fresh}");
    client.unsubscribe("products").await?;
    for (since, epoch) in [(2, epoch.as_str()), (3, "")] {
        let result = client.recover("products", epoch, since).await?;
        assert_eq!(data(&result), [json!(since + 1), json!(since + 2), json!(since + 3)]);
        assert_eq!((&result["recovered"], &result["offset"]), (&json!(true), &json!(since)), "as asked for: {result}");
        assert_eq!((&result["publications"][0]["offset"], &result["recoverable"]), (&json!(since + 1), &json!(true)));
        publish(&publisher, "products", &(since + 4).to_string(), None).await?;
        assert_eq!(
            client.next_publication(SOON).await?.1["data"],
            json!(since + 4),
            "live publications go on behind it"
        );
        client.unsubscribe("products").await?;
    }
    for (since, epoch) in [(2, "_"), (2, "00000000"), (99, epoch.as_str()), (u64::MAX, "")] {
        let result = client.recover("products", epoch, since).await?;
        assert_eq!(
            (result.get("recovered"), &result["was_recovering"], &result["offset"]),
            (None, &json!(true), &json!(7)),
            "{epoch:?} {since}: {result}"
        );
        assert_eq!(result.get("publications"), None);
        client.unsubscribe("products").await?;
    }
    for n in 0..20 {
        publish(&publisher, "products", &n.to_string(), None).await?;
    }
    let trimmed = client.recover("products", &epoch, 6).await?;
    assert_eq!((trimmed.get("recovered"), trimmed.get("publications")), (None, None), "21 missed, 20 kept: {trimmed}");
    client.unsubscribe("products").await?;
    assert_eq!(data(&client.recover("products", &epoch, 7).await?).len(), 20);
    Ok(())
}

#[tokio::test]
async fn server_side_subscriptions_recover_with_the_connect_command() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "").await?;
    let publisher = publisher(&redis.url())?;
    let (client, connected) = bridge.client("42").await?;
    client.close().await?;
    publish(&publisher, "orders:#42", "1", None).await?;
    publish(&publisher, "orders:#42", "2", None).await?;
    let again = Client::over(open(&bridge.socket(), &[]).await?);
    let mut subs = serde_json::Map::new();
    for (channel, sub) in connected["subs"].as_object().expect("subs") {
        subs.insert(channel.clone(), json!({"recover": true, "epoch": sub["epoch"], "offset": 0}));
    }
    let connected = again.command("connect", json!({"token": token::token(SECRET, "42"), "subs": subs})).await?;
    assert_eq!(data(&connected["subs"]["orders:#42"]), [json!(1), json!(2)]);
    for sub in connected["subs"].as_object().expect("subs").values() {
        assert_eq!((&sub["recovered"], sub.get("offset")), (&json!(true), None), "{sub}");
    }
    assert_eq!(bridge.metric("griot_recoveries_total{reason=\"recovered\"}").await?, 3.0);
    assert_eq!(
        bridge.metric("griot_history_reads_total{reason=\"recovery\"}").await?,
        1.0,
        "only where something was missed"
    );
    Ok(())
}

#[tokio::test]
async fn of_a_conflated_topic_the_newest_of_each_key_is_recovered_however_much_was_missed() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "").await?;
    let publisher = publisher(&redis.url())?;
    let (client, connected) = bridge.client("42").await?;
    let (channel, token) = ("wallet-updates:#42", token::token(SECRET, "42"));
    let epoch = connected["subs"][channel]["epoch"].clone();
    client.close().await?;
    let recover = async |offset: u64| -> Result<Value> {
        let client = Client::over(open(&bridge.socket(), &[]).await?);
        let subs = json!({channel: {"recover": true, "epoch": epoch, "offset": offset}});
        Ok(client.command("connect", json!({"token": token, "subs": subs})).await?["subs"][channel].clone())
    };
    publish(&publisher, channel, "1", Some("savings")).await?;
    for n in 2..=300 {
        publish(&publisher, channel, &n.to_string(), Some("cash")).await?;
    }
    publish(&publisher, channel, "301", None).await?;
    let all = recover(0).await?;
    assert_eq!(data(&all), [json!(1), json!(300), json!(301)], "far more than the history of 100: {all}");
    assert_eq!((&all["recovered"], all.get("offset")), (&json!(true), None));
    assert_eq!(data(&recover(1).await?), [json!(300), json!(301)]);
    assert_eq!(recover(301).await?["recovered"], json!(true));
    // More keys than there is room for: who stood before what fell out is told.
    for n in 0..200 {
        publish(&publisher, channel, &n.to_string(), Some(&format!("key {n}"))).await?;
    }
    let told = recover(1).await?;
    assert_eq!((told.get("recovered"), told.get("publications")), (None, None), "{told}");
    assert_eq!(data(&recover(450).await?).len(), 51, "what is still represented is recovered");
    Ok(())
}

#[tokio::test]
async fn what_does_not_fit_into_the_reply_follows_it_and_what_is_too_large_altogether_is_told() -> Result<()> {
    let redis = Redis::start().await?;
    let bridge = LoneBridge::start(&redis.url(), "max_recovery_bytes = 2000000").await?;
    let publisher = publisher(&redis.url())?;
    let (client, _) = bridge.client("42").await?;
    let epoch = client.subscribe("products").await?["epoch"].as_str().expect("epoch").to_owned();
    client.unsubscribe("products").await?;
    let large = "x".repeat(60_000);
    for n in 1..=20 {
        publish(&publisher, "products", &json!({"n": n, "text": large}).to_string(), None).await?;
    }
    let recovered = client.recover("products", &epoch, 4).await?;
    let in_reply = recovered["publications"].as_array().map_or(0, Vec::len);
    assert!(recovered["recovered"] == true && (1..16).contains(&in_reply), "{in_reply} of 16 in the reply");
    for offset in 5 + in_reply..=20 {
        let (_, publication) = client.next_publication(SOON).await?;
        assert_eq!((&publication["offset"], &publication["data"]["n"]), (&json!(offset), &json!(offset)));
    }
    publish(&publisher, "products", "21", None).await?;
    assert_eq!(client.next_publication(SOON).await?.1["offset"], json!(21), "then it goes on");
    client.unsubscribe("products").await?;
    let told = client.recover("products", &epoch, 2).await?;
    assert_eq!((told.get("recovered"), &told["offset"]), (None, &json!(21)), "over a megabyte");
    Ok(())
}
