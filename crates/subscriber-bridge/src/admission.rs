//! Who may come in: connections are counted per address. Pure bookkeeping.

use std::collections::HashMap;
use std::hash::Hash;
use std::net::{IpAddr, Ipv6Addr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hyper::header::HeaderMap;
use ipnet::IpNet;

/// Counts by `K`; at most as many entries as there are guests.
#[derive(Debug)]
pub(crate) struct Counts<K>(Arc<Mutex<HashMap<K, usize>>>);

impl<K> Default for Counts<K> {
    fn default() -> Self {
        Self(Arc::default())
    }
}

impl<K: Clone + Eq + Hash> Counts<K> {
    /// Counts one more of `key`, until the guest is dropped; `None` when there are `limit` already. A limit of 0 is none.
    pub(crate) fn enter(&self, key: K, limit: usize) -> Option<Guest<K>> {
        let mut counts = lock(&self.0);
        let count = counts.entry(key.clone()).or_default();
        if limit > 0 && *count >= limit {
            return None;
        }
        *count += 1;
        Some(Guest { counts: Arc::clone(&self.0), key })
    }
}

/// One that is counted.
#[derive(Debug)]
pub(crate) struct Guest<K: Eq + Hash> {
    counts: Arc<Mutex<HashMap<K, usize>>>,
    key: K,
}

impl<K: Eq + Hash> Drop for Guest<K> {
    fn drop(&mut self) {
        let mut counts = lock(&self.counts);
        if let Some(count) = counts.get_mut(&self.key) {
            *count -= 1;
            if *count == 0 {
                counts.remove(&self.key);
            }
        }
    }
}

fn lock<K>(counts: &Mutex<HashMap<K, usize>>) -> MutexGuard<'_, HashMap<K, usize>> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}

/// What counts as one address: all of a /64 of IPv6, which one household or server has.
pub(crate) fn one_address(address: IpAddr) -> IpAddr {
    match address.to_canonical() {
        IpAddr::V4(address) => address.into(),
        IpAddr::V6(address) => Ipv6Addr::from_bits(address.to_bits() & (u128::MAX << 64)).into(),
    }
}

/// Whether `peer` is a proxy whose word on a client's address is taken.
pub(crate) fn is_trusted(peer: IpAddr, trusted: &[IpNet]) -> bool {
    trusted.iter().any(|network| network.contains(&peer.to_canonical()))
}

/// The client's address as a trusted proxy reports it: the last one in `X-Forwarded-For` that is no trusted proxy itself.
/// What stands before it was written by the client.
pub(crate) fn forwarded(headers: &HeaderMap, trusted: &[IpNet]) -> Option<IpAddr> {
    let named = headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
    let addresses: Vec<&str> = named.flat_map(|value| value.split(',')).map(str::trim).collect();
    for address in addresses.into_iter().rev() {
        let address: IpAddr = address.parse().ok()?;
        if !is_trusted(address, trusted) {
            return Some(address);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guests_are_counted_while_they_stay() {
        let counts = Counts::default();
        let (first, _second) = (counts.enter("a", 2).expect("first"), counts.enter("a", 2).expect("second"));
        assert!(counts.enter("a", 2).is_none() && counts.enter("b", 2).is_some());
        drop(first);
        assert!(counts.enter("a", 2).is_some());
        assert!((0..100).all(|_| counts.enter("c", 0).map(std::mem::forget).is_some()), "no limit");
        drop(_second);
        assert_eq!(lock(&counts.0).keys().copied().collect::<Vec<_>>(), ["c"], "who is gone leaves nothing behind");
    }

    #[test]
    fn only_what_trusted_proxies_wrote_is_believed() {
        let trusted: Vec<IpNet> = vec!["10.0.0.0/8".parse().expect("network")];
        let address = |value: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert("x-forwarded-for", value.parse().expect("header"));
            forwarded(&headers, &trusted).map(|address| address.to_string())
        };
        assert_eq!(address("1.1.1.1, 2.2.2.2, 10.0.0.7").as_deref(), Some("2.2.2.2"), "the client wrote 1.1.1.1");
        assert_eq!(address("10.0.0.7"), None);
        assert_eq!(address("2.2.2.2, unknown"), None);
        assert!(is_trusted("::ffff:10.1.2.3".parse().expect("address"), &trusted));
    }

    #[test]
    fn a_household_has_one_address() {
        let one = |text: &str| one_address(text.parse().expect("address"));
        assert_eq!(one("2001:db8::1"), one("2001:db8::ffff:1"));
        assert_ne!(one("2001:db8::1"), one("2001:db8:0:1::1"));
        assert_eq!(one("::ffff:1.2.3.4"), one("1.2.3.4"));
    }
}
