use std::fs;
use std::path::Path;

use jsonwebtoken::jwk::Jwk;
use jsonwebtoken::{DecodingKey, crypto};
use serde_json::{Value, json};

use super::keys::Keys;
use super::*;

const NOW: u64 = 1_800_000_000;
const SECRET: &str = "a secret that only tests have, 32 bytes and more";

macro_rules! key {
    ($name:literal) => {
        include_str!(concat!("../../../../tests/keys/", $name, ".pem"))
    };
}

/// A signer, and the text that verifies what it signs: a secret, or a public key in PEM.
fn signer(algorithm: Algorithm) -> (EncodingKey, &'static str) {
    let pem = |made: jsonwebtoken::errors::Result<EncodingKey>| made.expect("a key");
    match algorithm {
        Algorithm::RS256 | Algorithm::RS384 | Algorithm::RS512 => {
            (pem(EncodingKey::from_rsa_pem(key!("rsa").as_bytes())), key!("rsa.pub"))
        }
        Algorithm::ES256 => (pem(EncodingKey::from_ec_pem(key!("p256").as_bytes())), key!("p256.pub")),
        Algorithm::ES384 => (pem(EncodingKey::from_ec_pem(key!("p384").as_bytes())), key!("p384.pub")),
        Algorithm::EdDSA => (pem(EncodingKey::from_ed_pem(key!("ed25519").as_bytes())), key!("ed25519.pub")),
        _ => (EncodingKey::from_secret(SECRET.as_bytes()), SECRET),
    }
}

const ALGORITHMS: [Algorithm; 9] = [
    Algorithm::HS256,
    Algorithm::HS384,
    Algorithm::HS512,
    Algorithm::RS256,
    Algorithm::RS384,
    Algorithm::RS512,
    Algorithm::ES256,
    Algorithm::ES384,
    Algorithm::EdDSA,
];

fn signed(algorithm: Algorithm, claims: &Value) -> String {
    encode(&Header::new(algorithm), claims, &signer(algorithm).0).expect("signs")
}

fn tokens(change: impl FnOnce(&mut BridgeConfig)) -> Tokens {
    let mut config = BridgeConfig::default();
    change(&mut config);
    Tokens::from_config(&config).expect("keys")
}

/// With the one key that verifies tokens of `algorithm`.
fn keyed(algorithm: Algorithm) -> Tokens {
    let key = Some(signer(algorithm).1.into());
    tokens(|config| if key_is_secret(algorithm) { config.token_secret = key } else { config.token_public_key = key })
}

fn key_is_secret(algorithm: Algorithm) -> bool {
    matches!(algorithm, Algorithm::HS256 | Algorithm::HS384 | Algorithm::HS512)
}

#[test]
fn each_algorithm_is_verified_by_its_own_key_and_by_no_other() {
    for held in ALGORITHMS {
        let tokens = keyed(held);
        for used in ALGORITHMS {
            let verified = tokens.connection(&signed(used, &json!({"sub": "42"})), NOW);
            assert_eq!(verified.is_ok(), signer(held).1 == signer(used).1, "a {used:?} token with the key of {held:?}");
        }
    }
}

#[test]
fn a_public_key_is_nobodys_secret() {
    for held in [Algorithm::RS256, Algorithm::ES256, Algorithm::EdDSA] {
        let tokens = keyed(held);
        let pem = signer(held).1;
        for secret in [pem, pem.trim_end()] {
            let key = EncodingKey::from_secret(secret.as_bytes());
            let forged = encode(&Header::new(Algorithm::HS256), &json!({"sub": "42"}), &key).expect("signs");
            assert_eq!(tokens.connection(&forged, NOW), Err(TokenError::Invalid), "{held:?}");
        }
    }
}

#[test]
fn several_keys_serve_at_once() {
    let pems = [key!("rsa-next.pub"), key!("rsa.pub"), key!("p256.pub")].concat();
    let tokens = tokens(|config| {
        config.token_secret = Some(SECRET.into());
        config.token_public_key = Some(pems.into());
    });
    for algorithm in [Algorithm::HS256, Algorithm::RS256, Algorithm::ES256] {
        assert!(tokens.connection(&signed(algorithm, &json!({"sub": "42"})), NOW).is_ok(), "{algorithm:?}");
    }
    assert!(tokens.connection(&signed(Algorithm::EdDSA, &json!({"sub": "42"})), NOW).is_err());
}

