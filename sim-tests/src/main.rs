//! `cargo sim`: runs seeds and plans, and says what broke.

fn main() {
    let mut args = std::env::args().skip(1);
    let from: u64 = args.next().unwrap().parse().unwrap();
    let count: u64 = args.next().unwrap().parse().unwrap();
    let traced = args.next().is_some();
    for seed in from..from + count {
        let plan = sim_tests::generate::plan(seed);
        let (chaos, voters, nfaults) = (plan.chaos, plan.voters, plan.faults.len());
        let began = std::time::Instant::now();
        let report =
            if traced { sim_tests::run::run_traced(plan) } else { sim_tests::run::run(plan) };
        println!("seed {seed} v{voters} f{nfaults} chaos {:?} took {:?} {:032x} {:?} {:?} {:?}", chaos, began.elapsed(), report.hash, report.counts, report.marks, report.failure);
    }
}
