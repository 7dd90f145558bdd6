//! The signed-in connections of this bridge, so that orders from elsewhere find them.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use fanout_core::UserId;

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
    /// How many there are, signed in or not.
    open: u64,
    /// The anonymous ones are nobody's.
    users: HashMap<Option<UserId>, Vec<(ConnectionId, Arc<Outbox>)>>,
    /// By the secret session, of those that have one.
    sessions: HashMap<Box<str>, Arc<Outbox>>,
}

impl Connections {
    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a connection, and lets commands to `session`, if it has one, find it. It need not have signed in yet.
    pub(crate) fn begin(&self, session: &str, outbox: &Arc<Outbox>) {
        let mut inner = self.inner();
        inner.open += 1;
        if !session.is_empty() {
            inner.sessions.insert(session.into(), Arc::clone(outbox));
        }
    }

    /// Lets orders to `user` find the connection; `false` when the user has `limit` of them already. A limit of 0 is none,
    /// and the anonymous ones have none.
    pub(crate) fn enter(
        &self,
        connection: ConnectionId,
        user: Option<&UserId>,
        limit: usize,
        outbox: &Arc<Outbox>,
    ) -> bool {
        let mut inner = self.inner();
        let connections = inner.users.entry(user.cloned()).or_default();
        if user.is_some() && limit > 0 && connections.len() >= limit {
            return false;
        }
        if connections.is_empty() {
            // Most users have one connection.
            connections.reserve_exact(1);
        }
        connections.push((connection, Arc::clone(outbox)));
        true
    }

    /// The connection has ended.
    pub(crate) fn leave(&self, connection: ConnectionId, user: Option<&UserId>, session: &str) {
        let mut inner = self.inner();
        inner.open -= 1;
        inner.sessions.remove(session);
        let user = user.cloned();
        let Some(connections) = inner.users.get_mut(&user) else { return };
        if let Some(place) = connections.iter().position(|(other, _)| *other == connection) {
            connections.swap_remove(place);
        }
        if connections.is_empty() {
            inner.users.remove(&user);
        }
    }

    /// Gives `commands` to the connection of `session`; `false` where there is none. A connection for which too much waits
    /// is closed: no command may be lost that its client believes to be under way.
    pub(crate) fn to_session(&self, session: &str, commands: Bytes) -> bool {
        let inner = self.inner();
        let Some(outbox) = inner.sessions.get(session) else { return false };
        if !outbox.order(Order::Commands(commands)) {
            outbox.close(codes::CROWDED);
        }
        true
    }

    /// Gives every connection of `user` the order that `make` makes; the anonymous ones have the empty name.
    pub(crate) fn to_user(&self, user: &str, make: impl Fn() -> Order) {
        let inner = self.inner();
        let user = if user.is_empty() { Some(None) } else { UserId::parse(user).ok().map(Some) };
        for (connection, outbox) in user.and_then(|user| inner.users.get(&user)).into_iter().flatten() {
            if !outbox.order(make()) {
                tracing::warn!(connection = connection.0, "too much waits for a connection: an order is lost");
            }
        }
    }

    /// How many connections there are, and of how many users.
    pub(crate) fn size(&self) -> (u64, u64) {
        let inner = self.inner();
        (inner.open, inner.users.len() as u64)
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::mpsc;

    use super::*;
    use crate::outbox::Sink;
    use crate::wire::Wire;

    fn outbox() -> Arc<Outbox> {
        Arc::new(Outbox::new(Sink::Queue(mpsc::channel(1).0), Wire::USUAL, 1_000, 1_000))
    }

    #[test]
    fn a_user_has_as_many_connections_as_permitted_and_the_anonymous_ones_are_not_counted() {
        let (connections, user) = (Connections::default(), UserId::parse("42").expect("user"));
        let enter = |id, user| connections.enter(ConnectionId(id), user, 2, &outbox());
        assert_eq!([1, 2, 3].map(|id| enter(id, Some(&user))), [true, true, false]);
        assert!((4..9).all(|id| enter(id, None)));
        connections.begin("", &outbox());
        connections.leave(ConnectionId(1), Some(&user), "");
        assert!(enter(3, Some(&user)));
    }

    #[test]
    fn who_was_turned_away_gives_back_nobodys_place() {
        let (connections, user) = (Connections::default(), UserId::parse("42").expect("user"));
        let enter = |id| {
            connections.begin("", &outbox());
            connections.enter(ConnectionId(id), Some(&user), 1, &outbox())
        };
        assert!(enter(1) && !enter(2));
        connections.leave(ConnectionId(2), Some(&user), "");
        assert!(!enter(3));
    }

    #[test]
    fn who_is_gone_leaves_nothing_behind() {
        let (connections, user) = (Connections::default(), UserId::parse("42").expect("user"));
        connections.begin("secret", &outbox());
        assert!(connections.enter(ConnectionId(1), Some(&user), 0, &outbox()));
        assert!(connections.to_session("secret", Bytes::new()) && !connections.to_session("", Bytes::new()));
        assert_eq!(connections.size(), (1, 1));
        connections.leave(ConnectionId(1), Some(&user), "secret");
        let inner = connections.inner();
        assert!(inner.open == 0 && inner.users.is_empty() && inner.sessions.is_empty());
    }
}