/// A token with any header.
fn with_header(header: &Value, claims: &Value) -> String {
    use base64::Engine;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD;
    let part = |json: &Value| URL_SAFE_NO_PAD.encode(json.to_string());
    let text = format!("{}.{}", part(header), part(claims));
    let signature = crypto::sign(text.as_bytes(), &EncodingKey::from_secret(SECRET.as_bytes()), Algorithm::HS256);
    format!("{text}.{}", signature.expect("signs"))
}

#[test]
fn headers_that_mean_something_else_are_refused() {
    let tokens = keyed(Algorithm::HS256);
    let claims = json!({"sub": "42"});
    assert!(tokens.connection(&with_header(&json!({"alg": "HS256"}), &claims), NOW).is_ok());
    let none = with_header(&json!({"alg": "none"}), &claims);
    let unsigned = format!("{}.", none.rsplit_once('.').expect("three parts").0);
    assert_eq!(tokens.connection(&unsigned, NOW), Err(TokenError::Invalid));
    for header in [
        json!({"alg": "none"}),
        json!({"alg": "None"}),
        json!({"alg": "ES512"}),
        json!({"alg": "HS256", "crit": ["b64"], "b64": false}),
        json!({}),
    ] {
        assert_eq!(tokens.connection(&with_header(&header, &claims), NOW), Err(TokenError::Invalid), "{header}");
    }
    let long = with_header(&json!({"alg": "HS256"}), &json!({"sub": "42", "x": "x".repeat(MAX_TOKEN_BYTES)}));
    assert_eq!(tokens.connection(&long, NOW), Err(TokenError::Invalid));
}

#[test]
fn audience_and_issuer_are_checked_if_they_are_configured() {
    let tokens = tokens(|config| {
        config.token_secret = Some(SECRET.into());
        config.token_audience = Some("shop".into());
        config.token_issuer = Some("https://login.example".into());
    });
    let verify = |claims: Value| tokens.connection(&signed(Algorithm::HS256, &claims), NOW).is_ok();
    assert!(verify(json!({"sub": "42", "aud": "shop", "iss": "https://login.example"})));
    assert!(verify(json!({"sub": "42", "aud": ["bank", "shop"], "iss": "https://login.example"})));
    assert!(!verify(json!({"sub": "42", "aud": "bank", "iss": "https://login.example"})));
    assert!(!verify(json!({"sub": "42", "aud": "shop", "iss": "https://elsewhere.example"})));
    assert!(
        !verify(json!({"sub": "42", "aud": "shop"})) && !verify(json!({"sub": "42", "iss": "https://login.example"}))
    );
    let anyone = keyed(Algorithm::HS256);
    assert!(
        anyone.connection(&signed(Algorithm::HS256, &json!({"sub": "42", "aud": "bank", "iss": "x"})), NOW).is_ok()
    );
}

#[test]
fn subscription_tokens_may_have_keys_of_their_own() {
    let grant = |algorithm| signed(algorithm, &json!({"sub": "42", "channel": "orders:room"}));
    let same = keyed(Algorithm::HS256);
    assert!(same.subscription(&grant(Algorithm::HS256), NOW).is_ok());
    let other = tokens(|config| {
        config.token_secret = Some(SECRET.into());
        config.subscription_token_public_key = Some(key!("p256.pub").into());
    });
    assert!(other.subscription(&grant(Algorithm::ES256), NOW).is_ok());
    assert_eq!(other.subscription(&grant(Algorithm::HS256), NOW), Err(TokenError::Invalid));
    assert!(other.connection(&signed(Algorithm::HS256, &json!({"sub": "42"})), NOW).is_ok());
    assert_eq!(other.connection(&signed(Algorithm::ES256, &json!({"sub": "42"})), NOW), Err(TokenError::Invalid));
}

fn jwk(key: &EncodingKey, algorithm: Algorithm, id: &str) -> Value {
    let mut jwk = Jwk::from_encoding_key(key, algorithm).expect("a key");
    jwk.common.key_id = Some(id.into());
    serde_json::to_value(jwk).expect("JSON")
}

fn header(algorithm: Algorithm, id: Option<&str>) -> Header {
    Header { kid: id.map(str::to_owned), ..Header::new(algorithm) }
}

