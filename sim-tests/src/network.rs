//! The links between machines: what they lose, double, delay and change, and where they are cut.
//!
//! It decides when a copy of a message arrives, or why none does. It holds no message itself and
//! knows nothing of what is in one; clients reach machines on ways of their own.

use std::time::Duration;

use crate::plan::{Links, Machine, Target, Weather};
use crate::rng::Rng;
use crate::trace::Loss;

/// All directed links of a world.
#[derive(Clone, Debug)]
pub struct Network {
    machines: usize,
    rng: Rng,
    /// How many cuts lie on each link.
    cuts: Vec<u16>,
    /// How each link behaves now.
    weather: Vec<Weather>,
    /// What was set and is not over, oldest first: the number of the fault, its links, the weather.
    fronts: Vec<(usize, u128, Weather)>,
}

/// What becomes of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Route {
    /// It is lost.
    Lost(Loss),
    /// It takes this long; the frame is changed on the way if `corrupt`; a second copy may follow.
    Arrives {
        /// The first copy.
        after: Duration,
        /// The second copy.
        again: Option<Duration>,
        /// Whether the first copy is changed.
        corrupt: bool,
    },
}

/// A stalled message takes up to this long.
const STALL_MAX: Duration = Duration::from_secs(5);

impl Network {
    /// Links between this many machines, all fair.
    pub fn new(machines: usize, rng: Rng) -> Network {
        assert!(machines <= 9, "81 links fit into the bits of a set");
        let links = machines * machines;
        let weather = vec![Weather::FAIR; links];
        Network { machines, rng, cuts: vec![0; links], weather, fronts: Vec::new() }
    }

    /// What becomes of a message sent now.
    pub fn route(&mut self, from: Machine, to: Machine) -> Route {
        let link = self.link(from, to);
        if 0 < self.cuts[link] {
            return Route::Lost(Loss::Cut);
        }
        let weather = self.weather[link];
        let rng = &mut self.rng;
        if rng.chance(weather.loss) {
            return Route::Lost(Loss::Link);
        }
        let mut after = rng.span(weather.delay_min, weather.delay_max);
        if rng.chance(weather.stall) {
            after += rng.span(Duration::ZERO, STALL_MAX);
        }
        let again =
            rng.chance(weather.twice).then(|| after + rng.log_span(Duration::ZERO, weather.late));
        Route::Arrives { after, again, corrupt: rng.chance(weather.corrupt) }
    }

    /// Whether something could get through right now.
    pub fn is_open(&self, from: Machine, to: Machine) -> bool {
        self.cuts[self.link(from, to)] == 0
    }

    /// A cut on these links begins (`true`) or ends.
    pub fn cut(&mut self, links: u128, cut: bool) {
        for link in 0..self.cuts.len() {
            if links >> link & 1 == 1 {
                let cuts = &mut self.cuts[link];
                *cuts = if cut { *cuts + 1 } else { cuts.checked_sub(1).expect("it was cut") };
            }
        }
    }

    /// From now on these links behave like this, until [`Network::clear`] of the same number.
    pub fn set(&mut self, number: usize, links: u128, weather: Weather) {
        self.fronts.push((number, links, weather));
        self.forecast();
    }

    /// That weather is over.
    pub fn clear(&mut self, number: usize) {
        self.fronts.retain(|(of, _, _)| *of != number);
        self.forecast();
    }

    /// Everything is fair and nothing is cut.
    pub fn heal(&mut self) {
        self.cuts.fill(0);
        self.fronts.clear();
        self.forecast();
    }

    /// The links of a set, as bits; `find` says which machine a target is now.
    pub fn select(&self, links: Links, find: impl Fn(Target) -> Option<Machine>) -> u128 {
        let chosen = |from: Machine, to: Machine| match links {
            Links::All => true,
            Links::Around(target) => find(target).is_some_and(|it| it == from || it == to),
            Links::Out(target) => find(target) == Some(from),
            Links::Into(target) => find(target) == Some(to),
            Links::From(a, b) => (a, b) == (from, to),
            Links::Split(bits) => (bits >> from.0 & 1) != (bits >> to.0 & 1),
            Links::NotRing => {
                let (a, b, n) = (usize::from(from.0), usize::from(to.0), self.machines);
                (a + 1) % n != b && (b + 1) % n != a
            }
            Links::Bridge(bridge) => {
                let half = |it: Machine| usize::from(it.0) * 2 < self.machines;
                from != bridge && to != bridge && half(from) != half(to)
            }
        };
        let all = 0..self.machines as u8;
        let pairs =
            all.clone().flat_map(|from| all.clone().map(move |to| (Machine(from), Machine(to))));
        pairs
            .filter(|(from, to)| from != to && chosen(*from, *to))
            .fold(0, |set, (from, to)| set | 1 << self.link(from, to))
    }

    fn forecast(&mut self) {
        self.weather.fill(Weather::FAIR);
        for (_, links, weather) in &self.fronts {
            for link in 0..self.weather.len() {
                if links >> link & 1 == 1 {
                    self.weather[link] = *weather;
                }
            }
        }
    }

    fn link(&self, from: Machine, to: Machine) -> usize {
        usize::from(from.0) * self.machines + usize::from(to.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn network(machines: usize) -> Network {
        Network::new(machines, Rng::new(1))
    }

    fn open(network: &Network) -> Vec<(u8, u8)> {
        let all = 0..network.machines as u8;
        let pairs = all.clone().flat_map(|a| all.clone().map(move |b| (a, b)));
        pairs.filter(|(a, b)| a != b && network.is_open(Machine(*a), Machine(*b))).collect()
    }

    #[test]
    fn each_kind_of_cut_cuts_what_its_name_says() {
        let cut = |links| {
            let mut it = network(4);
            let set = it.select(links, |_| Some(Machine(0)));
            it.cut(set, true);
            let left = open(&it);
            it.cut(set, false);
            assert_eq!(open(&it).len(), 12, "{links:?} heals");
            left
        };
        assert_eq!(cut(Links::All), []);
        assert_eq!(cut(Links::Around(Target::Leader)).len(), 6);
        assert!(!cut(Links::Out(Target::Leader)).iter().any(|(from, _)| *from == 0));
        assert!(!cut(Links::Into(Target::Leader)).iter().any(|(_, to)| *to == 0));
        assert_eq!(cut(Links::From(Machine(1), Machine(2))).len(), 11);
        assert_eq!(cut(Links::Split(0b0011)), [(0, 1), (1, 0), (2, 3), (3, 2)]);
        assert!(!cut(Links::NotRing).contains(&(0, 2)));
        assert!(cut(Links::NotRing).contains(&(3, 0)));
        let bridge = cut(Links::Bridge(Machine(1)));
        assert!(bridge.contains(&(1, 3)) && bridge.contains(&(0, 1)) && !bridge.contains(&(0, 3)));
    }

    #[test]
    fn cuts_add_up_and_the_newest_weather_counts() {
        let mut it = network(2);
        let all = it.select(Links::All, |_| None);
        it.cut(all, true);
        it.cut(all, true);
        it.cut(all, false);
        assert_eq!(it.route(Machine(0), Machine(1)), Route::Lost(Loss::Cut));
        it.heal();
        let storm = Weather { loss: 1_000_000, ..Weather::FAIR };
        it.set(1, all, storm);
        it.set(2, all, Weather::FAIR);
        assert!(matches!(it.route(Machine(0), Machine(1)), Route::Arrives { corrupt: false, .. }));
        it.clear(2);
        assert_eq!(it.route(Machine(0), Machine(1)), Route::Lost(Loss::Link));
    }
}
