//! A run of the key-value service with everything that watches it.

use crate::app::App;
use crate::html::Page;
use crate::invariants::Invariants;
use crate::judge::Judge;
use crate::kv::Kv;
use crate::marks::Spotter;
use crate::plan::Plan;
use crate::transcript::Transcript;
use crate::world::{Report, World};

/// Runs this plan, watched by every checker.
pub fn run(plan: Plan) -> Report {
    world(plan).run()
}

/// The same, with every decision told in words to nobody: whether telling changes a run.
pub fn run_told(plan: Plan) -> Report {
    let mut world = world(plan);
    world.trace();
    world.run()
}

/// The same, with every fact and decision printed as it happens.
pub fn run_traced(plan: Plan) -> Report {
    let mut world = world(plan);
    world.trace();
    world.watch(Transcript::default());
    world.run()
}

/// The same, and the run as one page for a browser.
pub fn run_drawn(plan: Plan, name: &str) -> (Report, String) {
    let mut page = Page::new(name, &plan);
    let mut world = world(plan);
    world.trace();
    world.watch(page.pen());
    let report = world.run();
    let html = page.html(&report);
    (report, html)
}

/// Runs this plan with another state machine, watched by the rules of Raft and its own.
pub fn run_app<A: App>(plan: Plan) -> Report {
    let mut world = World::<A>::new(plan);
    world.watch(Invariants::default());
    world.watch(Spotter::default());
    world.run()
}

fn world(plan: Plan) -> World<Kv> {
    let mut world = World::new(plan);
    world.watch(Invariants::default());
    world.watch(Judge::default());
    world.watch(Spotter::default());
    world
}
