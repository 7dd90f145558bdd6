//! The HTTP API and the command line: shapes, limits, and errors that say what was wrong.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Result;
use fanout_core::publisher::Once;
use fanout_core::{Channel, Data, Publication, RedisConfig};
use griot_tests::bridge::publisher_with;
use griot_tests::eventually::eventually;
use griot_tests::http;
use griot_tests::process::{Launch, Worker};
use griot_tests::servers::{Redis, free_addr};
use griot_tests::stage::TOPICS;
use serde_json::{Value, json};

pub(crate) const KEY: [(&str, &str); 1] = [("X-API-Key", "test-api-key")];

/// A publisher with a Redis of its own.
pub(crate) struct Api {
    pub(crate) redis: Redis,
    process: Worker,
    pub(crate) addr: SocketAddr,
    admin: SocketAddr,
}

async fn api() -> Result<Api> {
    api_with(TOPICS).await
}

/// A publisher with other `topics`, in TOML.
pub(crate) async fn api_with(topics: &str) -> Result<Api> {
    let (redis, addr, admin) = (Redis::start().await?, free_addr()?, free_addr()?);
    let config = format!(
        "{topics}\n[redis]\nurl = {:?}\n[publisher]\nlisten = \"{addr}\"\nadmin_listen = \"{admin}\"\n\
         api_key = \"test-api-key\"\nmax_body_bytes = 100000\nmax_broadcast_channels = 3\n\
         max_batch_commands = 8\nmax_batch_channels = 9\n",
        redis.url()
    );
    let process = Launch::new("publisher").config(config).ready_at(admin).start().await?;
    Ok(Api { redis, process, addr, admin })
}

impl Api {
    /// A connection for commands to its Redis.
    pub(crate) fn commands(&self) -> Result<fanout_core::Redis> {
        Ok(fanout_core::Redis::connect(&RedisConfig { url: self.redis.url(), ..RedisConfig::default() })?)
    }

    pub(crate) async fn call(&self, method: &str, body: &Value) -> Result<Value> {
        http::post(self.addr, &format!("/api/{method}"), &KEY, &body.to_string()).await?.json()
    }
}

#[tokio::test]
async fn publish_answers_with_the_position_and_the_same_key_publishes_once() -> Result<()> {
    let api = api().await?;
    let first = api.call("publish", &json!({"channel": "orders:#42", "data": {"n": 1}})).await?;
    assert_eq!(first["result"]["offset"], 1);
    let epoch = first["result"]["epoch"].as_str().expect("epoch").to_owned();
    let once = json!({"channel": "orders:#42", "data": {"n": 2}, "idempotency_key": "k", "tags": {"a": "b"}});
    for _ in 0..3 {
        assert_eq!(api.call("publish", &once).await?, json!({"result": {"offset": 2, "epoch": epoch}}));
    }
    let elsewhere = json!({"channel": "orders:#4", "data": null, "idempotency_key": "k"});
    assert_eq!(api.call("publish", &elsewhere).await?["result"]["offset"], 1, "keys belong to a channel; null is data");
    let aside = json!({"channel": "orders:#42", "data": {}, "skip_history": true});
    assert_eq!(api.call("publish", &aside).await?, json!({"result": {}}));
    Ok(())
}

#[tokio::test]
async fn keys_of_different_channels_never_meet() -> Result<()> {
    let redis = Redis::start().await?;
    // One partition, so that nothing but their names keeps them apart.
    let publisher = publisher_with(RedisConfig { url: redis.url(), partitions: 1, ..RedisConfig::default() })?;
    for (channel, key) in [("products:a", "b:c"), ("products:a:b", "c"), ("products", "a:b:c")] {
        let mut publication = Publication::new(Channel::parse(channel)?, Data::parse("1")?);
        publication.once = Once::Key(key.into());
        assert!(!publisher.publish(publication).await?.repeated, "{channel} {key}");
    }
    Ok(())
}

#[tokio::test]
async fn broadcast_answers_per_channel_and_one_refused_stops_no_other() -> Result<()> {
    let api = api().await?;
    let body = json!({"channels": ["orders:#4", "orders:#4,2", "orders:#2"], "data": {}});
    let answer = api.call("broadcast", &body).await?;
    let responses = answer["result"]["responses"].as_array().expect("responses");
    assert_eq!(responses.len(), 3);
    assert_eq!((&responses[0]["result"]["offset"], &responses[2]["result"]["offset"]), (&json!(1), &json!(1)));
    assert_eq!(responses[1]["error"]["code"], 107);
    for channels in [json!([]), json!(["a", "b", "c", "d"])] {
        let answer = api.call("broadcast", &json!({"channels": channels, "data": {}})).await?;
        let words = answer["error"]["message"].as_str().expect("message");
        assert!(answer["error"]["code"] == 107 && words.contains("channels") && words.contains('3'), "{answer}");
    }
    Ok(())
}

