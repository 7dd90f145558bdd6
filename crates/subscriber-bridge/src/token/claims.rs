//! What a verified token says: its claims, checked against the time and turned into what a session works with. Pure.

use std::collections::BTreeMap;

use base64::alphabet::STANDARD;
use base64::engine::general_purpose::{GeneralPurpose, GeneralPurposeConfig};
use base64::engine::{DecodePaddingMode, Engine as _};
use fanout_core::{Channel, Data, UserId, begins_object};
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Number, Value};

use super::TokenError;

/// Most channels that one token may list; more than a connection can have in any sensible configuration.
pub const MAX_TOKEN_CHANNELS: usize = 1_000;
/// Times further away than a year are cut to it, so that clients' timers do not overflow.
const MAX_TTL: u64 = 365 * 24 * 3600;
/// Backends write base64 with and without padding.
const BASE64: GeneralPurpose = GeneralPurpose::new(
    &STANDARD,
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent),
);

/// What a valid connection token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Who it is; nobody in particular when the token names no user.
    pub user: Option<UserId>,
    /// Unix seconds until which the connection may live.
    pub expires_at: Option<u64>,
    /// What others see of the connection in presence, joins and publications (`conn_info`).
    pub info: Option<Data>,
    /// Channels to which the connection is subscribed by the server, whatever their permissions are.
    pub subs: Vec<(Channel, Options)>,
}

/// What a valid subscription token says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grant {
    /// Whom it is for: nobody in particular when the token names no user.
    pub user: Option<UserId>,
    /// The one channel that it opens.
    pub channel: Channel,
    /// The one connection that may use it, in old backends' tokens.
    pub client: Option<String>,
    /// Unix seconds until which the subscription may live.
    pub expires_at: Option<u64>,
    /// How the subscription is made.
    pub options: Options,
}

impl Grant {
    /// Whether it was made for this `user`, `channel` and connection. One that was not ends the connection (3500): the
    /// client presents what was given to somebody else.
    pub fn fits(&self, user: Option<&UserId>, channel: &Channel, client: &str) -> bool {
        let client_fits = self.client.as_deref().is_none_or(|bound| bound == client);
        self.user.as_ref() == user && self.channel == *channel && client_fits
    }
}

/// How a subscription that a token grants is made.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Options {
    /// What others see of the subscription in presence, joins and publications (`chan_info`).
    pub info: Option<Data>,
    /// What the subscriber gets in the reply.
    pub data: Option<Data>,
    /// What differs from the topic.
    pub overrides: Overrides,
}

/// Settings of a topic that a token replaces; what is `None` stays as the topic has it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Overrides {
    /// Whether subscribers are kept in presence.
    #[serde(deserialize_with = "switch")]
    pub presence: Option<bool>,
    /// Whether the subscriber's joins and leaves are announced.
    #[serde(deserialize_with = "switch")]
    pub join_leave: Option<bool>,
    /// Whether the subscriber is told of joins and leaves without asking.
    #[serde(deserialize_with = "switch")]
    pub force_push_join_leave: Option<bool>,
    /// Whether the subscription is positioned without asking.
    #[serde(deserialize_with = "switch")]
    pub force_positioning: Option<bool>,
    /// Whether the subscription is recoverable without asking.
    #[serde(deserialize_with = "switch")]
    pub force_recovery: Option<bool>,
}

/// A setting in a token is `{"value": true}`, so that backends in languages without null can leave it out.
fn switch<'de, D: serde::Deserializer<'de>>(deserializer: D) -> Result<Option<bool>, D::Error> {
    #[derive(Deserialize)]
    struct Switch {
        value: bool,
    }
    Ok(Option::<Switch>::deserialize(deserializer)?.map(|switch| switch.value))
}

/// The claims of both kinds of token. What is not listed, `meta` for one, means nothing here.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Claims {
    sub: Option<String>,
    exp: Option<Number>,
    nbf: Option<Number>,
    expire_at: Option<Number>,
    channels: Option<Vec<String>>,
    subs: Option<BTreeMap<String, Wishes>>,
    channel: Option<String>,
    client: Option<String>,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

/// [`Options`] as they stand in a token.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Wishes {
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

