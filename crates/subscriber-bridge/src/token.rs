//! Tokens (JWT): who connects, and what the application's backend grants to whom.
//!
//! Verifying is a pure function of the token, the time and the keys of the moment. The keys change beside it: files are
//! looked at by [`Tokens::watch`], and a key set at an address is fetched by [`Tokens::learn`], which a connection awaits
//! when a token names a key that is not known yet, to verify again then.

mod claims;
mod jwks;
mod keys;
mod ring;

use std::path::PathBuf;
use std::time::Duration;

use fanout_core::config::ConfigError;
use fanout_core::telemetry::ByReason;
use fanout_core::{Shutdown, UserId};
use jsonwebtoken::{Algorithm, EncodingKey, Header, Validation, decode, decode_header, encode};
use secrecy::{ExposeSecret, SecretString};
use serde::Serialize;
use serde_json::value::RawValue;

pub use self::claims::{Grant, Identity, MAX_TOKEN_CHANNELS, Options, Overrides};
use self::ring::{Looked, Ring, Settings, Source};
use crate::config::BridgeConfig;

/// RFC 7518 §3.2: a key for HS256 is at least as long as its hash. The longer hashes gain nothing from longer keys than
/// this in practice, and backends use one secret for all.
pub const MIN_SECRET_BYTES: usize = 32;
/// Longest token. It limits everything in it too.
pub const MAX_TOKEN_BYTES: usize = 32 * 1024;
/// How often files of keys are looked at.
const LOOK_INTERVAL: Duration = Duration::from_secs(3);

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// `exp` or `expire_at` has passed, or `nbf` has not come: the client fetches another one (109).
    Expired,
    /// Its key is not in the key set that was fetched last: await [`Tokens::learn`] and verify again. Still unknown then,
    /// it is invalid.
    UnknownKey,
    /// Anything else. What exactly is not told to strangers.
    Invalid,
}

/// A key set could not be fetched; the text says why.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(pub(crate) String);

/// Verifies tokens, and signs those of the command line.
pub struct Tokens {
    connections: Ring,
    /// The keys of subscription tokens, when they are others.
    subscriptions: Option<Ring>,
    /// The claim that names the user instead of `sub`.
    user_claim: Option<String>,
    /// Everything but the algorithm, which is the key's.
    validation: Validation,
    keys_changed: ByReason,
}

impl Tokens {
    /// With one `secret`, which the application's backend has too, and nothing else.
    ///
    /// # Errors
    /// The secret is missing or too short; the text says how to give one.
    pub fn new(secret: Option<&SecretString>) -> Result<Self, ConfigError> {
        Self::from_config(&BridgeConfig { token_secret: secret.cloned(), ..BridgeConfig::default() })
    }

    /// With everything that `config` says about tokens.
    ///
    /// # Errors
    /// No key at all, one that cannot be used, or a setting that means nothing; the text names the field.
    pub fn from_config(config: &BridgeConfig) -> Result<Self, ConfigError> {
        let (connections, subscriptions) = settings(config);
        if connections.is_empty() && !config.insecure {
            return Err(ConfigError(
                "no token secret: give the one with which your backend signs tokens, as token_secret_file in \
                 [subscriber_bridge] or in the environment as GRIOT_SUBSCRIBER_BRIDGE__TOKEN_SECRET (make one with \
                 `openssl rand -hex 32`), or give token_public_key_file or token_jwks_url"
                    .into(),
            ));
        }
        let unusable =
            |claim: &&String| claim.is_empty() || !claim.bytes().all(|b| b.is_ascii_alphabetic() || b == b'_');
        if let Some(claim) = config.token_user_id_claim.as_ref().filter(unusable) {
            return Err(ConfigError(format!(
                "subscriber_bridge.token_user_id_claim = {claim:?} must consist of letters and `_`"
            )));
        }
        let ca_file = config.ca_file.as_deref();
        let subscriptions = (!subscriptions.is_empty()).then(|| Ring::new(subscriptions, ca_file)).transpose()?;
        Ok(Self {
            connections: Ring::new(connections, ca_file)?,
            subscriptions,
            user_claim: config.token_user_id_claim.clone(),
            validation: validation(config),
            keys_changed: ByReason::default(),
        })
    }

    /// Counts changes of keys in `keys_changed`.
    #[must_use]
    pub fn counted(self, keys_changed: ByReason) -> Self {
        Self { keys_changed, ..self }
    }

