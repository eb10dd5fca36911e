//! The kernel of `cuda.cu`, run on the host, against counting.

use super::cuda_args::Tally;
use crate::on_host::{Grid, Guarded, Order, compile};

#[test]
fn ranks_are_counted_and_losses_summed() {
    let Some(module) = compile("tally", &["tally"]) else { return };
    for (rows, classes) in [(1, 1), (2, 5), (3, 7), (31, 33), (33, 100), (70, 10)] {
        // Few values, so that many are equal, and now and then none.
        let logits: Vec<f32> = (0..rows * classes)
            .map(|i| if i % 97 == 96 { f32::NAN } else { (i * 7919 % 23) as f32 })
            .collect();
        let labels: Vec<u32> = (0..rows)
            .map(|row| if row % 29 == 28 { classes as u32 } else { (row * 31 % classes) as u32 })
            .collect();
        let losses: Vec<f32> = (0..rows).map(|row| 0.1 + row as f32).collect();
        let mut expected = [10.0, 20.0, 30.0, 40.0];
        for row in 0..rows {
            let logits = &logits[row * classes..][..classes];
            let rank = logits.get(labels[row] as usize).map(|&own| {
                let likelier = |(class, &x): (usize, &f32)| {
                    class != labels[row] as usize && !(x < own || (x == own && class > labels[row] as usize))
                };
                logits.iter().enumerate().filter(|&entry| likelier(entry)).count()
            });
            expected[0] += 1.0;
            expected[1] += f64::from(losses[row]);
            expected[2] += f64::from(u8::from(rank.is_some_and(|rank| rank < 1)));
            expected[3] += f64::from(u8::from(rank.is_some_and(|rank| rank < 5)));
        }
        for order in Order::BOTH {
            let (at_logits, at_labels, at_losses) =
                (Guarded::new(&logits), Guarded::new(&labels), Guarded::new(&losses));
            let tally = Guarded::new(&[10.0, 20.0, 30.0, 40.0]);
            let arguments = Tally {
                logits: at_logits.device(),
                labels: at_labels.device(),
                losses: at_losses.device(),
                tally: tally.device(),
                rows: rows as u64,
                classes: classes as u32,
            };
            module.launch("tally", Grid { blocks: (1, 1), threads: 1024, shared: 0 }, order, &arguments);
            assert_eq!(
                [tally[0], tally[2], tally[3]],
                [expected[0], expected[2], expected[3]],
                "{rows}x{classes}"
            );
            assert!((tally[1] - expected[1]).abs() < 1e-9 * expected[1]);
        }
    }
}
