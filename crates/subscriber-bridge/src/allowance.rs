//! How many subscriptions a connection may still begin: each costs Redis a subscription and a read. Pure; time comes in.

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowance {
    left: u64,
    /// What it can hold, all of which may be taken at once.
    most: u64,
    per_second: u64,
    /// Unix seconds up to which it was filled.
    filled: u64,
}

impl Allowance {
    pub(crate) fn new(most: usize, per_second: u32) -> Self {
        Self { left: most as u64, most: most as u64, per_second: per_second.into(), filled: 0 }
    }

    /// Takes one, if there is one.
    pub(crate) fn take(&mut self, now: u64) -> bool {
        let gained = now.saturating_sub(self.filled).saturating_mul(self.per_second);
        self.left = self.left.saturating_add(gained).min(self.most);
        self.filled = now;
        let granted = self.left > 0;
        self.left = self.left.saturating_sub(1);
        granted
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_fills_with_time_up_to_its_size() {
        let mut allowance = Allowance::new(4, 2);
        let mut taken = |now| (0..9).filter(|_| allowance.take(now)).count();
        assert_eq!([taken(100), taken(100), taken(101), taken(50), taken(1_000)], [4, 0, 2, 0, 4]);
    }
}
