//! `publisher send --stdin`: every line is published once, refused with a reason, or said to be unknown.

use std::process::Output;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use griot_tests::eventually::eventually;
use griot_tests::process::Launch;
use griot_tests::servers::Redis;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::process::{Child, ChildStdin, Command};
use tokio::time::timeout;

const BOUND: Duration = Duration::from_secs(60);

/// A running `send --stdin`, with its input open.
struct Sending {
    child: Child,
    input: ChildStdin,
}

fn sending(redis: &Redis, arguments: &[&str], environment: &[(&str, &str)]) -> Result<Sending> {
    let mut launch = Launch::new("publisher").arg("send").arg("--stdin").env("REDIS_URL", redis.url());
    for argument in arguments {
        launch = launch.arg(*argument);
    }
    for (name, value) in environment {
        launch = launch.env(name, *value);
    }
    let mut child = launch.piped()?;
    let input = child.stdin.take().context("piped")?;
    Ok(Sending { child, input })
}

impl Sending {
    async fn write(&mut self, text: impl AsRef<[u8]>) -> Result<()> {
        self.input.write_all(text.as_ref()).await?;
        Ok(self.input.flush().await?)
    }

    /// Ends the input and waits for the end; its exit code, standard output and standard error.
    async fn end(self) -> Result<(i32, String, String)> {
        drop(self.input);
        ended(self.child).await
    }

    /// What stands in its standard error, once `text` does.
    async fn says(&mut self, text: &str) -> Result<()> {
        let error = self.child.stderr.as_mut().context("piped")?;
        let mut said = Vec::new();
        let heard = async {
            while !String::from_utf8_lossy(&said).contains(text) {
                ensure!(error.read_buf(&mut said).await? > 0, "{}", String::from_utf8_lossy(&said));
            }
            Ok(())
        };
        timeout(BOUND, heard).await.with_context(|| format!("it never says {text:?}"))?
    }

    async fn interrupt(&self) -> Result<()> {
        let pid = self.child.id().context("it has ended")?.to_string();
        let sent = Command::new("sh").args(["-c", "kill -s INT \"$1\"", "sh", &pid]).status().await?;
        ensure!(sent.success(), "it takes no signal");
        Ok(())
    }
}

async fn ended(child: Child) -> Result<(i32, String, String)> {
    let Output { status, stdout, stderr } =
        timeout(BOUND, child.wait_with_output()).await.context("send does not end")??;
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    Ok((status.code().unwrap_or(-1), text(stdout), text(stderr)))
}

fn line(channel: &str, data: Value) -> String {
    json!({"channel": channel, "data": data}).to_string() + "\n"
}

fn once(channel: &str, data: Value, key: &str) -> String {
    json!({"channel": channel, "data": data, "idempotency_key": key}).to_string() + "\n"
}

/// The data in a channel's history, oldest first.
async fn history(redis: &Redis, channel: &str) -> Result<Vec<String>> {
    let key = redis.ask(&format!("KEYS *:history:{channel}")).await?;
    if key.is_empty() {
        return Ok(Vec::new());
    }
    // Two lines of an envelope come before the data.
    let all = redis.ask(&format!("LRANGE {key} 0 -1")).await?;
    Ok(all.lines().skip(2).step_by(3).map(str::to_owned).collect())
}

#[tokio::test]
async fn one_bad_line_stops_no_other_and_each_is_told_with_its_number() -> Result<()> {
    let redis = Redis::start().await?;
    let mut sending = sending(&redis, &["--print"], &[("GRIOT_PUBLISHER__MAX_BODY_BYTES", "1000")])?;
    let long = line("orders:#42", json!("x".repeat(2_000)));
    let lines: [&[u8]; 14] = [
        "\u{feff}{\"channel\":\"orders:#42\",\"data\":1}\r\n".as_bytes(),
        b"\n",
        b"   \r\n",
        b"{\"channel\":\"orders:#42\",\"data\":\n",
        b"[\"orders:#42\"]\n",
        b"{\"channel\":\"orders:#42\",\"data\":\"\xff\"}\n",
        long.as_bytes(),
        b"{\"channel\":\"orders:#42\"}\n",
        b"{\"channel\":\"nowhere:#42\",\"data\":1}\n",
        b"{\"channel\":\"orders:#42\",\"data\":2,\"version\":3}\n",
        b"{\"channel\":\"orders:#42\",\"data\":2,\"idempotency_key\":\"k\",\"tags\":{\"a\":\"b\"}}\n",
        b"{\"channel\":\"orders:#42\",\"data\":2,\"idempotency_key\":\"k\"}\n",
        b"{\"channel\":\"orders:#42\",\"data\":3,\"skip_history\":true}\n",
        b"{\"channel\":\"orders:#42\",\"data\":4}",
    ];
    sending.write(lines.concat()).await?;
    let (code, printed, said) = sending.end().await?;
    assert_eq!(code, 1, "{said}");
    for words in [
        "14 lines: 5 published, 1 repeated, 6 refused, 0 unknown, 2 empty",
        "  line 4: column 31: EOF while parsing a value\n",
        "  line 5: the line is not a JSON object\n",
        "  line 6: byte 33 is not UTF-8\n",
        "  line 7: the line is 2034 bytes\n",
        "  line 8: data is missing\n",
        "  line 9: unknown channel \"nowhere:#42\": no topic \"nowhere\" is configured\n",
        "  2 × not a JSON object",
        "  1 × longer than publisher.max_body_bytes",
    ] {
        assert!(said.contains(words), "{words:?} in\n{said}");
    }
    let printed: Vec<&str> = printed.lines().collect();
    let ends = [" offset 1 epoch ", " offset 2 epoch ", " offset 3 epoch ", " repeated", "", " offset 4 epoch "];
    assert_eq!(printed.len(), ends.len(), "{printed:?}");
    assert!(printed.iter().zip(ends).all(|(line, end)| line.contains(end) && line.len() >= 36), "{printed:?}");
    assert_eq!(history(&redis, "orders:#42").await?, ["1", "2", "2", "4"]);
    Ok(())
}