#[test]
fn a_key_set_is_searched_by_key_id() {
    let keys: Vec<Value> = [Algorithm::RS256, Algorithm::ES256, Algorithm::ES384, Algorithm::EdDSA]
        .map(|algorithm| jwk(&signer(algorithm).0, algorithm, &format!("{algorithm:?}")))
        .into();
    let set = Keys::set(json!({ "keys": keys }).to_string().as_bytes()).expect("a set");
    let found = |algorithm, id| set.fitting(&header(algorithm, id)).map(|keys| keys.len());
    assert_eq!([found(Algorithm::RS256, Some("RS256")), found(Algorithm::EdDSA, Some("EdDSA"))], [Ok(1), Ok(1)]);
    assert_eq!(found(Algorithm::RS512, Some("RS256")), Ok(0), "the set permits RS256 alone");
    assert_eq!(found(Algorithm::ES256, Some("RS256")), Ok(0));
    assert_eq!(found(Algorithm::RS256, Some("another")), Err(TokenError::UnknownKey));
    assert_eq!(found(Algorithm::RS256, None), Err(TokenError::Invalid), "nothing to look for");
    assert_eq!(found(Algorithm::HS256, Some("another")), Ok(0), "no fetch brings a secret");
}

#[test]
fn what_a_key_set_may_not_do_is_left_out() {
    let (rsa, _) = signer(Algorithm::RS256);
    let mut encrypting = jwk(&rsa, Algorithm::RS256, "enc");
    encrypting["use"] = json!("enc");
    let good = jwk(&rsa, Algorithm::RS256, "good");
    let symmetric =
        json!({"kty": "oct", "kid": "oct", "alg": "HS256", "k": "c2VjcmV0LXNlY3JldC1zZWNyZXQtc2VjcmV0LXNlY3JldA"});
    let broken = json!({"kty": "EC", "kid": "broken", "crv": "P-256", "x": "AAAA", "y": "AAAA"});
    let keys = [encrypting, symmetric, broken, json!({"kty": "new", "kid": "new"}), json!(7), good];
    let set = Keys::set(json!({ "keys": keys }).to_string().as_bytes()).expect("a set");
    assert_eq!(set.fitting(&header(Algorithm::HS256, Some("oct"))).map(|keys| keys.len()), Ok(0));
    for id in ["enc", "broken", "new"] {
        assert_eq!(set.fitting(&header(Algorithm::RS256, Some(id))).err(), Some(TokenError::UnknownKey), "{id}");
    }
    assert_eq!(set.fitting(&header(Algorithm::RS256, Some("good"))).map(|keys| keys.len()), Ok(1));
    let many = vec![jwk(&rsa, Algorithm::RS256, "k"); 65];
    for refused in [json!({"keys": []}), json!({}), json!([]), json!({ "keys": many })] {
        assert!(Keys::set(refused.to_string().as_bytes()).is_err());
    }
}

#[test]
fn keys_that_a_token_brings_along_are_not_used() {
    let (mine, _) = signer(Algorithm::ES256);
    let set = json!({"keys": [jwk(&signer(Algorithm::RS256).0, Algorithm::RS256, "rsa")]}).to_string();
    let forged = Header {
        jku: Some("http://127.0.0.1:1/keys".into()),
        x5u: Some("http://127.0.0.1:1/chain".into()),
        jwk: serde_json::from_value(jwk(&mine, Algorithm::ES256, "rsa")).ok(),
        ..header(Algorithm::ES256, Some("rsa"))
    };
    let fitting = Keys::set(set.as_bytes()).expect("a set").fitting(&forged).map(|keys| keys.len());
    assert_eq!(fitting, Ok(0));
    let fixed = Keys::fixed(&[], &[key!("p256.pub")]).expect("a key");
    let theirs = DecodingKey::from_ec_pem(key!("p256.pub").as_bytes()).expect("a key");
    let used: Vec<_> = fixed.fitting(&forged).expect("keys").iter().map(|key| key.try_get_as_bytes().ok()).collect();
    assert_eq!(used, [theirs.try_get_as_bytes().ok()]);
}

/// A folder of the test's own.
fn folder(name: &str) -> std::path::PathBuf {
    let folder = std::env::temp_dir().join(format!("griot-token-{name}-{}", uuid::Uuid::new_v4()));
    fs::create_dir(&folder).expect("a folder");
    folder
}

fn write(file: &Path, text: &str) {
    fs::write(file, text).expect("written");
}

