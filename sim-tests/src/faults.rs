//! The faults of a plan, carried out: each strikes at its time and is taken back at its end.

use std::time::Duration;

use raft_core::consensus::event::RoleName;
use raft_core::replica::Input;
use raft_core::storage::error::StorageError;
use raft_core::storage::meta::DataDir;
use raft_core::types::Time;

use crate::app::App;
use crate::disk::{Crash, Wrong};
use crate::forge::forge;
use crate::invariants::promises;
use crate::marks::Mark;
use crate::node::exit_of;
use crate::plan::{CrashLoss, DiskFault, Fault, Machine, Origin, Place, Rot, Spelling, Target};
use crate::queue::Event;
use crate::trace::Seen;
use crate::world::World;

/// A fault that lasts.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Lasting {
    /// Nothing to take back (any more).
    Nothing,
    /// A cut of these links; whether it is open right now (flapping).
    Cut { links: u128, flaps: Duration, until: Time, is_cut: bool },
    /// Weather.
    Weather,
    /// Two swapped disks.
    Swapped(Machine, Machine),
    /// A disk without room.
    Full(Machine),
    /// A slow disk.
    Slow(Machine),
    /// Late timers.
    Late(Machine),
    /// Lost answers.
    Deaf(Machine),
    /// Lies in wait.
    Ambush,
    /// Hears a stranger.
    Stranger(Machine),
    /// Hears a liar.
    Liar(Machine),
    /// Has a wrong file, wherever the disk is by now.
    WrongFile,
    /// Started with a wrong list of peers.
    Misspelt(Machine),
    /// A process that stands still.
    Still(Machine),
}

/// How long a process that stood still reads its sockets before it decides anything.
const WAKING: Duration = Duration::from_micros(50);

impl<A: App> World<A> {
    /// Whom a fault finds.
    pub(crate) fn find(&self, target: Target) -> Option<Machine> {
        let leader = || {
            let machines = (0..self.plan.machines()).map(Machine);
            let leads = machines.filter_map(|machine| {
                let raft = self.places[usize::from(machine.0)].running()?.replica.raft();
                (raft.role_name() == RoleName::Leader).then(|| (raft.term(), machine))
            });
            leads.max().map(|(_, machine)| machine)
        };
        match target {
            Target::One(machine) => (machine.0 < self.plan.machines()).then_some(machine),
            Target::Leader => leader(),
            Target::Follower(number) => {
                let leader = leader();
                let others =
                    (0..self.plan.machines()).map(Machine).filter(|it| Some(*it) != leader);
                let others: Vec<Machine> = others.collect();
                (!others.is_empty()).then(|| others[usize::from(number) % others.len()])
            }
        }
    }