    /// Whom the connection token names, at `now` in Unix seconds. There is no leeway.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn connection(&self, token: &str, now: u64) -> Result<Identity, TokenError> {
        let payload = self.payload(&self.connections, token)?;
        claims::identity(payload.get(), self.user_claim.as_deref(), now)
    }

    /// What the subscription token grants, at `now` in Unix seconds. Whether that is what was asked for is said by
    /// [`Grant::fits`].
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn subscription(&self, token: &str, now: u64) -> Result<Grant, TokenError> {
        let payload = self.payload(self.subscriptions.as_ref().unwrap_or(&self.connections), token)?;
        claims::grant(payload.get(), self.user_claim.as_deref(), now)
    }

    /// The claims of a token that one of the keys has signed.
    fn payload(&self, ring: &Ring, token: &str) -> Result<Box<RawValue>, TokenError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(TokenError::Invalid);
        }
        let header = decode_header(token).map_err(|_| TokenError::Invalid)?;
        let keys = ring.keys();
        let fitting = keys.fitting(&header)?;
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let signed = fitting.into_iter().find_map(|key| decode::<Box<RawValue>>(token, key, &validation).ok());
        signed.map(|signed| signed.claims).ok_or(TokenError::Invalid)
    }

    /// Whether many connection tokens at once are worth spreading over time, as those with signatures are.
    pub fn are_costly(&self) -> bool {
        self.connections.keys().are_costly()
    }

    /// Fetches the key sets again, at most one fetch of each in two seconds however many ask; whoever asks waits for one that
    /// began after.
    ///
    /// # Errors
    /// A key set could not be fetched. That is not the client's fault: it should come back later.
    pub async fn learn(&self) -> Result<(), FetchError> {
        for ring in self.rings() {
            ring.learn(&self.keys_changed).await?;
        }
        Ok(())
    }

    /// Keeps the keys true until the ending is asked for: looks at the files, and fetches key sets that are due.
    pub async fn watch(&self, shutdown: Shutdown) {
        loop {
            for ring in self.rings() {
                self.look(ring);
                tokio::select! {
                    biased;
                    () = shutdown.requested() => return,
                    () = ring.refresh(&self.keys_changed) => {}
                }
            }
            if !shutdown.pause(LOOK_INTERVAL).await {
                return;
            }
        }
    }

    fn look(&self, ring: &Ring) {
        match ring.look() {
            Looked::Unchanged => {}
            Looked::Replaced => {
                self.keys_changed.count("replaced");
                tracing::info!("token keys were replaced by those that their files hold now");
            }
            Looked::Refused(error) => {
                self.keys_changed.count("refused");
                tracing::warn!(error, "token keys stay as they were: what their files hold now cannot be used");
            }
        }
    }

    fn rings(&self) -> impl Iterator<Item = &Ring> {
        std::iter::once(&self.connections).chain(&self.subscriptions)
    }

    /// Signs a connection token for `user` that is valid for `ttl` seconds from `now`, with the configured secret.
    ///
    /// # Errors
    /// When there is none: only the application's backend can sign then.
    pub fn sign(&self, user: &UserId, now: u64, ttl: u64) -> Result<String, ConfigError> {
        #[derive(Serialize)]
        struct Signed<'a> {
            sub: &'a str,
            exp: u64,
            iat: u64,
        }
        let secret = self.connections.signing().ok_or_else(|| {
            ConfigError("no secret to sign with: the keys only verify, and your backend signs the tokens".into())
        })?;
        let claims = Signed { sub: user.as_str(), exp: now.saturating_add(ttl), iat: now };
        let key = EncodingKey::from_secret(secret.expose_secret().as_bytes());
        encode(&Header::new(Algorithm::HS256), &claims, &key).map_err(|error| ConfigError(error.to_string()))
    }
}

/// What the library is to check: the signature, and audience and issuer if they are configured. The times are compared by
/// [`claims`] with the clock that the caller gives.
fn validation(config: &BridgeConfig) -> Validation {
    let mut validation = Validation::new(Algorithm::HS256);
    validation.validate_exp = false;
    validation.validate_aud = false;
    validation.required_spec_claims.clear();
    if let Some(audience) = &config.token_audience {
        validation.validate_aud = true;
        validation.set_audience(&[audience]);
        validation.required_spec_claims.insert("aud".into());
    }
    if let Some(issuer) = &config.token_issuer {
        validation.set_issuer(&[issuer]);
        validation.required_spec_claims.insert("iss".into());
    }
    validation
}

/// Where the keys of connection tokens and those of subscription tokens come from.
fn settings(config: &BridgeConfig) -> (Settings, Settings) {
    let source = |field: &str, value: &Option<SecretString>, file: &Option<PathBuf>| {
        Source::new(format!("subscriber_bridge.{field}"), value.as_ref(), file.as_ref())
    };
    let c = config;
    let connections = Settings {
        secret: source("token_secret", &c.token_secret, &c.token_secret_file),
        previous_secret: source("token_previous_secret", &c.token_previous_secret, &c.token_previous_secret_file),
        public_key: source("token_public_key", &c.token_public_key, &c.token_public_key_file),
        jwks_url: ("subscriber_bridge.token_jwks_url".into(), c.token_jwks_url.clone()),
        insecure: c.insecure,
    };
    let subscriptions = Settings {
        secret: source("subscription_token_secret", &c.subscription_token_secret, &c.subscription_token_secret_file),
        previous_secret: source(
            "subscription_token_previous_secret",
            &c.subscription_token_previous_secret,
            &c.subscription_token_previous_secret_file,
        ),
        public_key: source(
            "subscription_token_public_key",
            &c.subscription_token_public_key,
            &c.subscription_token_public_key_file,
        ),
        jwks_url: ("subscriber_bridge.subscription_token_jwks_url".into(), c.subscription_token_jwks_url.clone()),
        insecure: c.insecure,
    };
    (connections, subscriptions)
}

#[cfg(test)]
mod tests;