#[test]
fn files_that_change_change_the_keys_and_bad_ones_do_not() {
    let folder = folder("rotation");
    let (secret, previous, public) = (folder.join("secret"), folder.join("previous"), folder.join("public.pem"));
    let (first, second) = ("1".repeat(32), "2".repeat(32));
    write(&secret, &first);
    write(&previous, &"0".repeat(32));
    write(&public, key!("rsa.pub"));
    let tokens = tokens(|config| {
        config.token_secret_file = Some(secret.clone());
        config.token_previous_secret_file = Some(previous.clone());
        config.token_public_key_file = Some(public.clone());
    });
    let by = |secret: &str| {
        let key = EncodingKey::from_secret(secret.as_bytes());
        let token = encode(&Header::new(Algorithm::HS256), &json!({"sub": "42"}), &key).expect("signs");
        tokens.connection(&token, NOW).is_ok()
    };
    let ring = &tokens.connections;
    assert_eq!((by(&first), by(&second), ring.look()), (true, false, Looked::Unchanged));
    write(&secret, &format!("{second}\n"));
    write(&previous, &first);
    assert_eq!(ring.look(), Looked::Replaced);
    assert_eq!((by(&first), by(&second), by(&"0".repeat(32))), (true, true, false), "the one before still verifies");
    for bad in ["short", "", key!("rsa")] {
        let file = if bad == key!("rsa") { &public } else { &secret };
        write(file, bad);
        assert!(matches!(ring.look(), Looked::Refused(_)), "{bad:?}");
        assert_eq!(ring.look(), Looked::Unchanged, "and it is complained of once");
        assert!(by(&second) && tokens.connection(&signed(Algorithm::RS256, &json!({"sub": "42"})), NOW).is_ok());
        write(&secret, &second);
        write(&public, key!("rsa.pub"));
        ring.look();
    }
    write(&public, key!("p256.pub"));
    assert_eq!(ring.look(), Looked::Replaced);
    assert!(tokens.connection(&signed(Algorithm::RS256, &json!({"sub": "42"})), NOW).is_err());
    assert!(tokens.connection(&signed(Algorithm::ES256, &json!({"sub": "42"})), NOW).is_ok());
    fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn keys_that_cannot_work_are_refused_with_a_way_out() {
    let error = |change: &dyn Fn(&mut BridgeConfig)| {
        let mut config = BridgeConfig::default();
        change(&mut config);
        Tokens::from_config(&config).err().map(|error| error.to_string()).unwrap_or_default()
    };
    let public = |pem: &'static str| error(&|config| config.token_public_key = Some(pem.into()));
    assert!(error(&|_| {}).contains("TOKEN_SECRET"));
    assert!(error(&|config| config.token_secret = Some("secret".into())).contains("32"));
    assert!(public(key!("rsa")).contains("-pubout"), "a private key");
    assert!(public(key!("rsa-short.pub")).contains("2048"));
    assert!(public(key!("p521.pub")).contains("P-384"));
    assert!(public("no key").contains("BEGIN PUBLIC KEY"));
    for url in ["ftp://login.example/keys", "login.example", "http://", "https://user:word@login.example/"] {
        assert!(error(&|config| config.token_jwks_url = Some(url.into())).contains("token_jwks_url"), "{url}");
    }
    let dotted = error(&|config| {
        config.token_secret = Some(SECRET.into());
        config.token_user_id_claim = Some("a.b".into());
    });
    assert!(dotted.contains("token_user_id_claim"));
    let insecure = tokens(|config| {
        config.insecure = true;
        config.token_secret = Some("secret".into());
    });
    let key = EncodingKey::from_secret(b"secret");
    let token = encode(&Header::new(Algorithm::HS256), &json!({"sub": "42"}), &key).expect("signs");
    assert!(insecure.connection(&token, NOW).is_ok());
    assert_eq!(insecure.connection(&signed(Algorithm::HS256, &json!({"sub": "42"})), NOW), Err(TokenError::Invalid));
}

#[test]
fn what_is_signed_here_is_verified_here() {
    let tokens = keyed(Algorithm::HS256);
    let user = UserId::parse("42").expect("user");
    let token = tokens.sign(&user, NOW, 60).expect("signs");
    let identity = tokens.connection(&token, NOW + 59).expect("valid");
    assert_eq!((identity.user, identity.expires_at), (Some(user.clone()), Some(NOW + 60)));
    assert_eq!(tokens.connection(&token, NOW + 60), Err(TokenError::Expired), "no leeway");
    assert!(keyed(Algorithm::RS256).sign(&user, NOW, 60).is_err());
}