#[tokio::test]
async fn a_batch_answers_in_its_order_and_one_refused_command_stops_no_other() -> Result<()> {
    let api = api().await?;
    // Loads the script, so that only what the batch does is counted.
    api.call("publish", &json!({"channel": "products", "data": 0})).await?;
    api.redis.ask("CONFIG RESETSTAT").await?;
    let commands = json!([
        {"publish": {"channel": "orders:#42", "data": 1}},
        {"publish": {"channel": "nowhere:#42", "data": 2}},
        {"broadcast": {"channels": ["orders:#42", "orders:#4,2"], "data": 3}},
        {"publish": {"channel": "orders:#42", "data": 4, "skip_history": true}},
        {"broadcast": {"channels": [], "data": 5}},
        {"publish": {"channel": "orders:#42", "data": 6, "idempotency_key": "k"}},
        {"publish": {"channel": "orders:#42", "data": 6, "idempotency_key": "k"}},
        {"publish": {"channel": "orders:#42", "data": 7}},
    ]);
    let answer = api.call("batch", &json!({"commands": commands, "parallel": true})).await?;
    let epoch = answer["replies"][0]["publish"]["epoch"].as_str().expect("epoch");
    let at = |offset: u64| json!({"offset": offset, "epoch": epoch});
    let replies = answer["replies"].as_array().expect("replies").clone();
    assert_eq!(replies.len(), 8, "{answer}");
    assert_eq!(replies[0], json!({"publish": at(1)}));
    assert_eq!((&replies[1]["error"]["code"], &replies[4]["error"]["code"]), (&json!(102), &json!(107)));
    let responses = &replies[2]["broadcast"]["responses"];
    assert_eq!((&responses[0], &responses[1]["error"]["code"]), (&json!({"result": at(2)}), &json!(107)));
    assert_eq!(replies[3], json!({"publish": {}}));
    let [first, repeated, last] = &replies[5..] else { unreachable!("eight") };
    assert_eq!((first, repeated, last), (&json!({"publish": at(3)}), first, &json!({"publish": at(4)})));
    let calls = api.redis.ask("INFO commandstats").await?;
    assert!(calls.contains("cmdstat_evalsha:calls=1,"), "one channel, one call: {calls}");
    assert_eq!(api.call("batch", &json!({"commands": []})).await?, json!({"replies": []}));
    Ok(())
}

#[tokio::test]
async fn a_command_that_is_none_is_its_own_error_and_an_oversized_batch_publishes_nothing() -> Result<()> {
    let api = api().await?;
    let publish = json!({"channel": "orders:#42", "data": {}});
    let broken = [
        ("{}", 107, "one method"),
        ("[]", 107, "object"),
        ("{\"publish\":null}", 107, "null"),
        ("{\"rpc\":{\"method\":\"a\"}}", 107, "`rpc`"),
        ("{\"publish\":{},\"presence\":{}}", 107, "one method"),
        ("{\"publish\":{},\"publish\":{}}", 107, "one method"),
        ("{\"publish\":{\"channel\":42}}", 107, "42"),
    ];
    let commands: Vec<&str> = broken.iter().map(|(command, ..)| *command).collect();
    let body = format!("{{\"commands\":[{},{{\"publish\":{publish}}}]}}", commands.join(","));
    let answer = http::post(api.addr, "/api/batch", &KEY, &body).await?.json()?;
    for (index, (command, code, words)) in broken.iter().enumerate() {
        let error = &answer["replies"][index]["error"];
        let message = error["message"].as_str().unwrap_or_default();
        assert!(error["code"] == *code && message.contains(words), "{command}: {error}");
    }
    assert_eq!(answer["replies"][7]["publish"]["offset"], 1);

    let many = vec![json!({"publish": publish}); 9];
    let wide = vec![json!({"broadcast": {"channels": ["orders:#42", "orders:#1", "orders:#2"], "data": 1}}); 4];
    for (commands, words) in [(many, ["9", "8", "max_batch_commands"]), (wide, ["12", "9", "max_batch_channels"])] {
        let answer = api.call("batch", &json!({"commands": commands})).await?;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert!(answer["error"]["code"] == 107 && words.iter().all(|word| message.contains(word)), "{answer}");
    }
    assert_eq!(api.call("publish", &publish).await?["result"]["offset"], 2, "nothing of the oversized ones");
    for body in ["{}", "{\"commands\":{}}", "{\"commands\":[{]}"] {
        assert_eq!(http::post(api.addr, "/api/batch", &KEY, body).await?.status, 400, "{body}");
    }
    Ok(())
}