    /// A fault strikes.
    pub(crate) fn strike(&mut self, number: usize) {
        let fault = self.plan.faults[number].what;
        let on = target_of(&fault).and_then(|target| self.find(target));
        self.counts.faults += 1;
        self.see(Seen::Fault { number, fault: &fault, on });
        if target_of(&fault).is_some() && on.is_none() {
            return;
        }
        let at = on.unwrap_or(Machine(0));
        let (lasting, lasts) = match fault {
            Fault::Links { links, weather, lasts } => {
                let links = self.network.select(links, |target| self.find(target));
                self.network.set(number, links, weather);
                (Lasting::Weather, lasts)
            }
            Fault::Cut { links, lasts, flaps } => {
                let links = self.network.select(links, |target| self.find(target));
                self.network.cut(links, true);
                let until = self.now + lasts;
                if !flaps.is_zero() {
                    self.later(flaps, Event::Flap(number as u32));
                }
                (Lasting::Cut { links, flaps, until, is_cut: true }, lasts)
            }
            Fault::Reset { .. } => return self.reset(at),
            Fault::Crash { down, fuse, loss, .. } => {
                return self.crash_for(at, down, fuse, loss);
            }
            Fault::Stop { down, .. } => {
                if self.place(at).is_up() {
                    self.stop(at, down);
                }
                return;
            }
            Fault::Pause { lasts, .. } => {
                if !self.place(at).is_up() {
                    return;
                }
                let until = self.now + lasts;
                let place = self.place(at);
                place.still_until = place.still_until.max(until);
                if let Some(running) = place.running_mut() {
                    // What came in meanwhile is taken in at once, not one by one.
                    running.busy_until = running.busy_until.max(until + WAKING);
                }
                self.see(Seen::Paused { machine: at, still: true });
                (Lasting::Still(at), lasts)
            }
            Fault::Wipe { down, .. } => {
                // When nobody remembers, a new cluster is what fresh nodes make, and rightly so.
                let mut others = (0..self.plan.voters).map(Machine).filter(|it| *it != at);
                // A disk is wiped in its own machine, which is a new node from then on.
                if self.is_swapped(at) {
                    return;
                }
                if others.all(|it| self.place(it).lost) {
                    return;
                }
                self.crash(at, 0, CrashLoss::Nothing);
                let place = self.place(at);
                place.disk.wipe();
                place.wipes += 1;
                place.lost = true;
                self.marks.hit(Mark::WipedCameBack);
                return self.restart(at, down);
            }
            // One swap at a time: each is undone at its own time.
            Fault::Swap { one, other, .. } if self.is_swapped(one) || self.is_swapped(other) => {
                return;
            }
            Fault::Swap { one, other, lasts } => {
                self.swap(one, other);
                (Lasting::Swapped(one, other), lasts)
            }
            Fault::SecondProcess { .. } => return self.second_process(at),
            Fault::Disk { fault, .. } => match fault {
                DiskFault::NoSpace { lasts } => {
                    self.place(at).disk.set_full(true);
                    (Lasting::Full(at), lasts)
                }
                DiskFault::Slow { by, lasts } => {
                    let place = self.place(at);
                    place.disk.set_slow(by);
                    place.slow = by;
                    (Lasting::Slow(at), lasts)
                }
                DiskFault::Rot { rot, place } => return self.rot(at, rot, place),
                fault => return self.place(at).disk.inject(fault),
            },
            Fault::Drift { ppm, .. } => {
                let now = self.now;
                self.place(at).clock.drift(now, ppm);
                return;
            }
            Fault::LateTimers { by, lasts, .. } => {
                self.place(at).late = by;
                (Lasting::Late(at), lasts)
            }
            Fault::Transfer { to } => {
                // The operator is impatient, and has asked a node that may not lead too.
                let to = to.map(|to| self.place(to).id);
                for at in [at, at, Machine((at.0 + 1) % self.plan.machines())] {
                    self.order(at, |id| Input::Transfer { id, to });
                }
                return;
            }
            Fault::Snapshot { .. } => {
                // Twice, as by a timer and by hand: one of them is told that it is under way.
                self.order(at, |id| Input::SnapshotNow { id });
                return self.order(at, |id| Input::SnapshotNow { id });
            }
            Fault::DeafClients { lasts, .. } => {
                self.place(at).deaf = true;
                (Lasting::Deaf(at), lasts)
            }
            Fault::Ambush { lasts, .. } => {
                self.ambushes.push(number);
                (Lasting::Ambush, lasts)
            }
            Fault::Stranger { lasts, .. } => {
                self.place(at).stranger = true;
                (Lasting::Stranger(at), lasts)
            }
            Fault::Liar { lasts, .. } => {
                self.place(at).liar = true;
                (Lasting::Liar(at), lasts)
            }
            Fault::WrongFile { place, origin, lasts, .. } => {
                if !self.misplace(at, Wrong { number, place, origin }) {
                    return;
                }
                (Lasting::WrongFile, lasts)
            }
            Fault::Misspelt { how, lasts, .. } => {
                self.respell(at, Some(how));
                (Lasting::Misspelt(at), lasts)
            }
            Fault::Bootstrap { .. } | Fault::Membership { .. } => {
                unreachable!("a plan with these is not run")
            }
        };
        self.lasting[number] = lasting;
        self.later(lasts, Event::Healed(number as u32));
    }