#[tokio::test]
async fn many_lines_keep_their_order_per_channel_and_nothing_is_printed() -> Result<()> {
    let redis = Redis::start().await?;
    let mut sending = sending(&redis, &[], &[])?;
    let lines: String = (0..20_000).map(|n| line(&format!("orders:#{}", n % 40), json!(n))).collect();
    sending.write(lines).await?;
    let (code, printed, said) = sending.end().await?;
    assert_eq!((code, printed.as_str()), (0, ""), "{said}");
    assert_eq!(said, "20000 lines: 20000 published, 0 repeated, 0 refused, 0 unknown, 0 empty\n");
    for user in 0..40 {
        let expected: Vec<String> = (400..500).map(|n| (n * 40 + user).to_string()).collect();
        assert_eq!(history(&redis, &format!("orders:#{user}")).await?, expected, "the newest 100, in order");
    }
    Ok(())
}

#[tokio::test]
async fn a_line_comes_through_while_the_input_stays_open_and_ctrl_c_says_where_to_go_on() -> Result<()> {
    let redis = Redis::start().await?;
    let mut sending = sending(&redis, &[], &[])?;
    sending.write(line("orders:#42", json!(1))).await?;
    // The second is only half there, and never published.
    sending.write("{\"channel\":\"orders:#42\",").await?;
    eventually(BOUND, "the first is published", || async {
        history(&redis, "orders:#42").await.is_ok_and(|history| history == ["1"])
    })
    .await;
    sending.interrupt().await?;
    let Sending { child, input } = sending;
    let (code, _, said) = ended(child).await?;
    drop(input);
    assert_eq!(code, 1);
    assert!(said.contains("1 lines: 1 published") && said.contains("stopped after line 1: asked to end"), "{said}");
    assert!(said.contains("begin at line 2 (tail -n +2 FILE)"), "{said}");
    assert_eq!(history(&redis, "orders:#42").await?, ["1"]);
    Ok(())
}

#[tokio::test]
async fn a_line_of_any_length_takes_no_memory() -> Result<()> {
    let redis = Redis::start().await?;
    let mut sending = sending(&redis, &[], &[])?;
    let block = vec![b'x'; 1024 * 1024];
    for _ in 0..256 {
        sending.write(&block).await?;
    }
    sending.write("\n").await?;
    sending.write(line("orders:#42", json!(1))).await?;
    eventually(BOUND, "the line after it is published", || async {
        history(&redis, "orders:#42").await.is_ok_and(|history| history == ["1"])
    })
    .await;
    let status = std::fs::read_to_string(format!("/proc/{}/status", sending.child.id().context("runs")?))?;
    let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:")?.trim().strip_suffix(" kB")?.parse().ok());
    let peak: u64 = peak.context("its peak memory")?;
    assert!(peak < 64 * 1024, "{peak} KiB");
    let (code, _, said) = sending.end().await?;
    assert!(code == 1 && said.contains("line 1: the line is 268435456 bytes"), "{said}");
    Ok(())
}

