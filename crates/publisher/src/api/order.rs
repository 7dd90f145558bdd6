//! Orders to connections, wherever they are held: subscribe, unsubscribe, disconnect, refresh.
//!
//! They are told and not waited for: an order that meets no connection is done as well.

use fanout_core::control::{self, Order, Overrides, Since, Whom};
use fanout_core::{Publisher, begins_object};
use serde::Deserialize;
use serde::de::IgnoredAny;
use serde_json::value::RawValue;

use super::{ApiError, Done, bad_request, either, known};

/// Codes with which a connection can be closed: those of the protocol and of applications.
const CODES: std::ops::RangeInclusive<u32> = 3000..=4999;
/// Longest reason in bytes that fits into a close frame.
const MAX_REASON_BYTES: usize = 123;

/// The body of `subscribe`. Of `user`, `client` and `session` see [`Whom`].
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Subscribe {
    user: String,
    client: String,
    session: String,
    channel: String,
    info: Option<Box<RawValue>>,
    b64info: Option<String>,
    data: Option<Box<RawValue>>,
    b64data: Option<String>,
    expire_at: i64,
    recover_since: Option<Since>,
    #[serde(rename = "override")]
    overrides: Option<Overrides>,
}

/// The body of `unsubscribe`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Unsubscribe {
    user: String,
    client: String,
    session: String,
    channel: String,
}

/// The body of `disconnect`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Disconnect {
    user: String,
    client: String,
    session: String,
    whitelist: Vec<String>,
    disconnect: Option<Ending>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(default)]
struct Ending {
    code: u32,
    reason: String,
}

/// The body of `refresh`.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub struct Refresh {
    user: String,
    client: String,
    session: String,
    expired: bool,
    expire_at: i64,
    info: Option<Box<RawValue>>,
}

impl Subscribe {
    pub(crate) fn order(self, publisher: &Publisher) -> Result<Order, ApiError> {
        known(publisher, &self.channel)?;
        Ok(Order::Subscribe(control::Subscribe {
            info: either("info", self.info.as_deref(), self.b64info.as_deref())?,
            data: either("data", self.data.as_deref(), self.b64data.as_deref())?,
            whom: Whom { user: self.user, client: self.client, session: self.session },
            channel: self.channel,
            expire_at: self.expire_at,
            recover_since: self.recover_since,
            overrides: self.overrides.unwrap_or_default(),
        }))
    }
}

impl Unsubscribe {
    pub(crate) fn order(self) -> Result<Order, ApiError> {
        super::channel(&self.channel)?;
        let whom = Whom { user: self.user, client: self.client, session: self.session };
        Ok(Order::Unsubscribe { whom, channel: self.channel })
    }
}

impl Disconnect {
    pub(crate) fn order(self) -> Result<Order, ApiError> {
        let ending = self.disconnect.unwrap_or_default();
        let code = if ending.code == 0 { 3503 } else { ending.code };
        if !CODES.contains(&code) {
            let (first, last) = CODES.into_inner();
            return Err(bad_request(format!("disconnect.code = {code}: must be {first} to {last}")));
        }
        let reason = if ending.reason.is_empty() { "force disconnect".to_owned() } else { ending.reason };
        if reason.len() > MAX_REASON_BYTES {
            let length = reason.len();
            return Err(bad_request(format!("disconnect.reason is {length} bytes, the limit is {MAX_REASON_BYTES}")));
        }
        // The official JavaScript client takes a reason that is JSON for one of an old protocol.
        if serde_json::from_str::<IgnoredAny>(&reason).is_ok() || begins_object(reason.as_bytes()) {
            return Err(bad_request("disconnect.reason is JSON: clients would misread it, give words".into()));
        }
        let whom = Whom { user: self.user, client: self.client, session: self.session };
        Ok(Order::Disconnect { whom, whitelist: self.whitelist, code, reason })
    }
}

impl Refresh {
    pub(crate) fn order(self) -> Result<Order, ApiError> {
        let whom = Whom { user: self.user, client: self.client, session: self.session };
        let info = either("info", self.info.as_deref(), None)?;
        Ok(Order::Refresh { whom, expired: self.expired, expire_at: self.expire_at, info })
    }
}

/// Tells every bridge.
pub(crate) async fn tell(publisher: &Publisher, order: Result<Order, ApiError>) -> Result<Done, ApiError> {
    control::everywhere(publisher.redis(), &order?).await?;
    Ok(Done {})
}