    /// A fault that lasted is over.
    pub(crate) fn heal(&mut self, number: usize) {
        match std::mem::replace(&mut self.lasting[number], Lasting::Nothing) {
            Lasting::Nothing => return,
            Lasting::Cut { links, is_cut, .. } => {
                if is_cut {
                    self.network.cut(links, false);
                }
            }
            Lasting::Weather => self.network.clear(number),
            Lasting::Swapped(one, other) => self.swap(one, other),
            Lasting::Full(machine) => self.place(machine).disk.set_full(false),
            Lasting::Slow(machine) => {
                let place = self.place(machine);
                place.disk.set_slow(Duration::ZERO);
                place.slow = Duration::ZERO;
            }
            Lasting::Late(machine) => self.place(machine).late = Duration::ZERO,
            Lasting::Deaf(machine) => self.place(machine).deaf = false,
            Lasting::Ambush => self.ambushes.retain(|waiting| *waiting != number),
            Lasting::Stranger(machine) => self.place(machine).stranger = false,
            Lasting::Liar(machine) => self.place(machine).liar = false,
            Lasting::WrongFile => self.put_back(number),
            Lasting::Misspelt(machine) => self.respell(machine, None),
            Lasting::Still(machine) => self.see(Seen::Paused { machine, still: false }),
        }
        self.see(Seen::Healed { number });
    }

    /// A cut that flaps opens or closes.
    pub(crate) fn flap(&mut self, number: usize) {
        let now = self.now;
        let Lasting::Cut { links, flaps, until, is_cut } = &mut self.lasting[number] else {
            return;
        };
        *is_cut = !*is_cut;
        let (links, cut, again) = (*links, *is_cut, now + *flaps);
        let goes_on = again < *until;
        self.network.cut(links, cut);
        if goes_on {
            self.queue.push(again, Event::Flap(number as u32));
        }
    }

    /// The process of the machine starts again after this long.
    pub(crate) fn restart(&mut self, machine: Machine, after: Duration) {
        let life = self.place(machine).life;
        self.later(after, Event::Start(machine, life));
    }

    /// Connections of the machine break: what is on its way to or from it is lost.
    fn reset(&mut self, machine: Machine) {
        self.drop_parcels(machine);
    }

    /// Whether the disk of another machine is in this one.
    fn is_swapped(&self, machine: Machine) -> bool {
        let swaps = |it: &Lasting| matches!(it, Lasting::Swapped(one, other) if [*one, *other].contains(&machine));
        self.lasting.iter().any(swaps)
    }

    fn swap(&mut self, one: Machine, other: Machine) {
        for machine in [one, other] {
            self.crash(machine, 0, CrashLoss::Nothing);
            self.place(machine).disk.crash(Crash::Process);
        }
        let disk = self.place(one).disk.clone();
        let disk = std::mem::replace(&mut self.place(other).disk, disk);
        self.place(one).disk = disk;
        let (a, b) = (self.place(one).lost, self.place(other).lost);
        (self.place(one).lost, self.place(other).lost) = (b, a);
        for machine in [one, other] {
            self.restart(machine, Duration::from_millis(100));
        }
    }

    /// The bytes of a disk change.
    pub(crate) fn rot(&mut self, machine: Machine, rot: Rot, place: Place) {
        let at = self.place(machine);
        at.lost |= at.disk.rot(rot, place).is_some();
    }

