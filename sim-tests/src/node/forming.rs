//! A process on its way into a cluster: the daemon's own forming, asked over the simulated network.

use std::time::Duration;

use kv_daemon::form::{Hello, Identity, PROTOCOL, Standing, Verdict};
use raft_core::membership::Membership;
use raft_core::node::form;
use raft_core::types::{ClusterId, Time};

use crate::app::App;
use crate::marks::Mark;
use crate::plan::Machine;
use crate::queue::Event;
use crate::trace::Seen;
use crate::world::{Parcel, World};

use super::end::exit_of;
use super::start::{identity, storage_options};
use super::{FormingProcess, Process};

/// Forming.
impl<A: App> World<A> {
    pub(super) fn decide_alone(&mut self, machine: Machine) {
        let place = self.place(machine);
        let me = identity(machine, place.id);
        let Process::Forming(process) = &mut place.process else { return };
        process.decided = Some(kv_daemon::form::formation_of(&[me]).membership);
        self.write_formation(machine);
    }

    /// Forming looks at the time.
    pub(crate) fn form_due(&mut self, machine: Machine) {
        let now = self.now;
        if let Process::Forming(process) = &mut self.place(machine).process
            && process.wake_at <= now
        {
            process.wake_at = Time::NEVER;
            self.form_wake(machine);
        }
    }

    /// Forming asks what it wants to know.
    pub(super) fn form_wake(&mut self, machine: Machine) {
        let now = self.now;
        let place = self.place(machine);
        let (local, life) = (place.clock.read(now), place.life);
        let Process::Forming(process) = &mut place.process else { return };
        if process.decided.is_some() {
            return;
        }
        let asks = process.forming.wake(local);
        process.note_set(now);
        let would_form = process.would_form;
        let (adopts, decided) = match process.forming.verdict() {
            Verdict::Wait(_) => (false, None),
            Verdict::Form(formation) => (false, Some(formation.membership.clone())),
            Verdict::Adopt(formation) => (true, Some(formation.membership.clone())),
        };
        if let Some(membership) = decided {
            process.decided = Some(membership.clone());
            if adopts {
                self.marks.hit(Mark::FormationAdopted);
            } else {
                self.check_agreement(machine, &membership, would_form);
            }
            return self.write_formation(machine);
        }
        let deadline = process.forming.deadline();
        let at = place.clock.when(deadline).max(now + Duration::from_micros(10));
        let Process::Forming(process) = &mut place.process else { return };
        if at < process.wake_at {
            process.wake_at = at;
            self.queue.push(at, Event::FormWake(machine, life));
        }
        for ask in asks {
            let number = ask.ask;
            let Some(to) = self.resolve(&ask.address) else { continue };
            self.post(machine, to, Parcel::Ask { from: machine, to, life, ask: number });
        }
    }

    /// I21, the reason why it holds: whoever forms has heard from every other member that it would
    /// form the same, said *after* its own set had become this one. An older word may be of a node
    /// that knows more by now.
    fn check_agreement(
        &mut self,
        machine: Machine,
        membership: &Membership,
        (cluster, since): (Option<ClusterId>, Time),
    ) {
        let Some(cluster) = cluster else { return };
        let me = self.place(machine).id;
        let silent = membership.members().map(|(node, _)| node).find(|node| {
            let said = self.said.get(&(*node, cluster));
            *node != me && said.is_none_or(|said| *said < since)
        });
        if let Some(node) = silent {
            let what = format!("{me} forms {cluster}, and {node} has not said so since {since:?}");
            self.violate("I21", what);
        }
    }

    fn write_formation(&mut self, machine: Machine) {
        let life = self.place(machine).life;
        let takes = self.sync_time(machine);
        self.later(takes, Event::Formed(machine, life));
    }

    /// What all agreed on is written, synced.
    pub(crate) fn formed(&mut self, machine: Machine) {
        let knobs = self.plan.knobs.clone();
        let place = self.place(machine);
        let seed = place.rng.bits();
        let Process::Forming(process) = std::mem::replace(&mut place.process, Process::Opening)
        else {
            return;
        };
        let FormingProcess { mut dir, decided, .. } = *process;
        let membership = decided.expect("only a decision is written");
        match form(&mut dir, &membership, &storage_options(&knobs, seed)) {
            Ok(cluster) => {
                self.see(Seen::Formed { machine, cluster });
                self.run_node(machine, dir);
            }
            Err(error) => self.exit(machine, exit_of(&error)),
        }
    }

    /// Somebody asks who is here.
    pub(crate) fn asked_hello(&mut self, to: Machine) -> Result<Hello, String> {
        let now = self.now;
        let place = self.place(to);
        let me = identity(to, place.id);
        match &place.process {
            Process::Down | Process::Opening => Err("connection refused".to_owned()),
            Process::Forming(process) => {
                let hello = process.forming.hello();
                if let Standing::Fresh { digest: Some(cluster) } = hello.standing {
                    self.said.insert((hello.identity.node_id, cluster), now);
                }
                Ok(hello)
            }
            Process::Running(running) => {
                let members = running.replica.raft().log().membership().members();
                let set = members.map(|(node_id, member)| Identity {
                    node_id,
                    name: member.name.clone(),
                    address: member.address.clone(),
                });
                Ok(Hello {
                    identity: me,
                    standing: Standing::Formed { cluster: running.cluster },
                    set: set.collect(),
                    peers: Vec::new(),
                    protocol: PROTOCOL,
                    version: "simulated".to_owned(),
                })
            }
        }
    }

    /// The answer to a hello is here.
    pub(crate) fn hello_answered(
        &mut self,
        machine: Machine,
        life: u32,
        ask: u64,
        answer: Result<Vec<u8>, String>,
    ) {
        let now = self.now;
        let place = self.place(machine);
        if place.life != life {
            return;
        }
        let local = place.clock.read(now);
        let Process::Forming(process) = &mut place.process else { return };
        let answer = answer.and_then(|json| Hello::from_json(&json));
        process.forming.answered(local, ask, answer);
        process.note_set(now);
        self.form_wake(machine);
    }
}

impl FormingProcess {
    /// Remembers since when its set has been what it is.
    fn note_set(&mut self, now: Time) {
        if let Standing::Fresh { digest } = self.forming.hello().standing
            && digest != self.would_form.0
        {
            self.would_form = (digest, now);
        }
    }
}