/// The identity in the verified `payload`, at `now` in Unix seconds. `user_claim` names the user instead of `sub`.
pub(super) fn identity(payload: &str, user_claim: Option<&str>, now: u64) -> Result<Identity, TokenError> {
    let claims = read(payload)?;
    // A subscription token signs nobody in.
    if claims.channel.is_some() {
        return Err(TokenError::Invalid);
    }
    let (user, expires_at) = (user(&claims, payload, user_claim)?, claims.expiry(now)?);
    let info = raw(claims.info.as_deref(), claims.b64info.as_deref())?;
    let subs: Vec<(String, Wishes)> = match claims.subs {
        Some(subs) => subs.into_iter().collect(),
        None => claims.channels.unwrap_or_default().into_iter().map(|name| (name, Wishes::default())).collect(),
    };
    if subs.len() > MAX_TOKEN_CHANNELS {
        return Err(TokenError::Invalid);
    }
    let named = |(name, wishes): (String, Wishes)| Ok((channel(&name)?, wishes.options()?));
    Ok(Identity { user, expires_at, info, subs: subs.into_iter().map(named).collect::<Result<_, _>>()? })
}

/// The grant in the verified `payload`, as [`identity`].
pub(super) fn grant(payload: &str, user_claim: Option<&str>, now: u64) -> Result<Grant, TokenError> {
    let claims = read(payload)?;
    let channel = channel(claims.channel.as_deref().ok_or(TokenError::Invalid)?)?;
    let (user, expires_at) = (user(&claims, payload, user_claim)?, claims.expiry(now)?);
    let Claims { info, b64info, data, b64data, overrides, .. } = claims;
    let options = Wishes { info, b64info, data, b64data, overrides }.options()?;
    Ok(Grant { user, channel, client: claims.client.filter(|client| !client.is_empty()), expires_at, options })
}

fn read(payload: &str) -> Result<Claims, TokenError> {
    if !begins_object(payload.as_bytes()) {
        return Err(TokenError::Invalid);
    }
    serde_json::from_str(payload).map_err(|_| TokenError::Invalid)
}

fn user(claims: &Claims, payload: &str, user_claim: Option<&str>) -> Result<Option<UserId>, TokenError> {
    let other = match user_claim {
        Some(name) => named_claim(payload, name)?,
        None => claims.sub.clone(),
    };
    match other.as_deref() {
        None | Some("") => Ok(None),
        Some(id) => UserId::parse(id).map(Some).map_err(|_| TokenError::Invalid),
    }
}

fn named_claim(payload: &str, name: &str) -> Result<Option<String>, TokenError> {
    let mut all: BTreeMap<String, Value> = serde_json::from_str(payload).map_err(|_| TokenError::Invalid)?;
    match all.remove(name) {
        None => Ok(None),
        Some(Value::String(id)) => Ok(Some(id)),
        Some(_) => Err(TokenError::Invalid),
    }
}

fn channel(name: &str) -> Result<Channel, TokenError> {
    Channel::parse(name).map_err(|_| TokenError::Invalid)
}

impl Claims {
    /// Unix seconds until which what the token opens may live, unless the token cannot be used any more or yet.
    fn expiry(&self, now: u64) -> Result<Option<u64>, TokenError> {
        let (exp, nbf) = (seconds(self.exp.as_ref())?, seconds(self.nbf.as_ref())?);
        // 0 means that it never expires, while `exp` still limits when the token can be used.
        let until = match seconds(self.expire_at.as_ref())? {
            Some(0) => None,
            Some(at) => Some(at),
            None => exp,
        };
        let passed = |at: Option<u64>| at.is_some_and(|at| at <= now);
        if passed(exp) || passed(until) || nbf.is_some_and(|nbf| nbf > now) {
            return Err(TokenError::Expired);
        }
        Ok(until.map(|at| at.min(now.saturating_add(MAX_TTL))))
    }
}

/// RFC 7519 §2: a time is a number of seconds, with or without a fraction.
fn seconds(number: Option<&Number>) -> Result<Option<u64>, TokenError> {
    let Some(number) = number else { return Ok(None) };
    let whole = number.as_u64().or_else(|| number.as_f64().map(|seconds| seconds.max(0.0) as u64));
    whole.map(Some).ok_or(TokenError::Invalid)
}

impl Wishes {
    fn options(self) -> Result<Options, TokenError> {
        Ok(Options {
            info: raw(self.info.as_deref(), self.b64info.as_deref())?,
            data: raw(self.data.as_deref(), self.b64data.as_deref())?,
            overrides: self.overrides.unwrap_or_default(),
        })
    }
}

/// JSON, given as it is or in base64, which wins. Binary data is refused: all data of this system is JSON.
fn raw(plain: Option<&RawValue>, encoded: Option<&str>) -> Result<Option<Data>, TokenError> {
    let json = match (plain, encoded.filter(|encoded| !encoded.is_empty())) {
        (_, Some(encoded)) => BASE64.decode(encoded).map_err(|_| TokenError::Invalid)?,
        (Some(plain), None) => plain.get().as_bytes().to_vec(),
        (None, None) => return Ok(None),
    };
    Data::parse(json).map(Some).map_err(|_| TokenError::Invalid)
}

#[cfg(test)]
mod tests;