    /// A wrong file takes the place of a right one of the same kind, if there is one; the process
    /// is started on it.
    fn misplace(&mut self, machine: Machine, wrong: Wrong) -> bool {
        if self.place(machine).disk.wrong().is_some() {
            return false;
        }
        self.crash(machine, 0, CrashLoss::Nothing);
        let files = self.place(machine).disk.files(wrong.place);
        let found = (!files.is_empty()).then(|| {
            let path = self.place(machine).rng.pick(&files).clone();
            let bytes = match wrong.origin {
                Origin::Machine(other) if other == machine => None,
                Origin::Machine(other) => self.copy_of(other, wrong.place, &path),
                origin => {
                    let place = self.place(machine);
                    let bytes = place.disk.contents(&path).expect("the file is there");
                    forge(wrong.place, bytes, origin, &mut place.rng)
                }
            };
            (path, bytes)
        });
        self.restart(machine, Duration::from_millis(100));
        let Some((path, Some(bytes))) = found else { return false };
        self.place(machine).disk.displace(&path, bytes, wrong);
        true
    }

    /// A file of that machine's disk, of the same name if it has one.
    fn copy_of(&mut self, other: Machine, place: Place, path: &str) -> Option<Vec<u8>> {
        let disk = &self.place(other).disk;
        let own = disk.files(place);
        disk.contents(own.iter().find(|it| *it == path).or(own.first())?)
    }

    /// The operator has noticed: the right file is put back, and the process started again.
    fn put_back(&mut self, number: usize) {
        let is_there = |machine: &Machine| {
            let wrong = self.places[usize::from(machine.0)].disk.wrong();
            wrong.is_some_and(|wrong| wrong.number == number)
        };
        let Some(machine) = (0..self.plan.machines()).map(Machine).find(is_there) else { return };
        self.crash(machine, 0, CrashLoss::Nothing);
        let place = self.place(machine);
        let wrong = place.disk.wrong().expect("it was found there");
        if let Err(broken) = promises::left_alone(machine, wrong, place.disk.put_back()) {
            return self.violate(broken.rule, broken.what);
        }
        self.restart(machine, Duration::from_millis(100));
    }

    /// The process is started again with another list of peers.
    fn respell(&mut self, machine: Machine, spelling: Option<Spelling>) {
        self.place(machine).spelling = spelling;
        self.crash(machine, 0, CrashLoss::Nothing);
        self.restart(machine, Duration::from_millis(100));
    }

    /// Another process tries to take the directory.
    fn second_process(&mut self, machine: Machine) {
        let place = self.place(machine);
        if !place.is_up() || matches!(place.process, crate::node::Process::Opening) {
            return;
        }
        let name = format!("node{}", machine.0 + 1);
        match DataDir::open(place.disk.handle(), Some(&name), 0) {
            Err(error @ StorageError::Locked { .. }) => {
                self.marks.hit(Mark::SecondProcessRefused);
                self.see(Seen::Exited { machine, exit: &exit_of(&error) });
            }
            // A fault that waited for the next operation has struck this one.
            Err(_) => {}
            Ok(_) => {
                self.violate("lock", format!("two processes hold the directory of {machine}"));
            }
        }
    }
}

fn target_of(fault: &Fault) -> Option<Target> {
    match fault {
        Fault::Reset { target }
        | Fault::Crash { target, .. }
        | Fault::Stop { target, .. }
        | Fault::Pause { target, .. }
        | Fault::Wipe { target, .. }
        | Fault::SecondProcess { target }
        | Fault::Disk { target, .. }
        | Fault::Drift { target, .. }
        | Fault::LateTimers { target, .. }
        | Fault::Snapshot { target }
        | Fault::Stranger { target, .. }
        | Fault::Liar { target, .. }
        | Fault::WrongFile { target, .. }
        | Fault::Misspelt { target, .. }
        | Fault::Bootstrap { target }
        | Fault::DeafClients { target, .. } => Some(*target),
        Fault::Transfer { .. } => Some(Target::Leader),
        // An ambush looks for its victim when the moment has come.
        Fault::Links { .. }
        | Fault::Cut { .. }
        | Fault::Swap { .. }
        | Fault::Ambush { .. }
        | Fault::Membership { .. } => None,
    }
}