#[tokio::test]
async fn what_got_no_answer_is_sent_again_only_with_a_key() -> Result<()> {
    let redis = Redis::start().await?;
    let mut sending = sending(&redis, &[], &[("GRIOT_REDIS__COMMAND_TIMEOUT_MS", "300")])?;
    sending.write(line("orders:#42", json!(0))).await?;
    eventually(BOUND, "it is at work", || async {
        history(&redis, "orders:#42").await.is_ok_and(|history| history == ["0"])
    })
    .await;
    // What is sent now is carried out when the server wakes, after its sender has given up waiting.
    redis.pause()?;
    sending.write(once("orders:#42", json!(1), "k") + &line("orders:#42", json!(2))).await?;
    sending.says("waiting, at most 30 s").await?;
    redis.resume()?;
    sending.write(line("orders:#42", json!(3))).await?;
    let (code, _, said) = sending.end().await?;
    assert_eq!(code, 1, "{said}");
    assert!(said.contains("4 lines: 2 published, 1 repeated, 0 refused, 1 unknown"), "{said}");
    assert!(said.contains("unknown, may or may not have been published: 1\n  line 3: Redis is away"), "{said}");
    assert_eq!(history(&redis, "orders:#42").await?, ["0", "1", "2", "3"], "each once");
    Ok(())
}

#[tokio::test]
async fn patience_ends_and_the_report_says_what_is_unknown() -> Result<()> {
    let redis = Redis::start().await?;
    let mut sending = sending(&redis, &["--patience", "1"], &[("GRIOT_REDIS__COMMAND_TIMEOUT_MS", "300")])?;
    sending.write(line("orders:#42", json!(0))).await?;
    eventually(BOUND, "it is at work", || async {
        history(&redis, "orders:#42").await.is_ok_and(|history| history == ["0"])
    })
    .await;
    redis.pause()?;
    sending.write(once("orders:#42", json!(1), "k")).await?;
    let Sending { child, input } = sending;
    let (code, _, said) = ended(child).await?;
    drop(input);
    assert!(code == 1 && said.contains("2 lines: 1 published, 0 repeated, 0 refused, 1 unknown"), "{said}");
    assert!(said.contains("  line 2: Redis is away") && said.contains("idempotency_key is safe"), "{said}");
    assert!(said.contains("stopped after line 2: Redis is away") && said.contains("for 1 s (--patience)"), "{said}");
    redis.resume()
}

#[tokio::test]
async fn a_redis_that_dies_is_waited_for() -> Result<()> {
    let mut redis = Redis::start().await?;
    let mut sending = sending(&redis, &[], &[("GRIOT_REDIS__COMMAND_TIMEOUT_MS", "300")])?;
    sending.write(line("orders:#42", json!(0))).await?;
    eventually(BOUND, "it is at work", || async {
        history(&redis, "orders:#42").await.is_ok_and(|history| history == ["0"])
    })
    .await;
    redis.kill().await?;
    sending.write(once("orders:#42", json!(1), "k")).await?;
    sending.says("waiting").await?;
    redis.start_again().await?;
    sending.write(line("orders:#42", json!(2))).await?;
    let (code, _, said) = sending.end().await?;
    assert!(code == 0 && said.contains("3 lines: 3 published"), "{said}");
    assert_eq!(history(&redis, "orders:#42").await?, ["1", "2"]);
    Ok(())
}

#[tokio::test]
async fn a_full_redis_is_waited_for_also_without_a_key() -> Result<()> {
    let redis = Redis::start().await?;
    let mut sending = sending(&redis, &[], &[])?;
    sending.write(line("orders:#42", json!(0))).await?;
    eventually(BOUND, "it is at work", || async {
        history(&redis, "orders:#42").await.is_ok_and(|history| history == ["0"])
    })
    .await;
    redis.ask("CONFIG SET maxmemory 1").await?;
    sending.write(line("orders:#42", json!(1)) + &line("orders:#42", json!(2))).await?;
    sending.says("out of memory").await?;
    redis.ask("CONFIG SET maxmemory 0").await?;
    let (code, _, said) = sending.end().await?;
    assert!(code == 0 && said.contains("3 lines: 3 published"), "{said}");
    assert_eq!(history(&redis, "orders:#42").await?, ["0", "1", "2"]);
    Ok(())
}

#[tokio::test]
async fn arguments_that_contradict_are_refused() -> Result<()> {
    let redis = Redis::start().await?;
    for (arguments, words) in [
        (&["send", "orders:#42", "{}", "--stdin"][..], "--stdin"),
        (&["send", "orders:#42"], "JSON"),
        (&["send", "orders:#42", "{}", "--print"], "--print"),
        (&["send", "orders:#42", "{}", "--patience", "9"], "--patience"),
        (&["send", "--stdin", "--patience", "200"], "at most 150"),
    ] {
        let launch = arguments.iter().fold(Launch::new("publisher"), |launch, argument| launch.arg(*argument));
        let ended = launch.env("REDIS_URL", redis.url()).run().await?;
        let said = String::from_utf8_lossy(&ended.stderr).into_owned();
        assert!(!ended.status.success() && said.contains(words), "{arguments:?}: {said}");
    }
    Ok(())
}
