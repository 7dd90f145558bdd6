//! Browsers over TLS: everything as without, and a certificate that is replaced while they are connected.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use fanout_core::{Channel, Data, Publication};
use futures::{SinkExt, StreamExt};
use griot_tests::bridge::{LoneBridge, SECRET, publisher};
use griot_tests::eventually::eventually;
use griot_tests::process::Launch;
use griot_tests::servers::{free_addr, shared};
use griot_tests::supervisor::TemporaryFolder;
use griot_tests::token;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::Message;

const SOON: Duration = Duration::from_secs(20);

fn key_file(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("keys").join(name)
}

/// A bridge with a certificate in a folder of its own.
struct Secured {
    bridge: LoneBridge,
    folder: TemporaryFolder,
}

impl Secured {
    async fn start(settings: &str) -> Result<Self> {
        let folder = TemporaryFolder::new()?;
        let secured = |name: &str| folder.path().join(name).display().to_string();
        let settings = format!(
            "tls_certificate_file = {:?}\ntls_key_file = {:?}\n{settings}",
            secured("certificate.pem"),
            secured("key.pem")
        );
        install(&folder, "server.pem", "server-key.pem")?;
        let bridge = LoneBridge::start(&shared().await.redis.url(), &settings).await?;
        Ok(Self { bridge, folder })
    }

    /// A connection that trusts the issuers of both certificates.
    async fn connect(&self) -> Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        for ca in ["ca.pem", "renewed-ca.pem"] {
            roots.add(CertificateDer::from_pem_file(key_file(ca))?)?;
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let connector = TlsConnector::from(Arc::new(config.with_root_certificates(roots).with_no_client_auth()));
        let socket = TcpStream::connect(self.bridge.addr()).await?;
        let name = ServerName::try_from("127.0.0.1")?;
        Ok(timeout(SOON, connector.connect(name, socket)).await.context("no handshake")??)
    }

    /// Whether new connections get this certificate.
    async fn presents(&self, name: &str) -> Result<bool> {
        let expected = CertificateDer::from_pem_file(key_file(name))?;
        let stream = self.connect().await?;
        Ok(stream.get_ref().1.peer_certificates().is_some_and(|chain| chain[0] == expected))
    }

    async fn client(&self, user: &str) -> Result<Client> {
        let url = format!("wss://{}/connection/websocket", self.bridge.addr());
        let (socket, _) = tokio_tungstenite::client_async(url, self.connect().await?).await?;
        let mut client = Client(socket);
        client.send(&json!({"id": 1, "connect": {"token": token::token(SECRET, user)}})).await?;
        let connected = client.next().await?;
        ensure!(connected["connect"]["client"].is_string(), "{connected}");
        Ok(client)
    }

    async fn counted(&self, what: &str) -> bool {
        let name = format!("griot_certificates_total{{reason=\"{what}\"}}");
        self.bridge.metric(&name).await.is_ok_and(|count| count == 1.0)
    }
}

fn install(folder: &TemporaryFolder, certificate: &str, key: &str) -> Result<()> {
    // A certificate without its key must not be seen: the key goes first, and each file is replaced as a whole.
    for (from, to) in [(key, "key.pem"), (certificate, "certificate.pem")] {
        let new = folder.path().join("new");
        std::fs::copy(key_file(from), &new)?;
        std::fs::rename(new, folder.path().join(to))?;
    }
    Ok(())
}

struct Client(WebSocketStream<TlsStream<TcpStream>>);

impl Client {
    async fn send(&mut self, command: &Value) -> Result<()> {
        Ok(self.0.send(Message::text(command.to_string())).await?)
    }

    async fn next(&mut self) -> Result<Value> {
        let message = timeout(SOON, self.0.next()).await.context("nothing comes")?.context("it ended")??;
        Ok(serde_json::from_slice(&message.into_data())?)
    }
}

fn unique(user: &str) -> String {
    format!("{user}-{}", uuid::Uuid::new_v4().simple())
}

async fn order(user: &str, data: String) -> Result<()> {
    let publication = Publication::new(Channel::parse(&format!("orders:#{user}"))?, Data::parse(data)?);
    publisher(&shared().await.redis.url())?.publish(publication).await?;
    Ok(())
}

