//! Where the keys of one kind of token come from, and how they change while the bridge runs: files that are replaced, or
//! a key set at an address.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use fanout_core::config::{ConfigError, secret};
use fanout_core::telemetry::ByReason;
use secrecy::{ExposeSecret, SecretString};

use super::jwks::{Fetched, Jwks};
use super::keys::Keys;
use super::{FetchError, MIN_SECRET_BYTES};

/// A text of the configuration, given itself or as a file.
#[derive(Debug, Clone)]
pub(super) struct Source {
    field: String,
    value: Option<SecretString>,
    file: Option<PathBuf>,
}

impl Source {
    pub(super) fn new(field: String, value: Option<&SecretString>, file: Option<&PathBuf>) -> Self {
        Self { field, value: value.cloned(), file: file.cloned() }
    }

    fn is_given(&self) -> bool {
        self.value.is_some() || self.file.is_some()
    }

    fn read(&self) -> Result<Option<SecretString>, ConfigError> {
        secret(&self.field, self.value.as_ref(), self.file.as_ref())
    }
}

/// What a configuration says about the keys of one kind of token.
#[derive(Debug, Clone)]
pub(super) struct Settings {
    pub(super) secret: Source,
    pub(super) previous_secret: Source,
    pub(super) public_key: Source,
    /// The field and what stands in it.
    pub(super) jwks_url: (String, Option<String>),
    /// Short secrets are permitted.
    pub(super) insecure: bool,
}

/// What the sources hold at one moment, in the order secret, previous secret, public keys.
type Texts = [Option<SecretString>; 3];

impl Settings {
    pub(super) fn is_empty(&self) -> bool {
        let sources = [&self.secret, &self.previous_secret, &self.public_key];
        self.jwks_url.1.is_none() && !sources.iter().any(|source| source.is_given())
    }

    fn read(&self) -> Result<Texts, ConfigError> {
        Ok([self.secret.read()?, self.previous_secret.read()?, self.public_key.read()?])
    }

    fn keys(&self, [secret, previous, public]: &Texts) -> Result<Keys, ConfigError> {
        let mut secrets = Vec::new();
        for (source, text) in [(&self.secret, secret), (&self.previous_secret, previous)] {
            let Some(text) = text else { continue };
            let bytes = text.expose_secret().as_bytes();
            if bytes.len() < MIN_SECRET_BYTES && !self.insecure {
                return Err(ConfigError(format!(
                    "{} is {} bytes, HS256 needs at least {MIN_SECRET_BYTES}: make one with `openssl rand -hex 32`",
                    source.field,
                    bytes.len()
                )));
            }
            secrets.push(bytes);
        }
        let pems: Vec<&str> = public.iter().map(ExposeSecret::expose_secret).collect();
        Keys::fixed(&secrets, &pems).map_err(|error| ConfigError(format!("{}: {error}", self.public_key.field)))
    }
}

/// What looking at the files found.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Looked {
    Unchanged,
    Replaced,
    /// Something that is no key; the old keys stay.
    Refused(String),
}

/// See the module.
pub(super) struct Ring {
    settings: Settings,
    keys: RwLock<Arc<Keys>>,
    seen: Mutex<Seen>,
    jwks: Option<Jwks>,
}

/// What was last read, and what was last complained of.
struct Seen {
    texts: Texts,
    complaint: Option<String>,
}

impl Ring {
    /// # Errors
    /// A key that cannot be read or used, or a URL that is none.
    pub(super) fn new(settings: Settings, ca_file: Option<&Path>) -> Result<Self, ConfigError> {
        let texts = settings.read()?;
        // The keys of the configuration are checked even where a key set replaces them.
        let mut keys = settings.keys(&texts)?;
        let (field, url) = &settings.jwks_url;
        let jwks = url.as_ref().map(|url| Jwks::new(field, url, ca_file)).transpose()?;
        if jwks.is_some() {
            keys = Keys::unfetched();
        }
        let seen = Mutex::new(Seen { texts, complaint: None });
        Ok(Self { settings, keys: RwLock::new(Arc::new(keys)), seen, jwks })
    }

    /// The keys of this moment.
    pub(super) fn keys(&self) -> Arc<Keys> {
        Arc::clone(&self.keys.read().unwrap_or_else(PoisonError::into_inner))
    }

    fn replace(&self, keys: Keys) {
        *self.keys.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(keys);
    }

    /// The secret that signs, unless a key set says who does.
    pub(super) fn signing(&self) -> Option<SecretString> {
        let seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        seen.texts[0].clone().filter(|_| self.jwks.is_none())
    }

    /// Reads the files again. Content is compared, because a replaced file may have the time of the old one.
    pub(super) fn look(&self) -> Looked {
        if self.jwks.is_some() {
            return Looked::Unchanged;
        }
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let read = self.settings.read().and_then(|texts| {
            let unchanged = same(&texts, &seen.texts);
            Ok((!unchanged).then_some((self.settings.keys(&texts)?, texts)))
        });
        match read {
            Ok(None) => {
                seen.complaint = None;
                Looked::Unchanged
            }
            Ok(Some((keys, texts))) => {
                *seen = Seen { texts, complaint: None };
                self.replace(keys);
                Looked::Replaced
            }
            Err(ConfigError(complaint)) if seen.complaint.as_ref() == Some(&complaint) => Looked::Unchanged,
            Err(ConfigError(complaint)) => {
                seen.complaint = Some(complaint.clone());
                Looked::Refused(complaint)
            }
        }
    }

    /// Fetches the key set, if there is one and it was not fetched since this was called.
    pub(super) async fn learn(&self, counts: &ByReason) -> Result<(), FetchError> {
        let Some(jwks) = &self.jwks else { return Ok(()) };
        let done = |fetched| match fetched {
            Fetched::Keys(keys) => {
                self.replace(keys);
                counts.count("fetched");
            }
            Fetched::Failed(error) => {
                counts.count("not fetched");
                tracing::warn!(%error, "a key set could not be fetched: {}", self.settings.jwks_url.0);
            }
            Fetched::FailedAgain => counts.count("not fetched"),
        };
        jwks.learn(done).await
    }

    /// Fetches the key set when that is due, and forgets it when it could not be fetched for too long.
    pub(super) async fn refresh(&self, counts: &ByReason) {
        let Some(jwks) = &self.jwks else { return };
        if jwks.is_due().await && self.learn(counts).await.is_err() && jwks.is_outdated().await {
            self.replace(Keys::unfetched());
        }
    }
}

fn same(a: &Texts, b: &Texts) -> bool {
    let text = |secret: &Option<SecretString>| secret.as_ref().map(|secret| secret.expose_secret().to_owned());
    a.iter().map(text).eq(b.iter().map(text))
}