#[tokio::test]
async fn errors_name_the_field_the_value_and_the_limit() -> Result<()> {
    let api = api().await?;
    let long = "x".repeat(70_000);
    for (body, code, words) in [
        (json!({"data": {}}), 107, &["channel"][..]),
        (json!({"channel": "orders:#42"}), 107, &["data"]),
        (json!({"channel": "nowhere:#42", "data": {}}), 102, &["unknown channel", "nowhere"]),
        (json!({"channel": "orders:#4,2", "data": {}}), 107, &["4,2", "128"]),
        (json!({"channel": "a".repeat(300), "data": {}}), 107, &["channel", "255"]),
        (json!({"channel": "orders:#42", "data": long}), 107, &["data", "70002", "65536"]),
        (
            json!({"channel": "orders:#42", "data": {}, "idempotency_key": "k".repeat(200)}),
            107,
            &["idempotency_key", "200", "128"],
        ),
        (json!({"channel": "orders:#42", "data": {}, "tags": {"t": "v".repeat(300)}}), 107, &["\"t\"", "300", "256"]),
        (json!({"channel": "orders:#42", "b64data": "*"}), 107, &["b64data", "base64"]),
        (json!({"channel": "orders:#42", "b64data": "/w=="}), 107, &["b64data", "JSON"]),
        (json!({"channel": "orders:#42", "b64data": "AA=="}), 107, &["data", "JSON"]),
    ] {
        let answer = api.call("publish", &body).await?;
        let message = answer["error"]["message"].as_str().unwrap_or_default();
        assert_eq!(answer["error"]["code"], code, "{answer}");
        assert!(words.iter().all(|word| message.contains(word)), "{words:?} in {message}");
        assert!(message.len() < 300, "{message}");
    }
    Ok(())
}

#[tokio::test]
async fn base64_is_what_it_holds_and_old_versions_are_dropped() -> Result<()> {
    let api = api().await?;
    // {"n": 1}
    api.call("publish", &json!({"channel": "orders:#42", "b64data": "eyJuIjogMX0="})).await?;
    let versioned = |version: u64, n: u64| json!({"channel": "orders:#42", "data": {"n": n}, "version": version});
    for (version, n, offset) in [(7, 2, 2), (7, 3, 2), (6, 4, 2), (8, 5, 3)] {
        assert_eq!(api.call("publish", &versioned(version, n)).await?["result"]["offset"], offset, "{version}");
    }
    let history = api.call("history", &json!({"channel": "orders:#42", "limit": -1})).await?;
    let publications = history["result"]["publications"].as_array().expect("publications");
    let numbers: Vec<_> = publications.iter().map(|publication| publication["data"]["n"].as_u64()).collect();
    assert_eq!(numbers, [Some(1), Some(2), Some(5)]);
    Ok(())
}

#[tokio::test]
async fn a_caller_may_want_errors_as_statuses() -> Result<()> {
    let api = api().await?;
    let mode = ("X-Centrifugo-Error-Mode", "transport");
    for (method, body, status, code) in [
        ("publish", json!({"channel": "nowhere", "data": {}}), 404, 102),
        ("publish", json!({"channel": "orders:#42"}), 400, 107),
        ("presence", json!({"channel": "orders:#42"}), 400, 108),
        ("history", json!({"channel": "orders:#42", "since": {"offset": 1, "epoch": "another"}}), 416, 112),
    ] {
        let answer = http::post(api.addr, &format!("/api/{method}"), &[KEY[0], mode], &body.to_string()).await?;
        assert_eq!((answer.status, &answer.json()?["code"]), (status, &json!(code)), "{answer:?}");
        assert_eq!(api.call(method, &body).await?["error"]["code"], code, "without being asked for, in the body");
    }
    let batch = json!({"commands": [{"publish": {"channel": "nowhere", "data": {}}}]}).to_string();
    let answer = http::post(api.addr, "/api/batch", &[KEY[0], mode], &batch).await?;
    assert_eq!((answer.status, &answer.json()?["replies"][0]["error"]["code"]), (200, &json!(102)));
    Ok(())
}

