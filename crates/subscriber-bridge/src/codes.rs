//! Codes of the Centrifugal client protocol: why a connection, a subscription or a command ended as it did.
//!
//! A client reconnects after 3000–3499 and stops after 3500–3999. Reasons are never empty and never parse as JSON,
//! because centrifuge-js tries to.

use std::borrow::Cow;

/// Why the bridge closes a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Disconnect {
    /// The code in the WebSocket close frame.
    pub code: u32,
    /// The text in the close frame, and where it is one of this bridge's own the label in metrics.
    pub reason: Cow<'static, str>,
}

const fn disconnect(code: u32, reason: &'static str) -> Disconnect {
    Disconnect { code, reason: Cow::Borrowed(reason) }
}

impl Disconnect {
    /// The reason's label in metrics; what an application says in its own words has one for all.
    pub(crate) fn label(&self) -> &'static str {
        match self.reason {
            Cow::Borrowed(reason) => reason,
            Cow::Owned(_) => "by the application",
        }
    }
}

/// Why a subscription ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ending {
    /// Below 2500 for good; else the client subscribes again.
    pub code: u32,
    /// The standard text of the code.
    pub reason: &'static str,
}

/// The API ended it.
pub(crate) const UNSUBSCRIBED: Ending = Ending { code: 2000, reason: "server unsubscribe" };
/// Continuity is lost: the client resubscribes at once and recovers.
pub(crate) const NOT_CONTINUED: Ending = Ending { code: 2500, reason: "insufficient state" };
/// The subscription token expired and was not refreshed.
pub(crate) const SUBSCRIPTION_EXPIRED: Ending = Ending { code: 2501, reason: "subscription expired" };

/// A frame that RFC 6455 forbids; the reader of frames says which.
pub(crate) const fn protocol_error(reason: &'static str) -> Disconnect {
    disconnect(1002, reason)
}

/// The peer closed, or the transport failed; nothing is sent.
pub(crate) const CLOSED: Disconnect = disconnect(3000, "connection closed");
/// The bridge stops.
pub(crate) const SHUTDOWN: Disconnect = disconnect(3001, "shutdown");
/// The token expired and was not refreshed.
pub(crate) const EXPIRED: Disconnect = disconnect(3005, "connection expired");
/// The outbox is full: the client reads too slowly.
pub(crate) const SLOW: Disconnect = disconnect(3008, "slow");
/// Writing to the socket failed.
pub(crate) const WRITE_ERROR: Disconnect = disconnect(3009, "write error");
/// Continuity of a server-side subscription is lost: the client reconnects and recovers.
pub(crate) const INSUFFICIENT: Disconnect = disconnect(3010, "insufficient state");
/// No pong in time.
pub(crate) const NO_PONG: Disconnect = disconnect(3012, "no pong");
/// More connections at once than their tokens can be verified in time: the client comes back later.
pub(crate) const CROWDED: Disconnect = disconnect(3013, "too many requests");
/// The token is not valid.
pub(crate) const INVALID_TOKEN: Disconnect = disconnect(3500, "invalid token");
/// The client broke the protocol.
pub(crate) const BAD_REQUEST: Disconnect = disconnect(3501, "bad request");
/// No connect command in time.
pub(crate) const STALE: Disconnect = disconnect(3502, "stale");
/// The user has as many connections as permitted.
pub(crate) const CONNECTION_LIMIT: Disconnect = disconnect(3504, "connection limit");
/// More server-side subscriptions than permitted.
pub(crate) const CHANNEL_LIMIT: Disconnect = disconnect(3505, "channel limit");
/// The user may not connect.
pub(crate) const DENIED: Disconnect = disconnect(3507, "permission denied");
/// A server-side subscription's token expired.
pub(crate) const SERVER_SIDE_EXPIRED: Disconnect = disconnect(3006, "subscription expired");
/// Something failed that is not the client's fault.
pub(crate) const INTERNAL_ERROR: Disconnect = disconnect(3004, "internal server error");
/// `send` has no receiver here.
pub(crate) const NOT_AVAILABLE: Disconnect = disconnect(3508, "not available");
/// A binary message on a JSON connection.
pub(crate) const UNSUPPORTED: Disconnect =
    disconnect(1003, "text messages carry JSON, binary ones protobuf: this is the other");
/// A text message that is not UTF-8, or a reason for closing.
pub(crate) const NOT_UTF8: Disconnect = disconnect(1007, "a text is not UTF-8");
/// A message over the limit.
pub(crate) const TOO_BIG: Disconnect = disconnect(1009, "a message is over the size limit");

/// The error of a command. The client keeps its connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CommandError {
    /// See the constants.
    pub code: u32,
    /// The standard text of the code, or the application's own.
    pub message: Cow<'static, str>,
    /// Whether the client may simply try again.
    pub temporary: bool,
}

const fn error(code: u32, message: &'static str) -> CommandError {
    CommandError { code, message: Cow::Borrowed(message), temporary: false }
}

const fn temporary(code: u32, message: &'static str) -> CommandError {
    CommandError { code, message: Cow::Borrowed(message), temporary: true }
}

/// Redis is away, or something else that is not the client's fault.
pub(crate) const INTERNAL: CommandError = temporary(100, "internal server error");

/// No topic takes the channel.
pub(crate) const UNKNOWN_CHANNEL: CommandError = error(102, "unknown channel");
/// The user may not do this.
pub(crate) const PERMISSION_DENIED: CommandError = error(103, "permission denied");
/// The connection has this channel already.
pub(crate) const ALREADY_SUBSCRIBED: CommandError = error(105, "already subscribed");
/// More channels than permitted.
pub(crate) const LIMIT_EXCEEDED: CommandError = error(106, "limit exceeded");
/// The command's content is not well-formed.
pub(crate) const BAD_COMMAND: CommandError = error(107, "bad request");
/// The feature is off.
pub(crate) const FEATURE_OFF: CommandError = error(108, "not available");
/// More subscriptions in a second than permitted: the client tries again later.
pub(crate) const TOO_MANY_REQUESTS: CommandError = temporary(111, "too many requests");
/// The position is lost, and the client would rather hear so than be subscribed.
pub(crate) const UNRECOVERABLE: CommandError = error(112, "unrecoverable position");
/// The client fetches a new token and tries again.
pub(crate) const TOKEN_EXPIRED: CommandError = error(109, "token expired");
