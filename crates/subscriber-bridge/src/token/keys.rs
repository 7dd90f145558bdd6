//! The keys that verify tokens at one moment: made from secrets, PEM texts and key sets (JWKS), and looked up by what a
//! token's header says. Pure.
//!
//! Each key serves the algorithms of its own kind and no others, so that a public key, which everybody may know, never
//! becomes the secret of an HS256 token.

use jsonwebtoken::jwk::{AlgorithmParameters, EllipticCurve, Jwk, PublicKeyUse};
use jsonwebtoken::{Algorithm, DecodingKey, DecodingKeyKind, Header, crypto};
use serde::Deserialize;
use serde_json::value::RawValue;

use super::TokenError;

/// Most keys of a set.
const MAX_SET_KEYS: usize = 64;
/// Most keys of a configuration, each of which may be tried on a token; a rotation needs two.
const MAX_FIXED_KEYS: usize = 8;
/// Longest key id.
const MAX_KEY_ID_BYTES: usize = 256;
/// RFC 7518 §3.3: shorter ones can be factored. A modulus of 2048 bits in DER has at least this many bytes.
const MIN_RSA_BYTES: usize = 256;

const HMAC: &[Algorithm] = &[Algorithm::HS256, Algorithm::HS384, Algorithm::HS512];
const RSA: &[Algorithm] = &[Algorithm::RS256, Algorithm::RS384, Algorithm::RS512];
const P256: &[Algorithm] = &[Algorithm::ES256];
const P384: &[Algorithm] = &[Algorithm::ES384];
const ED25519: &[Algorithm] = &[Algorithm::EdDSA];

/// One key.
struct Key {
    /// Its name in a key set. Keys of a configuration have none and serve tokens whatever id these carry.
    id: Option<String>,
    algorithms: &'static [Algorithm],
    /// The one algorithm that the key set permits, when it names one.
    only: Option<Algorithm>,
    decoding: DecodingKey,
}

/// The keys of one moment.
#[derive(Default)]
pub(super) struct Keys {
    keys: Vec<Key>,
    /// Whether they came from a key set, which may have others by now.
    from_set: bool,
}

impl Keys {
    /// The keys of a configuration.
    pub(super) fn fixed(secrets: &[&[u8]], pems: &[&str]) -> Result<Self, String> {
        let mut keys: Vec<Key> = secrets.iter().map(|secret| Key::secret(secret)).collect();
        for text in pems {
            for pem in blocks(text)? {
                keys.push(Key::public(pem)?);
            }
        }
        if keys.len() > MAX_FIXED_KEYS {
            return Err(format!("{} keys, the limit is {MAX_FIXED_KEYS}", keys.len()));
        }
        Ok(Self { keys, from_set: false })
    }

    /// No key yet of a set that was not fetched.
    pub(super) fn unfetched() -> Self {
        Self { keys: Vec::new(), from_set: true }
    }

    /// The usable keys of a JWKS document. A key of an unknown kind does not spoil the others, and symmetric ones are left
    /// out: what stands at an address is no secret.
    pub(super) fn set(document: &[u8]) -> Result<Self, String> {
        #[derive(Deserialize)]
        struct Set {
            keys: Vec<Box<RawValue>>,
        }
        let set: Set = serde_json::from_slice(document).map_err(|error| format!("not a key set: {error}"))?;
        if set.keys.len() > MAX_SET_KEYS {
            return Err(format!("{} keys, the limit is {MAX_SET_KEYS}", set.keys.len()));
        }
        let keys: Vec<Key> =
            set.keys.iter().filter_map(|raw| Key::of_set(serde_json::from_str(raw.get()).ok()?)).collect();
        if keys.is_empty() {
            return Err(format!(
                "none of {} keys can verify a token: a key needs kid, kty and a known curve",
                set.keys.len()
            ));
        }
        Ok(Self { keys, from_set: true })
    }

    /// Whether verifying takes time that others notice: a signature costs 0.05 to 1.3 ms, a secret 0.01 ms.
    pub(super) fn are_costly(&self) -> bool {
        self.from_set || self.keys.iter().any(|key| key.algorithms != HMAC)
    }

