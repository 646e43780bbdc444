//! When clients' wishes are let in: how long what came to the door waits there for more, so that
//! many of them share one pass, one write and one message to each follower.
//!
//! There are two reasons to wait:
//!
//! - **A batch is under way** to a majority. What comes meanwhile would only wait in the core.
//! - **A batch was just answered.** Who asks one thing after the other asks again at once. If those
//!   who wait were let in now, the answered would gather during their round, and the two crowds
//!   would take turns for ever, each paying for rounds of its own. So the answered are awaited, at
//!   most twice as long as their round took. Where they do not come back it is tried ever more rarely:
//!   people who ask when it pleases them (an open loop) must not wait for nobody.
//!
//! Here is no clock and no lock: passes bring the times and obey.

use std::time::Duration;

use crate::types::Time;

/// How long a batch under way is waited for at most. Longer: a majority that is slow, or far away,
/// slows down who does not have to wait for it. Shorter: smaller batches.
const GATHER_MAX: Duration = Duration::from_millis(1);

/// How long the answered are awaited at most. Longer: whoever is at the door pays for those who have
/// gone away. Shorter: where the processor is busy with answers, a quarter of them is left behind.
const RETURN_MAX: Duration = Duration::from_millis(2);

/// After so many vain waits in a row they get no rarer: one in 64.
const VAIN_MAX: u32 = 6;

/// What to wait for at the door.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Wait {
    /// So many at the door are let in at once.
    pub(crate) enough: usize,
    /// Then whoever is there is let in.
    pub(crate) until: Time,
}

/// How long one kind of wish waits.
#[derive(Debug, Default)]
pub(crate) struct Patience {
    let_in_at: Time,
    returning: Option<Returning>,
    /// Vain waits in a row, and how many rounds from now on are not waited after.
    vain: u32,
    skip: u32,
}

/// A batch was answered.
#[derive(Clone, Copy, Debug)]
struct Returning {
    answered: usize,
    /// How many were at the door by then.
    waiting: usize,
    until: Time,
}

impl Patience {
    /// What to wait for now; `None`: let in whoever comes.
    pub(crate) fn wait(&self, now: Time, under_way: bool) -> Option<Wait> {
        let until = self.let_in_at + GATHER_MAX;
        if under_way {
            return (now < until).then_some(Wait { enough: usize::MAX, until });
        }
        let Returning { answered, waiting, until } = self.returning?;
        let enough = waiting + answered;
        (now < until && 1 < enough).then_some(Wait { enough, until })
    }

    /// So many were let in. The wait before that was worth it if most of the answered were back: by
    /// half of them one would be deceived, for in an open loop as many come in one round as in the
    /// next.
    pub(crate) fn let_in(&mut self, now: Time, count: usize) {
        if count == 0 {
            return;
        }
        if let Some(Returning { answered, waiting, .. }) = self.returning.take() {
            let returned = count.saturating_sub(waiting);
            if answered * 3 <= returned * 4 {
                self.vain = 0;
            } else {
                self.vain = (self.vain + 1).min(VAIN_MAX);
                self.skip = (1 << self.vain) - 1;
            }
        }
        self.let_in_at = now;
    }

    /// So many were answered while others waited at the door.
    pub(crate) fn answered(&mut self, now: Time, count: usize, waiting: usize) {
        if let Some(returning) = &mut self.returning {
            returning.answered += count;
            return;
        }
        if 0 < self.skip {
            self.skip -= 1;
            return;
        }
        let until = now + (now.since(self.let_in_at) * 2).min(RETURN_MAX);
        self.returning = Some(Returning { answered: count, waiting, until });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(micros: u64) -> Time {
        Time(0) + Duration::from_micros(micros)
    }

    #[test]
    fn while_a_batch_is_under_way_all_wait_but_not_for_ever() {
        let mut patience = Patience::default();
        patience.let_in(at(5000), 1);
        let wait = Some(Wait { enough: usize::MAX, until: at(6000) });
        assert_eq!(patience.wait(at(5100), true), wait);
        assert_eq!(patience.wait(at(6000), true), None);
    }

    #[test]
    fn the_answered_are_awaited_twice_as_long_as_their_round_took() {
        let mut patience = Patience::default();
        patience.let_in(at(5000), 30);
        patience.answered(at(5400), 30, 4);
        assert_eq!(patience.wait(at(5400), false), Some(Wait { enough: 34, until: at(6200) }));
        assert_eq!(patience.wait(at(6200), false), None);
        patience.let_in(at(5700), 34);
        patience.answered(at(9000), 34, 0);
        let until = patience.wait(at(9000), false).map(|wait| wait.until);
        assert_eq!(until, Some(at(11_000)), "a slow majority makes nobody wait longer");
    }

    #[test]
    fn the_next_of_one_who_asks_alone_is_let_in_at_once() {
        let mut patience = Patience::default();
        patience.let_in(at(5000), 1);
        patience.answered(at(5400), 1, 0);
        assert_eq!(patience.wait(at(5400), false), None);
    }

    /// Rounds of 400 us after which `back` of 20 come back: how many of 1000 are waited after.
    fn waits(back: usize) -> usize {
        let mut patience = Patience::default();
        let waits = (1..=1000).filter(|round| {
            patience.let_in(at(1000 * round), 20 + back);
            patience.answered(at(1000 * round + 400), 20, 20);
            patience.wait(at(1000 * round + 400), false).is_some()
        });
        waits.count()
    }

    #[test]
    fn where_the_answered_do_not_come_back_waits_get_rare() {
        assert_eq!(waits(20), 1000);
        assert_eq!(waits(15), 1000);
        assert_eq!(waits(10), 20, "as in an open loop");
    }
}
