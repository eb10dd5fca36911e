//! Schedules over whole trainings of many lengths.

use proptest::prelude::*;
use wrn_sam_optim::{CosineWithWarmup, MultiStepLr, Schedule};

#[test]
fn the_rate_drops_at_each_milestone() {
    let schedule = MultiStepLr::new(0.1, [140, 40, 100], 0.2);
    for (epoch, drops) in [(0, 0), (39, 0), (40, 1), (99, 1), (100, 2), (139, 2), (140, 3), (usize::MAX, 3)] {
        assert!((schedule.at(epoch) - 0.1 * 0.2f64.powi(drops)).abs() < 1e-15, "epoch {epoch}");
    }
    assert_eq!(MultiStepLr::new(0.1, [], 0.2).at(7), 0.1);
    assert_eq!(MultiStepLr::new(0.1, [0, 0], 0.5).at(0), 0.025);
}

#[test]
fn a_closure_is_a_schedule() {
    let schedule: &dyn Schedule = &|epoch: usize| 0.5 / (epoch + 1) as f64;
    assert_eq!([schedule.at(0), schedule.at(3)], [0.5, 0.125]);
}

#[test]
fn a_cosine_ends_at_zero_whatever_its_warm_up() {
    for (epochs, warmup) in [(0, 0), (1, 0), (5, 5), (5, 4), (0, 3)] {
        let schedule = CosineWithWarmup::new(0.3, epochs, warmup);
        for epoch in [epochs.max(warmup), epochs.max(warmup) + 1, usize::MAX] {
            assert_eq!(schedule.at(epoch), 0.0, "epoch {epoch} of {epochs}, warm-up of {warmup}");
        }
    }
    assert_eq!(CosineWithWarmup::new(0.4, 9, 3).at(1), 0.2);
    assert!((CosineWithWarmup::new(0.4, 9, 3).at(6) - 0.2).abs() < 1e-12);
    assert!(CosineWithWarmup::new(0.4, 0, usize::MAX).at(7) > 0.0);
}

proptest! {
    #[test]
    fn cosine_rises_then_falls_and_stays_in_range(epochs in 1usize..300, warmup in 0usize..300) {
        let schedule = CosineWithWarmup::new(0.5, epochs, warmup);
        let rates: Vec<f64> = (0..epochs).map(|epoch| schedule.at(epoch)).collect();
        prop_assert!(rates.iter().all(|&rate| rate > 0.0 && rate <= 0.5));
        let top = warmup.min(epochs);
        prop_assert!(rates[..top].is_sorted());
        prop_assert!(rates[top..].is_sorted_by(|a, b| a >= b));
        if warmup < epochs {
            prop_assert_eq!(rates[warmup], 0.5);
        }
    }
}
