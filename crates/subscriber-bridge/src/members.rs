//! The subscriptions to one channel, side by side in memory, so that a fan-out walks over them; a fan-out may stop in
//! between and go on later, while members come and go.

use std::collections::HashMap;

use crate::hub::ConnectionId;
use crate::subscription::Subscription;

/// So many are searched one by one. Most channels are one user's, with a connection or two.
const FEW: usize = 8;

/// One connection that has the channel.
pub(crate) struct Member {
    pub(crate) connection: ConnectionId,
    pub(crate) subscription: Subscription,
}

/// See the module.
#[derive(Default)]
pub(crate) struct Members {
    list: Vec<Member>,
    /// Where each stands, once they are more than a few.
    #[expect(clippy::box_collection, reason = "most channels have none, and there are several for each connection")]
    places: Option<Box<HashMap<ConnectionId, usize>>>,
    /// The members before this one have been visited by the fan-out that is under way.
    visited: usize,
}

impl Members {
    pub(crate) fn len(&self) -> usize {
        self.list.len()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Adds a member, or replaces its subscription.
    pub(crate) fn insert(&mut self, connection: ConnectionId, subscription: Subscription) {
        if let Some(known) = self.get_mut(connection) {
            *known = subscription;
            return;
        }
        if self.list.is_empty() {
            // What a vector reserves by itself is more than most channels ever have.
            self.list.reserve_exact(1);
        }
        self.list.push(Member { connection, subscription });
        match &mut self.places {
            Some(places) => drop(places.insert(connection, self.list.len() - 1)),
            None if self.list.len() > FEW => {
                let places = self.list.iter().enumerate().map(|(place, member)| (member.connection, place));
                self.places = Some(Box::new(places.collect()));
            }
            None => {}
        }
    }

    /// Removes a member. The others stay on their side of the fan-out that is under way: visited, or not yet.
    pub(crate) fn remove(&mut self, connection: ConnectionId) -> Option<Subscription> {
        let mut hole = self.place(connection)?;
        if hole < self.visited {
            self.visited -= 1;
            self.swap(hole, self.visited);
            hole = self.visited;
        }
        self.swap(hole, self.list.len() - 1);
        if let Some(places) = &mut self.places {
            places.remove(&connection);
        }
        let removed = self.list.pop().map(|member| member.subscription);
        if self.list.len() < self.list.capacity() / 4 {
            self.list.shrink_to(self.list.len() * 2);
        }
        removed
    }

    fn swap(&mut self, one: usize, other: usize) {
        self.list.swap(one, other);
        if let Some(places) = &mut self.places {
            for place in [one, other] {
                places.insert(self.list[place].connection, place);
            }
        }
    }

    fn place(&self, connection: ConnectionId) -> Option<usize> {
        match &self.places {
            Some(places) => places.get(&connection).copied(),
            None => self.list.iter().position(|member| member.connection == connection),
        }
    }

    pub(crate) fn get(&self, connection: ConnectionId) -> Option<&Subscription> {
        self.place(connection).map(|place| &self.list[place].subscription)
    }

    pub(crate) fn get_mut(&mut self, connection: ConnectionId) -> Option<&mut Subscription> {
        self.place(connection).map(|place| &mut self.list[place].subscription)
    }

    pub(crate) fn subscriptions(&self) -> impl Iterator<Item = &Subscription> {
        self.list.iter().map(|member| &member.subscription)
    }

    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Member> {
        self.list.iter_mut()
    }

    /// Begins a fan-out: nobody is visited.
    pub(crate) fn begin(&mut self) {
        self.visited = 0;
    }

    /// The next members of the fan-out, at most so many; nobody when all have been visited.
    pub(crate) fn next(&mut self, most: usize) -> &mut [Member] {
        let from = self.visited;
        self.visited = self.list.len().min(from + most);
        &mut self.list[from..self.visited]
    }

    /// Whether all have been visited.
    pub(crate) fn is_done(&self) -> bool {
        self.visited == self.list.len()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;
    use crate::outbox::tests::unconnected;

    fn members(count: u64) -> Members {
        let mut members = Members::default();
        for id in 0..count {
            members.insert(ConnectionId(id), Subscription::joining(unconnected(), true, false));
        }
        members
    }

    fn visit(members: &mut Members, most: usize) -> Vec<u64> {
        members.next(most).iter().map(|member| member.connection.0).collect()
    }

    #[test]
    fn each_is_visited_once_whoever_comes_and_goes_meanwhile() {
        for count in [3, 9, 1_000] {
            let mut members = members(count);
            let (mut random, mut seen, mut gone) = (fastrand::Rng::with_seed(count), Vec::new(), HashSet::new());
            members.begin();
            let mut next = count;
            while !members.is_done() {
                seen.extend(visit(&mut members, 3));
                let leaves = random.u64(..count);
                assert_eq!(members.remove(ConnectionId(leaves)).is_some(), gone.insert(leaves));
                if random.bool() {
                    members.insert(ConnectionId(next), Subscription::joining(unconnected(), true, false));
                    next += 1;
                }
            }
            let visited: HashSet<u64> = seen.iter().copied().collect();
            assert_eq!(visited.len(), seen.len(), "nobody twice");
            let stayed = (0..count).filter(|id| !gone.contains(id));
            assert_eq!(stayed.filter(|id| !visited.contains(id)).count(), 0, "nobody left out");
        }
    }

    #[test]
    fn everybody_is_found_however_many_there_are() {
        let mut members = members(100);
        for id in (0..100).filter(|id| id % 3 > 0) {
            assert!(members.remove(ConnectionId(id)).is_some());
        }
        assert!(members.remove(ConnectionId(1)).is_none());
        assert!((0..100).all(|id| members.get(ConnectionId(id)).is_some() == (id % 3 == 0)));
        assert_eq!(members.len(), 34);
    }
}
