//! Dot products, what follows from them, and sums of tensors.

use super::{ONE_BLOCK, Operand, assert_close, grid, module, tables, tensors, values, vars};
use crate::Cpu;
use crate::on_host::{Guarded, Order};
use crate::optimizer_step::cuda_args::{Combine, Dots, Factors, rule};
use crate::optimizer_step::{self, Combination, FoundInf, Rule};

#[test]
fn mixes_and_sums_are_those_of_the_cpu() {
    let Some(module) = module() else { return };
    let (cpu, before, xs, ys, note) = (Cpu::shared(), values(1), values(2), values(3), FoundInf::default());
    let (x, y) = (tensors(&xs), tensors(&ys));
    let (dots, _) = optimizer_step::dots(cpu, &x.iter().zip(&y).collect::<Vec<_>>(), &note).unwrap();
    for (of, clip) in [
        (Rule::Fixed(0.5, -1.5), f64::INFINITY),
        (Rule::SurrogateGap { alpha: 0.4 }, 1.0),
        (Rule::Reuse { alpha: 0.7 }, f64::INFINITY),
        (Rule::Beside, 1e9),
    ] {
        let expected = dots.mix(of, Some(clip)).unwrap();
        for order in Order::BOTH {
            let (x_operand, y_operand) = (Operand::new(&xs), Operand::new(&ys));
            let tables_of_dots = tables([Some(&x_operand), Some(&y_operand)]);
            let count: usize = tables_of_dots.iter().map(|(_, blocks)| blocks).sum();
            let partials = Guarded::new(&vec![f64::NAN; 3 * count]);
            let mut at = partials.device();
            for (tensors, blocks) in tables_of_dots {
                module.launch("dots", grid(blocks), order, &Dots { tensors, partials: at });
                at += 24 * blocks as u64;
            }
            let (factors, found_inf) = (Guarded::new(&[f64::NAN; 4]), Guarded::new(&[0f64; 3]));
            let (alpha, beta, rule) = rule(of);
            let arguments = Factors {
                partials: partials.device(),
                count: count as u64,
                factors: factors.device(),
                found_inf: found_inf.device(),
                alpha,
                beta,
                clip,
                step: 3.0,
                rule,
            };
            module.launch("factors", ONE_BLOCK, order, &arguments);
            let known: [f64; 2] = [expected.norm(), expected.cosine()].map(|n| n.to_scalar().unwrap());
            assert!(
                (factors[2] / known[0] - 1.0).abs() < 1e-11 && (factors[3] - known[1]).abs() < 1e-11,
                "{of:?}"
            );

            for combination in [Combination::Mixed(&expected, 0.5), Combination::Plus(&expected, -2.0)] {
                let v = vars(&before);
                let rows: Vec<_> = v.iter().zip(&x).zip(&y).map(|((v, x), y)| (v, x, y)).collect();
                optimizer_step::combine_all(cpu, combination, &rows, &note).unwrap();
                let operand = Operand::new(&before);
                for (tensors, blocks) in tables([Some(&operand), Some(&x_operand), Some(&y_operand)]) {
                    // The share, which the factors of the GPU are multiplied by.
                    let arguments = Combine::new(tensors, factors.device(), found_inf.device(), &combination);
                    let share =
                        if let Combination::Mixed(_, share) | Combination::Plus(_, share) = combination {
                            share as f32
                        } else {
                            1.0
                        };
                    let arguments = Combine { of_x: share, of_y: share, ..arguments };
                    module.launch("combine", grid(blocks), order, &arguments);
                }
                assert_close(&format!("{of:?} {combination:?}"), &operand, &v);
            }
        }
    }
    for combination in [Combination::Scaled(0.3), Combination::PlusScaled(-0.7), Combination::Toward(0.1)] {
        for found in [0.0, 1.0] {
            let (v, operand, x_operand) = (vars(&before), Operand::new(&before), Operand::new(&xs));
            if found == 0.0 {
                let rows: Vec<_> = v.iter().zip(&x).map(|(v, x)| (v, x, x)).collect();
                optimizer_step::combine_all(cpu, combination, &rows, &note).unwrap();
            }
            let found_inf = Guarded::new(&[found, f64::NAN, 0.0]);
            for (tensors, blocks) in tables([Some(&operand), Some(&x_operand), Some(&x_operand)]) {
                let arguments = Combine::new(tensors, 0, found_inf.device(), &combination);
                module.launch("combine", grid(blocks), Order::Descending, &arguments);
            }
            assert_close(&format!("{combination:?}"), &operand, &v);
        }
    }
}
