//! Many runs as a few numbers: medians over rounds, and ratios within them.

use super::{contender::Contender, load::Load, run::Run};

/// A number that a run has; not a number where it has none.
pub(super) type Metric = fn(&Run) -> f64;

/// The middle of the values, or the mean of the two that are.
pub(crate) fn median(mut values: Vec<f64>) -> Option<f64> {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    let upper = *values.get(middle)?;
    Some(if values.len() % 2 == 1 { upper } else { (values[middle - 1] + upper) / 2.0 })
}

/// The median of a metric over the rounds.
pub(super) fn over_rounds(runs: &[Run], load: Load, contender: Contender, metric: Metric) -> Option<f64> {
    median(of(runs, load, contender).map(metric).filter(|value| !value.is_nan()).collect())
}

/// How far the rounds are apart, in percent of the median.
pub(super) fn spread_percent(runs: &[Run], load: Load, contender: Contender, metric: Metric) -> Option<f64> {
    let values: Vec<f64> = of(runs, load, contender).map(metric).collect();
    let least = values.iter().copied().fold(f64::INFINITY, f64::min);
    let most = values.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    Some((most - least) * 100.0 / median(values)?)
}

/// The median of the rounds' own ratios: what drifts from one round to the next moves both sides of a ratio alike.
pub(super) fn ratio(
    runs: &[Run],
    load: Load,
    contender: Contender,
    other: Contender,
    metric: Metric,
) -> Option<f64> {
    let of_round = |run: &Run| {
        let theirs = of(runs, load, other).find(|theirs| theirs.round == run.round)?;
        Some(metric(run) / metric(theirs))
    };
    median(of(runs, load, contender).filter_map(of_round).filter(|ratio| !ratio.is_nan()).collect())
}

/// The errors of all rounds.
pub(super) fn errors(runs: &[Run], load: Load, contender: Contender) -> u64 {
    of(runs, load, contender).map(|run| run.report.errors).sum()
}

fn of(runs: &[Run], load: Load, contender: Contender) -> impl Iterator<Item = &Run> {
    runs.iter().filter(move |run| run.load == load && run.contender == contender)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::compare::run::tests::run;

    #[test]
    fn the_median_ignores_outliers_and_order() {
        assert_eq!(median(vec![9.0, 1.0, 1000.0]), Some(9.0));
        assert_eq!(median(vec![4.0, 1.0, 2.0, 1000.0]), Some(3.0));
        assert_eq!(median(vec![]), None);
    }

    #[test]
    fn a_ratio_is_taken_within_rounds() {
        let (ours, theirs) = (Contender::Concertina, Contender::Relay);
        // The machine is ten times slower in the second round; the proxy is not.
        let costs = [(1, 12, 10), (2, 120, 100), (3, 11, 10)];
        let runs: Vec<Run> = costs
            .iter()
            .flat_map(|&(round, a, b)| [run(round, Load::Small, ours, a), run(round, Load::Small, theirs, b)])
            .collect();
        assert_eq!(ratio(&runs, Load::Small, ours, theirs, Run::cpu_us), Some(1.2));
        assert_eq!(over_rounds(&runs, Load::Small, ours, Run::cpu_us), Some(12.0));
        assert_eq!(spread_percent(&runs, Load::Small, theirs, Run::cpu_us), Some(900.0));
        assert_eq!(ratio(&runs, Load::Close, ours, theirs, Run::cpu_us), None);
        assert_eq!(ratio(&runs, Load::Small, ours, Contender::Nginx, Run::cpu_us), None);
    }
}
