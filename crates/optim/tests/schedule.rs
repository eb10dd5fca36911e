//! Schedules over whole trainings of many lengths.

use proptest::prelude::*;
use wrn_sam_optim::{CosineWithWarmup, Schedule, StepLr};

#[test]
fn step_lr_drops_where_the_reference_does() {
    let schedule = StepLr::new(0.1, 200);
    for (epoch, drops) in
        [(0, 0), (39, 0), (40, 1), (99, 1), (100, 2), (139, 2), (140, 3), (169, 3), (170, 4)]
    {
        assert!((schedule.at(epoch) - 0.1 * 0.2f64.powi(drops)).abs() < 1e-15, "epoch {epoch}");
    }
    // 85 % of 10 epochs is 8.5: the rate drops at the epoch after.
    assert!(StepLr::new(1.0, 10).at(8) > StepLr::new(1.0, 10).at(9));
}

proptest! {
    #[test]
    fn step_lr_counts_the_thresholds_passed(epochs in 1usize..500, epoch in 0usize..500) {
        // In units of 1/20 epoch every threshold is whole.
        let passed = [4, 10, 14, 17].iter().filter(|&&twentieth| epoch * 20 >= epochs * twentieth).count();
        let expected = 0.1 * 0.2f64.powi(passed as i32);
        prop_assert!((StepLr::new(0.1, epochs).at(epoch) - expected).abs() < 1e-15);
    }

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
