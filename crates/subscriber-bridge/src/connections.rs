//! The signed-in connections of this bridge, so that orders from elsewhere find them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use crate::codes;
use crate::hub::ConnectionId;
use crate::order::Order;
use crate::outbox::Outbox;

/// See the module. It holds no more than there are connections.
#[derive(Default)]
pub(crate) struct Connections {
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    outboxes: HashMap<ConnectionId, Arc<Outbox>>,
    /// By the user's id; the anonymous ones have the empty one.
    users: HashMap<Box<str>, Vec<ConnectionId>>,
    /// By the secret session, of those that have one.
    sessions: HashMap<Box<str>, ConnectionId>,
}

impl Connections {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets orders to `user` find the connection.
    pub(crate) fn enter(&self, connection: ConnectionId, user: &str, outbox: &Arc<Outbox>) {
        let mut inner = self.inner();
        inner.outboxes.insert(connection, Arc::clone(outbox));
        inner.users.entry(user.into()).or_default().push(connection);
    }

    /// Lets commands to `session` find the connection, which need not have signed in yet.
    pub(crate) fn name(&self, connection: ConnectionId, session: &str, outbox: &Arc<Outbox>) {
        let mut inner = self.inner();
        inner.outboxes.insert(connection, Arc::clone(outbox));
        inner.sessions.insert(session.into(), connection);
    }

    /// The connection has ended.
    pub(crate) fn leave(&self, connection: ConnectionId, user: &str, session: &str) {
        let mut inner = self.inner();
        inner.outboxes.remove(&connection);
        inner.sessions.remove(session);
        if let Some(connections) = inner.users.get_mut(user) {
            connections.retain(|other| *other != connection);
            if connections.is_empty() {
                inner.users.remove(user);
            }
        }
    }

    /// Gives `commands` to the connection of `session`; `false` where there is none. A connection for which too much waits
    /// is closed: no command may be lost that its client believes to be under way.
    pub(crate) fn to_session(&self, session: &str, commands: Bytes) -> bool {
        let inner = self.inner();
        let Some(outbox) = inner.sessions.get(session).and_then(|connection| inner.outboxes.get(connection)) else {
            return false;
        };
        if !outbox.order(Order::Commands(commands)) {
            outbox.close(codes::CROWDED);
        }
        true
    }

    /// Gives every connection of `user` the order that `make` makes.
    pub(crate) fn to_user(&self, user: &str, make: impl Fn() -> Order) {
        let inner = self.inner();
        for connection in inner.users.get(user).into_iter().flatten() {
            if let Some(outbox) = inner.outboxes.get(connection)
                && !outbox.order(make())
            {
                tracing::warn!(connection = connection.0, "too much waits for a connection: an order is lost");
            }
        }
    }

    /// How many connections there are, and of how many users.
    pub(crate) fn size(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.outboxes.len() as u64, inner.users.len() as u64)
    }
}
