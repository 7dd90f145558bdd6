//! Signing in with every kind of key: secrets and public keys in files that change, and a key set at an address.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use axum::extract::State;
use axum::{Json, Router, routing};
use futures::future::join_all;
use griot_tests::bridge::{LoneBridge, SECRET};
use griot_tests::client::{Client, closed};
use griot_tests::eventually::eventually;
use griot_tests::process::Launch;
use griot_tests::servers::shared;
use griot_tests::token;
use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{Algorithm, EncodingKey, Header, encode};
use serde_json::{Value, json};
use tokio_util::task::AbortOnDropHandle;

const SOON: Duration = Duration::from_secs(30);

async fn bridge(settings: &str) -> Result<LoneBridge> {
    LoneBridge::start(&shared().await.redis.url(), settings).await
}

fn key_file(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("keys").join(name)
}

fn private_key(name: &str) -> Result<EncodingKey> {
    let pem = std::fs::read(key_file(&format!("{name}.pem")))?;
    Ok(match name {
        "ed25519" => EncodingKey::from_ed_pem(&pem)?,
        "p256" | "p384" => EncodingKey::from_ec_pem(&pem)?,
        _ => EncodingKey::from_rsa_pem(&pem)?,
    })
}

fn signed(header: &Header, key: &EncodingKey) -> Result<String> {
    let now = token::unix_seconds();
    Ok(encode(header, &json!({"sub": "42", "exp": now + 3_600}), key)?)
}

/// A token of the key `id` in a set.
fn of_set(algorithm: Algorithm, key: &EncodingKey, id: &str) -> Result<String> {
    signed(&Header { kid: Some(id.into()), ..Header::new(algorithm) }, key)
}

/// The code with which the bridge turns the token away, or 0.
async fn refusal(bridge: &LoneBridge, token: &str) -> u16 {
    match Client::connect(&bridge.socket(), token).await {
        Ok(_) => 0,
        Err(error) => closed(&error).map_or(1, |closed| closed.code),
    }
}

#[tokio::test]
async fn each_family_of_algorithms_signs_in() -> Result<()> {
    let folder = tempfile()?;
    let names = [
        ("rsa", Algorithm::RS256),
        ("rsa", Algorithm::RS512),
        ("p256", Algorithm::ES256),
        ("p384", Algorithm::ES384),
        ("ed25519", Algorithm::EdDSA),
    ];
    let mut pems = String::new();
    for name in ["rsa", "p256", "p384", "ed25519"] {
        pems.push_str(&std::fs::read_to_string(key_file(&format!("{name}.pub.pem")))?);
    }
    let file = folder.join("public.pem");
    std::fs::write(&file, &pems)?;
    let bridge = bridge(&format!("token_public_key_file = {file:?}")).await?;
    for (name, algorithm) in names {
        let token = signed(&Header::new(algorithm), &private_key(name)?)?;
        assert_eq!(refusal(&bridge, &token).await, 0, "{algorithm:?}");
    }
    for algorithm in [Algorithm::HS256, Algorithm::HS384, Algorithm::HS512] {
        let token = signed(&Header::new(algorithm), &EncodingKey::from_secret(SECRET.as_bytes()))?;
        assert_eq!(refusal(&bridge, &token).await, 0, "{algorithm:?}");
        let confused = signed(&Header::new(algorithm), &EncodingKey::from_secret(pems.as_bytes()))?;
        assert_eq!(refusal(&bridge, &confused).await, 3500, "{algorithm:?} with the public keys as a secret");
    }
    let stranger = signed(&Header::new(Algorithm::RS256), &private_key("rsa-next")?)?;
    assert_eq!(refusal(&bridge, &stranger).await, 3500);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

#[tokio::test]
async fn a_key_file_that_is_replaced_counts_without_a_restart() -> Result<()> {
    let folder = tempfile()?;
    let file = folder.join("public.pem");
    std::fs::copy(key_file("rsa.pub.pem"), &file)?;
    let bridge = bridge(&format!("token_public_key_file = {file:?}")).await?;
    let (old, new) = (Header::new(Algorithm::RS256), Header::new(Algorithm::RS256));
    let (old, new) = (signed(&old, &private_key("rsa")?)?, signed(&new, &private_key("rsa-next")?)?);
    assert_eq!((refusal(&bridge, &old).await, refusal(&bridge, &new).await), (0, 3500));
    std::fs::write(&file, "half a file")?;
    bridge.process.line("token keys stay as they were").await?;
    assert_eq!(refusal(&bridge, &old).await, 0);
    std::fs::copy(key_file("rsa-next.pub.pem"), &file)?;
    eventually(SOON, "the new key", async || refusal(&bridge, &new).await == 0).await;
    assert_eq!(refusal(&bridge, &old).await, 3500);
    std::fs::remove_dir_all(folder)?;
    Ok(())
}

fn tempfile() -> Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!("griot-tokens-{}", uuid::Uuid::new_v4()));
    std::fs::create_dir(&folder)?;
    Ok(folder)
}