#[tokio::test]
async fn publications_of_any_size_arrive_over_tls_in_order_and_the_close_is_clean() -> Result<()> {
    let secured = Secured::start("").await?;
    let user = unique("u");
    let mut client = secured.client(&user).await?;
    for size in [1, 10_000, 60_000, 1] {
        order(&user, json!({"size": size, "data": "x".repeat(size)}).to_string()).await?;
    }
    for size in [1, 10_000, 60_000, 1] {
        let push = client.next().await?;
        assert_eq!(push["push"]["pub"]["data"]["size"], size);
    }
    client.0.send(Message::Ping("are you there".into())).await?;
    let pong = timeout(SOON, client.0.next()).await?.context("it ended")??;
    assert_eq!(pong, Message::Pong("are you there".into()));
    client.0.close(None).await?;
    // A stream without close_notify would end with an error: what was cut off looks like the end otherwise.
    while let Some(message) = timeout(SOON, client.0.next()).await? {
        assert!(message?.is_close());
    }
    let mut rest = Vec::new();
    timeout(SOON, client.0.get_mut().read_to_end(&mut rest)).await??;
    assert!(rest.is_empty());
    Ok(())
}

#[tokio::test]
async fn a_replaced_certificate_counts_for_new_connections_and_a_bad_one_for_none() -> Result<()> {
    let secured = Secured::start("").await?;
    let user = unique("u");
    let mut client = secured.client(&user).await?;
    ensure!(secured.presents("server.pem").await?);

    std::fs::write(secured.folder.path().join("certificate.pem"), "no certificate")?;
    eventually(SOON, "the bad file was seen", || secured.counted("refused")).await;
    secured.bridge.process.line("holds no certificate in PEM").await?;
    ensure!(secured.presents("server.pem").await?, "the old one stays");

    install(&secured.folder, "renewed.pem", "renewed-key.pem")?;
    eventually(SOON, "the new certificate was seen", || secured.counted("replaced")).await;
    ensure!(secured.presents("renewed.pem").await?);
    secured.client(&unique("u")).await?;

    order(&user, json!({"after": "renewal"}).to_string()).await?;
    assert_eq!(client.next().await?["push"]["pub"]["data"]["after"], "renewal", "an open connection stays");
    Ok(())
}

#[tokio::test]
async fn handshakes_of_tls_come_to_an_end() -> Result<()> {
    let secured = Secured::start("stale_seconds = 1").await?;
    let mut silent = TcpStream::connect(secured.bridge.addr()).await?;
    let ended = timeout(SOON, silent.read_to_end(&mut Vec::new())).await;
    ended.context("a silent peer is held for ever")??;
    let plain = secured.bridge.client("42").await;
    ensure!(plain.is_err(), "it speaks TLS only");
    for reason in ["no TLS in time", "no TLS"] {
        let name = format!("griot_handshakes_refused_total{{reason=\"{reason}\"}}");
        assert_eq!(secured.bridge.metric(&name).await?, 1.0, "{reason}");
    }
    Ok(())
}

#[tokio::test]
async fn a_certificate_without_its_key_is_refused_at_the_start() -> Result<()> {
    let check = |settings: String| async move {
        let folder = TemporaryFolder::new()?;
        let file = folder.path().join("bridge.toml");
        let listen = free_addr()?;
        let config = format!("[subscriber_bridge]\nlisten = \"{listen}\"\ntoken_secret = {SECRET:?}\n{settings}\n");
        std::fs::write(&file, config)?;
        let launch = Launch::new("subscriber-bridge").arg("--check-config").arg("--config");
        let ended = launch.arg(file.display().to_string()).run().await?;
        anyhow::Ok((ended.status.success(), String::from_utf8_lossy(&ended.stderr).into_owned()))
    };
    let pem = |name: &str| key_file(name).display().to_string();
    let pair = |certificate: &str, key: &str| {
        format!("tls_certificate_file = {:?}\ntls_key_file = {:?}", pem(certificate), pem(key))
    };
    let (good, said) = check(pair("server.pem", "server-key.pem")).await?;
    ensure!(good, "{said}");
    for (settings, words) in [
        (format!("tls_certificate_file = {:?}", pem("server.pem")), "give both, or none"),
        (pair("server.pem", "renewed-key.pem"), "is not the key of the first certificate"),
        (pair("server-key.pem", "server-key.pem"), "holds no certificate in PEM"),
        (pair("server.pem", "server.pem"), "holds no private key in PEM"),
        (pair("nowhere.pem", "server-key.pem"), "nowhere.pem"),
    ] {
        let (good, said) = check(settings).await?;
        ensure!(!good && said.contains(words), "{words}: {said}");
    }
    Ok(())
}
