//! The shortest run that still fails: a plan with fewer faults, clients, steps, nodes and seconds.
//!
//! A run follows from its plan, so a smaller plan is a different run: it may fail or not. Whatever fails is
//! kept, and made smaller again.

use std::time::Duration;

use super::{Failure, Plan};

/// What is left of a plan.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Shrunk {
    /// The smallest plan found that fails.
    pub plan: Plan,
    /// What it finds.
    pub failure: Failure,
    /// How many runs it took.
    pub runs: usize,
}

impl Plan {
    /// Looks for a smaller plan that fails as well, by at most `runs_max` runs. `failure` is what this
    /// one has found.
    pub fn shrink(&self, failure: Failure, runs_max: usize) -> Shrunk {
        shrink(self, failure, runs_max, |plan| {
            plan.run().err().map(|failure| *failure)
        })
    }

    /// Somewhat smaller plans, the most promising first.
    fn smaller(&self) -> Vec<Plan> {
        let mut plans = Vec::new();
        let mut push = |change: &dyn Fn(&mut Plan)| {
            let mut plan = self.clone();
            change(&mut plan);
            if plan != *self {
                plans.push(plan);
            }
        };
        push(&|plan| plan.faulty = (plan.faulty / 2).max(Duration::from_secs(1)));
        push(&|plan| plan.steps = (plan.steps / 2).max(1));
        push(&|plan| plan.clients = (plan.clients / 2).max(1));
        push(&|plan| plan.nodes = plan.nodes.min(3));
        for kind in self.faults.kinds() {
            push(&|plan| plan.faults = plan.faults.clone().without(kind));
        }
        push(&|plan| plan.clients = plan.clients.saturating_sub(1).max(1));
        push(&|plan| plan.faulty = plan.faulty.saturating_sub(Duration::from_secs(1)));
        // Whole seconds, so that the options of the runner can say it.
        for plan in &mut plans {
            plan.faulty = Duration::from_secs(plan.faulty.as_secs().max(1));
        }
        plans.retain(|plan| plan != self);
        plans
    }
}

fn shrink(
    plan: &Plan,
    failure: Failure,
    runs_max: usize,
    mut run: impl FnMut(&Plan) -> Option<Failure>,
) -> Shrunk {
    let mut shrunk = Shrunk {
        plan: plan.clone(),
        failure,
        runs: 0,
    };
    'smaller: loop {
        for plan in shrunk.plan.smaller() {
            if shrunk.runs == runs_max {
                return shrunk;
            }
            shrunk.runs += 1;
            if let Some(failure) = run(&plan) {
                shrunk.plan = plan;
                shrunk.failure = failure;
                continue 'smaller;
            }
        }
        return shrunk;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Workload;
    use super::*;
    use crate::testing::history::History;
    use crate::testing::sim::FaultKind;

    #[test]
    fn what_a_failure_does_not_need_is_left_out() {
        let failure = || Failure {
            found: "it fails".to_string(),
            history: History::default(),
        };
        let plan = Plan::new(Workload::Registers, 1);
        let shrunk = shrink(&plan, failure(), 1_000, |plan| {
            let fails = plan.faults.contains(FaultKind::Pause)
                && plan.clients >= 2
                && plan.faulty >= Duration::from_secs(3);
            fails.then(failure)
        });
        let kinds: Vec<_> = shrunk.plan.faults.kinds().collect();
        assert_eq!(kinds, [FaultKind::Pause]);
        assert_eq!((shrunk.plan.clients, shrunk.plan.steps), (2, 1));
        assert_eq!(shrunk.plan.faulty, Duration::from_secs(3));
    }
}