/// An issuer's server: the key set, and how often it was fetched.
#[derive(Clone, Default)]
struct Issuer {
    set: Arc<Mutex<Value>>,
    fetches: Arc<AtomicUsize>,
}

impl Issuer {
    async fn start(self) -> Result<(SocketAddr, AbortOnDropHandle<()>)> {
        let fetched = async |State(issuer): State<Self>| {
            issuer.fetches.fetch_add(1, Ordering::Relaxed);
            let set = issuer.set.lock().expect("not poisoned").clone();
            Json(set)
        };
        let router = Router::new().route("/keys", routing::get(fetched)).with_state(self);
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
        let addr = listener.local_addr()?;
        let server = tokio_util::task::TaskTracker::new().spawn(async move {
            axum::serve(listener, router).await.ok();
        });
        Ok((addr, AbortOnDropHandle::new(server)))
    }

    fn publish(&self, keys: &[(&str, &str, Algorithm)]) -> Result<()> {
        let mut set = Vec::new();
        for (id, name, algorithm) in keys {
            let mut jwk = Jwk::from_encoding_key(&private_key(name)?, *algorithm)?;
            jwk.common.key_id = Some((*id).to_owned());
            set.push(jwk);
        }
        *self.set.lock().ok().context("poisoned")? = json!({ "keys": set });
        Ok(())
    }

    fn fetches(&self) -> usize {
        self.fetches.load(Ordering::Relaxed)
    }
}

#[tokio::test]
async fn a_key_set_is_fetched_again_for_a_new_key_and_not_for_every_invented_one() -> Result<()> {
    let issuer = Issuer::default();
    issuer.publish(&[("1", "rsa", Algorithm::RS256), ("e", "ed25519", Algorithm::EdDSA)])?;
    let (addr, _server) = issuer.clone().start().await?;
    let bridge = bridge(&format!("token_jwks_url = \"http://{addr}/keys\"")).await?;
    let (first, second) = (private_key("rsa")?, private_key("p256")?);
    assert_eq!(refusal(&bridge, &of_set(Algorithm::RS256, &first, "1")?).await, 0);
    assert_eq!(refusal(&bridge, &of_set(Algorithm::EdDSA, &private_key("ed25519")?, "e")?).await, 0);
    assert_eq!(refusal(&bridge, &token::token(SECRET, "42")).await, 3500, "the set replaces the secret");
    assert_eq!(refusal(&bridge, &signed(&Header::new(Algorithm::RS256), &first)?).await, 3500, "no key id");

    issuer.publish(&[("2", "p256", Algorithm::ES256)])?;
    assert_eq!(refusal(&bridge, &of_set(Algorithm::ES256, &second, "2")?).await, 0, "fetched because it was not known");
    assert_eq!(refusal(&bridge, &of_set(Algorithm::RS256, &first, "1")?).await, 3500, "taken out of the set");

    let before = issuer.fetches();
    let mut invented = Vec::new();
    for n in 0..50 {
        invented.push(of_set(Algorithm::ES256, &second, &format!("invented-{n}"))?);
    }
    let refusals = join_all(invented.iter().map(|token| refusal(&bridge, token))).await;
    assert_eq!(refusals, vec![3500; invented.len()]);
    let caused = issuer.fetches() - before;
    assert!(caused * 5 <= invented.len(), "{caused} fetches for {} invented keys", invented.len());
    Ok(())
}

