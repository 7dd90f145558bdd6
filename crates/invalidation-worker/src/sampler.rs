//! One commit in so many is told in the log: what was committed, what it invalidated and published, and how long it took.

use std::time::SystemTime;

use change_log::{Entry, Rules};

use crate::plan::plan;

/// Keys, patterns and channels that a line names; the rest is counted.
const NAMED: usize = 8;

/// Counts commits. See the module.
#[derive(Debug)]
pub(crate) struct Sampler {
    /// 0 tells none.
    one_in: u32,
    commits: u32,
    /// The commit counted last: its entries may lie in several pages.
    last: u64,
}

impl Sampler {
    pub(crate) fn new(one_in: u32) -> Self {
        Self { one_in, commits: 0, last: 0 }
    }

    /// Tells of the commits of a page that took effect at this moment.
    pub(crate) fn page(&mut self, entries: &[Entry], rules: &Rules) {
        for (at, entry) in entries.iter().enumerate() {
            if self.is_due(entry.xid) {
                tell(&entries[at..], entry.xid, rules);
            }
        }
    }

    /// Whether the commit `xid` is one to tell of.
    fn is_due(&mut self, xid: u64) -> bool {
        if self.one_in == 0 || xid == self.last {
            return false;
        }
        self.last = xid;
        self.commits += 1;
        if self.commits < self.one_in {
            return false;
        }
        self.commits = 0;
        true
    }
}

fn tell(entries: &[Entry], xid: u64, rules: &Rules) {
    let own = || entries.iter().filter(|entry| entry.xid == xid);
    let planned = plan(own(), rules);
    let written = own().next().map(|entry| entry.at);
    let took = written.and_then(|at| SystemTime::now().duration_since(at).ok()).unwrap_or_default();
    let channels = planned.publications.iter().map(|one| one.publication.channel.as_str().to_owned());
    tracing::info!(
        commit = xid,
        entries = own().count(),
        keys = %named(planned.keys),
        patterns = %named(planned.patterns),
        publications = %named(channels.collect()),
        milliseconds = u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
        "applied a commit"
    );
}

fn named(mut names: Vec<String>) -> String {
    let more = names.len().saturating_sub(NAMED);
    names.truncate(NAMED);
    let text = names.join(" ");
    if more == 0 { text } else { format!("{text} and {more} more") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commits_are_counted_and_not_their_entries() {
        let mut sampler = Sampler::new(2);
        let due: Vec<u64> = [1, 1, 1, 2, 2, 3, 4].into_iter().filter(|xid| sampler.is_due(*xid)).collect();
        assert_eq!(due, [2, 4]);
        assert!(!Sampler::new(0).is_due(1), "none");
    }

    #[test]
    fn long_lists_are_cut() {
        let names = (0..10).map(|n| format!("k{n}")).collect();
        assert_eq!(named(names), "k0 k1 k2 k3 k4 k5 k6 k7 and 2 more");
    }
}
