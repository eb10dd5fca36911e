//! The kernel of `cuda.cu`, run on the host, against the plain form; and the distributions of the draws.

use super::cuda_args::Augment;
use super::{Draws, plain};
use crate::on_host::{Grid, Guarded, Order, compile};

const DRAWS: Draws =
    Draws { seed: 0x1234_5678_9abc_def0, padding: 4, flip: 0.5, cutout: 0.5, cutout_size: 16 };

const SIZE: [u32; 2] = [32, 32];

#[test]
fn batches_are_those_of_the_plain_form_to_the_bit() {
    let Some(module) = compile("augment", &["augment"]) else { return };
    let labels = [9u8, 99, 0, 3, 7];
    let order = [3u32, 0, 4, 2, 1, 3, 3, 0, 1];
    let edge = Draws { padding: 32, flip: 1.0, cutout: 1.0, cutout_size: 64, ..DRAWS };
    let none = Draws { padding: 0, flip: 0.0, cutout: 0.0, cutout_size: 1, ..DRAWS };
    let all =
        [[3, 32, 32], [1, 5, 17]].into_iter().flat_map(|dims| [DRAWS, edge, none].map(|draws| (dims, draws)));
    for (dims, draws) in all {
        let [channels, height, width] = dims;
        let len = channels * height * width;
        let images: Vec<u8> = (0..5 * len).map(|i| (i * 31 % 251) as u8).collect();
        let values: Vec<f32> = (0..channels * 256).map(|i| (i as f32 - 300.0) / 77.0).collect();
        let (epoch, first, count) = (7, 2, 7);
        let mut expected = vec![0f32; count * len];
        for (out, position) in expected.chunks_exact_mut(len).zip(first..) {
            let image = order[position] as usize;
            let draw = draws.at(epoch, position as u64, [height as u32, width as u32]);
            plain::augment(&images[image * len..][..len], dims, &values, &draws, &draw, out);
        }
        for order_of_threads in Order::BOTH {
            for bf16 in [false, true] {
                let (at_images, at_labels) = (Guarded::new(&images), Guarded::new(&labels));
                let (at_order, at_values) = (Guarded::new(&order), Guarded::new(&values));
                let (out, out_bf16) =
                    (Guarded::new(&vec![0f32; count * len]), Guarded::new(&vec![0u16; count * len]));
                let out_labels = Guarded::new(&vec![0u32; count]);
                let arguments = Augment {
                    images: at_images.device(),
                    labels: at_labels.device(),
                    order: at_order.device(),
                    values: at_values.device(),
                    out: if bf16 { out_bf16.device() } else { out.device() },
                    out_labels: out_labels.device(),
                    bf16_out: bf16.into(),
                    ..Augment::new(&draws, dims, epoch, first as u64)
                };
                module.launch(
                    "augment",
                    Grid { blocks: (count, 1), threads: 256, shared: 0 },
                    order_of_threads,
                    &arguments,
                );
                let wanted: Vec<u32> = order[first..].iter().map(|&i| labels[i as usize].into()).collect();
                assert_eq!(out_labels[..], wanted);
                if bf16 {
                    let wide = |bits: &u16| f32::from_bits(u32::from(*bits) << 16);
                    let close = |(found, expected): (&u16, &f32)| {
                        (wide(found) - expected).abs() <= expected.abs() / 256.0
                    };
                    assert!(out_bf16.iter().zip(&expected).all(close), "{draws:?}");
                } else {
                    assert!(out[..] == expected, "{draws:?}");
                }
            }
        }
    }
}

/// Pearson's χ² of counts that should be equal.
fn chi_square(counts: &[u32]) -> f64 {
    let expected = f64::from(counts.iter().sum::<u32>()) / counts.len() as f64;
    counts.iter().map(|&count| (f64::from(count) - expected).powi(2) / expected).sum()
}

#[test]
fn draws_are_uniform_and_independent() {
    const N: u64 = 100_000;
    let draws: Vec<_> = (0..N).map(|position| DRAWS.at(3, position, SIZE)).collect();
    let count = |cells: usize, cell: &dyn Fn(&super::Draw) -> Option<usize>| {
        let mut counts = vec![0; cells];
        draws.iter().filter_map(cell).for_each(|cell| counts[cell] += 1);
        counts
    };
    // Quantiles of χ² at 1 - 1e-6 for these degrees of freedom: the seed is fixed, so what holds now holds always.
    let offsets = count(81, &|draw| Some(((draw.down + 4) * 9 + draw.right + 4) as usize));
    assert!(chi_square(&offsets) < 150.0, "{offsets:?}");
    let places = count(1024, &|draw| draw.cutout.map(|(top, left)| ((top + 8) * 32 + left + 8) as usize));
    assert!(chi_square(&places) < 1250.0);
    let coins = count(4, &|draw| Some(usize::from(draw.flip) * 2 + usize::from(draw.cutout.is_some())));
    assert!(chi_square(&coins) < 31.0, "{coins:?}");
    // An offset says nothing of the coins.
    let joint = count(36, &|draw| {
        Some(((draw.down + 4) * 4) as usize + usize::from(draw.flip) * 2 + usize::from(draw.cutout.is_some()))
    });
    assert!(chi_square(&joint) < 93.0, "{joint:?}");
    // Nor does one position, epoch or seed of the next.
    let pairs = |other: &dyn Fn(u64) -> super::Draw| {
        let mut counts = vec![0; 81];
        for (position, draw) in draws.iter().enumerate() {
            counts[((draw.down + 4) * 9 + other(position as u64).down + 4) as usize] += 1;
        }
        chi_square(&counts)
    };
    assert!(pairs(&|position| DRAWS.at(3, position + 1, SIZE)) < 150.0);
    assert!(pairs(&|position| DRAWS.at(4, position, SIZE)) < 150.0);
    assert!(pairs(&|position| Draws { seed: DRAWS.seed + 1, ..DRAWS }.at(3, position, SIZE)) < 150.0);
}

#[test]
fn probabilities_of_zero_and_one_are_exact() {
    for position in 0..10_000 {
        let draw = Draws { flip: 0.0, cutout: 1.0, padding: 0, ..DRAWS }.at(0, position, SIZE);
        assert!(!draw.flip && draw.cutout.is_some() && (draw.down, draw.right) == (0, 0));
        let draw = Draws { flip: 1.0, cutout: 0.0, ..DRAWS }.at(0, position, SIZE);
        assert!(draw.flip && draw.cutout.is_none());
    }
}