#[tokio::test]
async fn strangers_and_nonsense_get_a_status() -> Result<()> {
    let api = api().await?;
    let body = json!({"channel": "orders:#42", "data": {}}).to_string();
    for headers in
        [&[][..], &[("X-API-Key", "wrong")], &[("X-API-Key", "")], &[("Authorization", "Bearer test-api-key")]]
    {
        let answer = http::post(api.addr, "/api/publish", headers, &body).await?;
        assert_eq!((answer.status, answer.body.as_str()), (401, ""), "{headers:?}");
    }
    let authorization = [("Authorization", "apikey test-api-key")];
    assert_eq!(http::post(api.addr, "/api/publish", &authorization, &body).await?.status, 200);
    assert_eq!(http::post(api.addr, "/api/publish?api_key=test-api-key", &[], &body).await?.status, 200);
    for (body, status) in [("{", 400), ("[]", 400), ("", 400), ("{\"channel\": 42}", 400)] {
        assert_eq!(http::post(api.addr, "/api/publish", &KEY, body).await?.status, status, "{body:?}");
    }
    let answer = http::post(api.addr, "/api/publish", &KEY, &"x".repeat(200_000)).await?;
    assert!(answer.status == 413 && answer.body.contains("max_body_bytes"), "{answer:?}");
    assert_eq!(http::request(api.addr, "GET", "/api/publish", &KEY, "").await?.status, 405);
    assert_eq!(http::post(api.addr, "/api/nothing", &KEY, &body).await?.status, 404);
    assert_eq!(http::get(api.addr, "/metrics").await?.status, 401, "operators have an address of their own");
    Ok(())
}

#[tokio::test]
async fn without_redis_the_api_says_so_and_recovers() -> Result<()> {
    let mut api = api().await?;
    api.redis.kill().await?;
    let body = json!({"channel": "orders:#42", "data": {}, "idempotency_key": "once"});
    let answer = api.call("publish", &body).await?;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(
        answer["error"]["code"] == 100 && message.contains("Redis") && message.contains("idempotency_key"),
        "{answer}"
    );
    let ready = || async { http::get(api.admin, "/readyz").await.map(|answer| (answer.status, answer.body)) };
    eventually(Duration::from_secs(15), "readiness names Redis", || async {
        ready().await.is_ok_and(|(status, words)| status == 503 && words.contains("redis"))
    })
    .await;
    api.redis.start_again().await?;
    eventually(Duration::from_secs(15), "the API works again", || async {
        api.call("publish", &body).await.is_ok_and(|answer| answer["result"]["offset"] == 1)
    })
    .await;
    api.process.stop().await
}

#[tokio::test]
async fn before_redis_was_ever_there_calls_are_answered_and_nothing_is_published() -> Result<()> {
    let (mut redis, addr, admin) = (Redis::start().await?, free_addr()?, free_addr()?);
    redis.kill().await?;
    let config = format!(
        "{TOPICS}\n[redis]\nurl = {:?}\n[publisher]\nlisten = \"{addr}\"\nadmin_listen = \"{admin}\"\n\
         api_key = \"test-api-key\"\n",
        redis.url()
    );
    let process = Launch::new("publisher").config(config).start().await?;
    process.line("publisher is listening").await?;
    let body = json!({"channel": "orders:#42", "data": {}}).to_string();
    let answer = http::post(addr, "/api/publish", &KEY, &body).await?.json()?;
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    assert!(answer["error"]["code"] == 100 && message.contains("Nothing was published"), "{answer}");
    redis.start_again().await?;
    let publish = || async { http::post(addr, "/api/publish", &KEY, &body).await?.json() };
    eventually(Duration::from_secs(15), "it publishes", || async {
        publish().await.is_ok_and(|answer| answer["result"]["offset"] == 1)
    })
    .await;
    process.stop().await
}

#[tokio::test]
async fn a_process_that_is_configured_differently_is_refused_with_both_values() -> Result<()> {
    let api = api().await?;
    for (setting, words) in [("partitions = 8", ["partitions", "64"]), ("fence = false", ["fence", "true"])] {
        let (name, value) = setting.split_once(" = ").expect("a setting");
        let send = Launch::new("publisher").arg("send").arg("orders:#42").arg("{}").env("REDIS_URL", api.redis.url());
        let ended = send.env(&format!("GRIOT_REDIS__{}", name.to_uppercase()), value).run().await?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && words.iter().all(|word| said.contains(word)), "{said}");
    }
    Ok(())
}

#[tokio::test]
async fn the_command_line_says_what_it_published_or_why_not() -> Result<()> {
    let redis = Redis::start().await?;
    let send = |channel: &str, json: &str| {
        Launch::new("publisher").arg("send").arg(channel).arg(json).env("REDIS_URL", redis.url())
    };
    let ended = send("orders:#42", "{\"n\": 1}").run().await?;
    let said = String::from_utf8_lossy(&ended.stdout).into_owned();
    assert!(ended.status.success() && said.contains(" offset 1 epoch "), "{said}");
    for (channel, json, words) in
        [("orders:#4,2", "{}", "4,2"), ("nowhere", "{}", "nowhere"), ("orders:#42", "{", "not JSON")]
    {
        let ended = send(channel, json).run().await?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(words) && !said.contains("Error {"), "{said}");
    }
    let ended = Launch::new("publisher").run().await?;
    let said = String::from_utf8_lossy(&ended.stderr).into_owned();
    assert!(!ended.status.success() && said.contains("GRIOT_PUBLISHER__API_KEY"), "{said}");
    Ok(())
}