#[tokio::test]
async fn keys_at_addresses_that_a_token_names_are_not_fetched() -> Result<()> {
    let (issuer, stranger) = (Issuer::default(), Issuer::default());
    issuer.publish(&[("1", "rsa", Algorithm::RS256)])?;
    stranger.publish(&[("theirs", "p256", Algorithm::ES256), ("1", "rsa-next", Algorithm::RS256)])?;
    let (addr, _server) = issuer.clone().start().await?;
    let (strange, _other_server) = stranger.clone().start().await?;
    let bridge = bridge(&format!("token_jwks_url = \"http://{addr}/keys\"")).await?;
    let named = Some(format!("http://{strange}/keys"));
    for (id, name, algorithm) in [("theirs", "p256", Algorithm::ES256), ("1", "rsa-next", Algorithm::RS256)] {
        let key = private_key(name)?;
        let header = Header {
            kid: Some(id.into()),
            jku: named.clone(),
            x5u: named.clone(),
            jwk: Some(Jwk::from_encoding_key(&key, algorithm)?),
            ..Header::new(algorithm)
        };
        assert_eq!(refusal(&bridge, &signed(&header, &key)?).await, 3500, "{id}");
    }
    assert_eq!(stranger.fetches(), 0);
    assert!(issuer.fetches() > 0);
    Ok(())
}

#[tokio::test]
async fn while_the_issuer_is_away_clients_are_asked_to_come_back() -> Result<()> {
    let away = griot_tests::servers::free_addr()?;
    let bridge = bridge(&format!("token_jwks_url = \"http://{away}/keys\"")).await?;
    let token = of_set(Algorithm::RS256, &private_key("rsa")?, "1")?;
    assert_eq!(refusal(&bridge, &token).await, 3004);
    assert!(bridge.metric("griot_token_keys_total{reason=\"not fetched\"}").await? >= 1.0);
    Ok(())
}

#[tokio::test]
async fn clients_beyond_what_can_be_verified_in_time_are_asked_to_come_back() -> Result<()> {
    let public = key_file("rsa.pub.pem");
    let bridge = bridge(&format!("max_verifications_per_second = 1\ntoken_public_key_file = {public:?}")).await?;
    let token = token::token(SECRET, "42");
    let refusals = join_all((0..20).map(|_| refusal(&bridge, &token))).await;
    let signed_in = refusals.iter().filter(|code| **code == 0).count();
    assert!(signed_in >= 1, "{refusals:?}");
    assert!(refusals.contains(&3013) && refusals.iter().all(|code| matches!(code, 0 | 3013)), "{refusals:?}");
    Ok(())
}

#[tokio::test]
async fn an_insecure_bridge_is_for_this_machine_alone() -> Result<()> {
    let refused = Launch::new("subscriber-bridge")
        .arg("--check-config")
        .env("GRIOT_SUBSCRIBER_BRIDGE__INSECURE", "true")
        .env("GRIOT_SUBSCRIBER_BRIDGE__LISTEN", "0.0.0.0:8000");
    let refused = refused.run().await?;
    let error = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert!(!refused.status.success() && error.contains("insecure"), "{error}");
    let bridge = bridge("insecure = true").await?;
    bridge.process.line("insecure = true").await?;
    let forged = token::token("another secret of at least 32 bytes, really", "42");
    assert_eq!(refusal(&bridge, &forged).await, 3500, "tokens that are sent are verified all the same");
    Ok(())
}