    /// The keys that may have signed a token with this `header`.
    ///
    /// What the header says about keys elsewhere (`jku`, `x5u`, `jwk`, `x5c`) is the word of whoever made the token, and
    /// is not read.
    pub(super) fn fitting(&self, header: &Header) -> Result<Vec<&DecodingKey>, TokenError> {
        // RFC 7515 §4.1.11: what must be understood is not.
        if header.crit.is_some() {
            return Err(TokenError::Invalid);
        }
        let candidates: Vec<&Key> = if self.from_set {
            let Some(id) = header.kid.as_deref().filter(|id| id.len() <= MAX_KEY_ID_BYTES) else {
                return Err(TokenError::Invalid);
            };
            let named: Vec<&Key> = self.keys.iter().filter(|key| key.id.as_deref() == Some(id)).collect();
            if named.is_empty() && !HMAC.contains(&header.alg) {
                return Err(TokenError::UnknownKey);
            }
            named
        } else {
            self.keys.iter().collect()
        };
        let fits = |key: &&Key| key.algorithms.contains(&header.alg) && key.only.is_none_or(|only| only == header.alg);
        Ok(candidates.into_iter().filter(fits).take(MAX_FIXED_KEYS).map(|key| &key.decoding).collect())
    }
}

impl Key {
    fn secret(secret: &[u8]) -> Self {
        Self { id: None, algorithms: HMAC, only: None, decoding: DecodingKey::from_secret(secret) }
    }

    /// A public key in PEM (`-----BEGIN PUBLIC KEY-----`).
    fn public(pem: &str) -> Result<Self, String> {
        if pem.contains("PRIVATE KEY-----") {
            return Err("a private key: give the public one (`openssl pkey -in KEY -pubout`)".into());
        }
        let pem = pem.as_bytes();
        let (algorithms, decoding) = if let Ok(key) = DecodingKey::from_ed_pem(pem) {
            (ED25519, key)
        } else if let Ok(key) = DecodingKey::from_ec_pem(pem) {
            (curve(&key)?, key)
        } else if let Ok(key) = DecodingKey::from_rsa_pem(pem) {
            (RSA, key)
        } else {
            return Err(
                "no public key of RSA, of P-256 or P-384, or Ed25519 in PEM (`-----BEGIN PUBLIC KEY-----`)".into()
            );
        };
        Self { id: None, algorithms, only: None, decoding }.tried()
    }

    fn of_set(jwk: Jwk) -> Option<Self> {
        let id = jwk.common.key_id.clone().filter(|id| !id.is_empty() && id.len() <= MAX_KEY_ID_BYTES)?;
        if jwk.common.public_key_use.as_ref().is_some_and(|usage| *usage != PublicKeyUse::Signature) {
            return None;
        }
        let algorithms = match &jwk.algorithm {
            AlgorithmParameters::RSA(_) => RSA,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P256 => P256,
            AlgorithmParameters::EllipticCurve(key) if key.curve == EllipticCurve::P384 => P384,
            AlgorithmParameters::OctetKeyPair(key) if key.curve == EllipticCurve::Ed25519 => ED25519,
            _ => return None,
        };
        let only = jwk.common.key_algorithm.map(Algorithm::try_from).transpose().ok()?;
        let decoding = DecodingKey::from_jwk(&jwk).ok()?;
        Self { id: Some(id), algorithms, only, decoding }.tried().ok()
    }

    /// The key, if it is one: a broken one would otherwise refuse every token later, and nobody would know why.
    fn tried(self) -> Result<Self, String> {
        if self.algorithms == RSA && rsa_bytes(&self.decoding) < MIN_RSA_BYTES {
            return Err("an RSA key of less than 2048 bits: make a longer one".into());
        }
        match crypto::verify("", b"", &self.decoding, self.algorithms[0]) {
            Ok(_) => Ok(self),
            Err(error) => Err(format!("a key that cannot be used: {error}")),
        }
    }
}

fn rsa_bytes(key: &DecodingKey) -> usize {
    match key.kind() {
        DecodingKeyKind::SecretOrDer(der) => der.len(),
        DecodingKeyKind::RsaModulusExponent { n, .. } => n.len(),
    }
}

/// The curve of a key, by the length of its uncompressed point.
fn curve(key: &DecodingKey) -> Result<&'static [Algorithm], String> {
    match key.try_get_as_bytes().map_or(0, <[u8]>::len) {
        65 => Ok(P256),
        97 => Ok(P384),
        _ => Err("an elliptic curve other than P-256 (ES256) and P-384 (ES384)".into()),
    }
}

/// The PEM blocks of a text, which may hold the old and the new key.
fn blocks(text: &str) -> Result<Vec<&str>, String> {
    let starts: Vec<usize> = text.match_indices("-----BEGIN ").map(|(at, _)| at).collect();
    if starts.is_empty() {
        return Err("no key in PEM (`-----BEGIN PUBLIC KEY-----`)".into());
    }
    let ends = starts.iter().skip(1).copied().chain([text.len()]);
    Ok(starts.iter().zip(ends).map(|(start, end)| &text[*start..end]).collect())
}
