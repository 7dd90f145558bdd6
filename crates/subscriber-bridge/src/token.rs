//! Connection tokens: JWT, signed with HS256.

use fanout_core::UserId;
use fanout_core::config::ConfigError;
use jsonwebtoken::errors::ErrorKind;
use jsonwebtoken::{Algorithm, DecodingKey, EncodingKey, Header, Validation, decode, encode};
use secrecy::{ExposeSecret, SecretString};
use serde::{Deserialize, Serialize};

/// RFC 7518 §3.2: a key for HS256 is at least as long as its hash.
pub const MIN_SECRET_BYTES: usize = 32;
/// Times further away than a year are cut to it, so that clients' timers do not overflow.
const MAX_TTL: u64 = 365 * 24 * 3600;

/// What a valid token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who it is.
    pub user: UserId,
    /// Unix seconds until which the connection may live.
    pub expires_at: Option<u64>,
}

/// Why a token was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TokenError {
    /// `exp` has passed, or `nbf` has not come: the client fetches another one.
    Expired,
    /// Anything else. What exactly is not told to strangers.
    Invalid,
}

#[derive(Debug, Serialize, Deserialize)]
struct Claims {
    sub: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    exp: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    nbf: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    iat: Option<u64>,
    /// Present in subscription tokens only, which sign nobody in.
    #[serde(skip_serializing_if = "Option::is_none")]
    channel: Option<serde_json::Value>,
}

/// Verifies and makes tokens with one secret.
pub struct Tokens {
    verifying: DecodingKey,
    signing: EncodingKey,
    validation: Validation,
}

impl Tokens {
    /// With `secret`, which the application's backend has too.
    ///
    /// # Errors
    /// The secret is missing or too short; the text says how to give one.
    pub fn new(secret: Option<&SecretString>) -> Result<Self, ConfigError> {
        let Some(secret) = secret else {
            return Err(ConfigError(
                "no token secret: give the one with which your backend signs tokens, as token_secret_file in \
                 [subscriber_bridge] or in the environment as GRIOT_SUBSCRIBER_BRIDGE__TOKEN_SECRET (make one with \
                 `openssl rand -hex 32`)"
                    .into(),
            ));
        };
        let secret = secret.expose_secret().as_bytes();
        if secret.len() < MIN_SECRET_BYTES {
            return Err(ConfigError(format!(
                "the token secret is {} bytes, HS256 needs at least {MIN_SECRET_BYTES}: make one with `openssl rand -hex 32`",
                secret.len()
            )));
        }
        let mut validation = Validation::new(Algorithm::HS256);
        // The times are compared below with the clock that the caller gives.
        validation.validate_exp = false;
        validation.validate_aud = false;
        validation.required_spec_claims.clear();
        Ok(Self { verifying: DecodingKey::from_secret(secret), signing: EncodingKey::from_secret(secret), validation })
    }

    /// Whom `token` names, at `now` in Unix seconds. There is no leeway.
    ///
    /// # Errors
    /// See [`TokenError`].
    pub fn verify(&self, token: &str, now: u64) -> Result<Identity, TokenError> {
        let claims =
            decode::<Claims>(token, &self.verifying, &self.validation).map_err(|error| match error.kind() {
                ErrorKind::ExpiredSignature | ErrorKind::ImmatureSignature => TokenError::Expired,
                _ => TokenError::Invalid,
            })?;
        let claims = claims.claims;
        if claims.channel.is_some() {
            return Err(TokenError::Invalid);
        }
        let user = UserId::parse(&claims.sub).map_err(|_| TokenError::Invalid)?;
        if claims.exp.is_some_and(|exp| exp <= now) || claims.nbf.is_some_and(|nbf| nbf > now) {
            return Err(TokenError::Expired);
        }
        Ok(Identity { user, expires_at: claims.exp.map(|exp| exp.min(now.saturating_add(MAX_TTL))) })
    }

    /// Signs a token for `user` that is valid for `ttl` seconds from `now`.
    ///
    /// # Errors
    /// When signing fails, which the secret's checks leave no reason for.
    pub fn sign(&self, user: &UserId, now: u64, ttl: u64) -> Result<String, ConfigError> {
        let claims = Claims {
            sub: user.to_string(),
            exp: Some(now.saturating_add(ttl)),
            nbf: None,
            iat: Some(now),
            channel: None,
        };
        encode(&Header::new(Algorithm::HS256), &claims, &self.signing).map_err(|error| ConfigError(error.to_string()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: u64 = 1_800_000_000;

    fn tokens(secret: &str) -> Result<Tokens, ConfigError> {
        Tokens::new(Some(&secret.to_owned().into()))
    }

    fn signed(claims: &serde_json::Value, algorithm: Algorithm) -> String {
        encode(&Header::new(algorithm), claims, &EncodingKey::from_secret(&[b's'; 64])).expect("signs")
    }

    fn verify(claims: &serde_json::Value) -> Result<Identity, TokenError> {
        tokens(&"s".repeat(64)).expect("secret").verify(&signed(claims, Algorithm::HS256), NOW)
    }

    #[test]
    fn a_signed_token_names_its_user() {
        let tokens = tokens(&"s".repeat(32)).expect("secret");
        let user = UserId::parse("42").expect("user");
        let token = tokens.sign(&user, NOW, 60).expect("signs");
        assert_eq!(tokens.verify(&token, NOW + 59), Ok(Identity { user, expires_at: Some(NOW + 60) }));
        assert_eq!(tokens.verify(&token, NOW + 60), Err(TokenError::Expired), "no leeway");
    }

    #[test]
    fn what_is_not_quite_a_token_is_refused() {
        use serde_json::json;
        assert!(verify(&json!({"sub": "42"})).is_ok());
        assert_eq!(verify(&json!({"sub": "42", "nbf": NOW + 1})), Err(TokenError::Expired));
        for claims in [
            json!({}),
            json!({"sub": ""}),
            json!({"sub": null}),
            json!({"sub": 42}),
            json!({"sub": "4,2"}),
            json!({"sub": "a#42"}),
            json!({"sub": "4 2"}),
            json!({"sub": "42", "channel": "orders:#42"}),
            json!({"sub": "42", "exp": "soon"}),
        ] {
            assert_eq!(verify(&claims), Err(TokenError::Invalid), "{claims}");
        }
        let other = signed(&json!({"sub": "42"}), Algorithm::HS512);
        assert_eq!(tokens(&"s".repeat(64)).expect("secret").verify(&other, NOW), Err(TokenError::Invalid));
        let unsigned = "eyJhbGciOiJub25lIn0.eyJzdWIiOiI0MiJ9.";
        assert_eq!(tokens(&"s".repeat(64)).expect("secret").verify(unsigned, NOW), Err(TokenError::Invalid));
    }

    #[test]
    fn a_missing_or_short_secret_is_refused_with_a_way_out() {
        let missing = Tokens::new(None).err().expect("missing").to_string();
        let short = tokens("secret").err().expect("short").to_string();
        assert!(missing.contains("TOKEN_SECRET") && short.contains("32"), "{missing} {short}");
    }
}
