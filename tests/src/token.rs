//! Connection tokens, as an application's backend would sign them.

use std::time::{SystemTime, UNIX_EPOCH};

use jsonwebtoken::{EncodingKey, Header};
use serde_json::{Value, json};

/// A connection token for `user` that is valid for an hour.
#[must_use]
pub fn token(secret: &str, user: &str) -> String {
    let now = unix_seconds();
    sign(secret, &json!({ "sub": user, "iat": now, "exp": now + 3_600 }))
}

/// A token with any claims, by HS256.
///
/// # Panics
///
/// When the claims cannot be signed, which no JSON object can cause.
#[must_use]
pub fn sign(secret: &str, claims: &Value) -> String {
    jsonwebtoken::encode(&Header::default(), claims, &EncodingKey::from_secret(secret.as_bytes()))
        .expect("a JSON object and a secret are all that HS256 needs")
}

/// Now, as `iat`, `nbf` and `exp` count it.
#[must_use]
pub fn unix_seconds() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs())
}

#[cfg(test)]
mod tests {
    use jsonwebtoken::{Algorithm, DecodingKey, Validation};

    use super::*;

    #[test]
    fn a_token_holds_its_user_and_fits_its_secret_only() {
        let token = token("a secret of at least 32 characters", "42");
        let mut validation = Validation::new(Algorithm::HS256);
        validation.leeway = 0;
        let decode = |secret: &str| {
            jsonwebtoken::decode::<Value>(&token, &DecodingKey::from_secret(secret.as_bytes()), &validation)
        };
        assert_eq!(decode("a secret of at least 32 characters").unwrap().claims["sub"], "42");
        assert!(decode("another secret of 32 characters or so").is_err());
    }
}
