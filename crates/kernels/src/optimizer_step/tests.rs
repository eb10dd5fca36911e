//! Every pass against its reference, over shapes that fill blocks and lanes unevenly, on every number of
//! threads.

use candle_core::{DType, Device, Tensor, Var};
use proptest::prelude::*;

use super::*;

const CPU: &Device = &Device::Cpu;

/// A repeatable vector that looks random.
fn noise(seed: u64, len: usize) -> Vec<f32> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 40) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..len).map(|_| next()).collect()
}

fn var(seed: u64, len: usize) -> Var {
    Var::from_vec(noise(seed, len), len, CPU).expect("a vector is a valid variable")
}

fn bits(tensor: &Tensor) -> Vec<u32> {
    tensor.to_vec1::<f32>().expect("f32").into_iter().map(f32::to_bits).collect()
}

#[track_caller]
fn assert_close(found: &Tensor, expected: &Tensor, tolerance: f64) {
    let expected = expected.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    let found = found.to_dtype(DType::F64).unwrap().flatten_all().unwrap().to_vec1::<f64>().unwrap();
    for (found, expected) in found.iter().zip(&expected) {
        assert!((found - expected).abs() <= tolerance * expected.abs().max(1.0), "{found} for {expected}");
    }
}

const PLAIN: Size = Size::Constant(1.0);
const BALLS: [(Neighborhood, Size); 9] = [
    (Neighborhood::new(2.0), PLAIN),
    (Neighborhood::new(2.0), Size::Weights { eta: 0.0 }),
    (Neighborhood::new(2.0), Size::Weights { eta: 0.01 }),
    (Neighborhood::new(2.0), Size::Constant(2.5)),
    (Neighborhood::new(f64::INFINITY), PLAIN),
    (Neighborhood::new(f64::INFINITY), Size::Weights { eta: 0.0 }),
    (Neighborhood::new(3.0), Size::Constant(0.5)),
    (Neighborhood::new(1.5), Size::Weights { eta: 0.1 }),
    (Neighborhood { normalize: false, ..Neighborhood::new(2.0) }, PLAIN),
];
const LENGTHS: [usize; 7] = [1, 15, 16, 17, 1000, 16 << 10, 100_003];

const SGD: SgdStep =
    SgdStep { learning_rate: 0.1, momentum: 0.9, dampening: 0.2, nesterov: false, weight_decay: 5e-4 };
const ADAMW: AdamWStep =
    AdamWStep { learning_rate: 0.01, beta1: 0.9, beta2: 0.999, epsilon: 1e-8, weight_decay: 0.05, step: 3 };

/// The same variable in `f64`, which takes the reference.
fn wide(var: &Var) -> Var {
    Var::from_tensor(&var.to_dtype(DType::F64).unwrap()).unwrap()
}

/// Climbs by what `power_sums` gives, and returns that.
fn climb(cpu: &Cpu, ball: &Neighborhood, rho: f64, slope: Slope<'_>, old: &Var) -> Result<f64> {
    let sum = power_sums(cpu, ball, &[slope])?[0];
    perturb_all(cpu, &Ascent::new(ball, rho, sum)?, &[(slope, old)])?;
    Ok(sum)
}

#[test]
fn ascent_agrees_with_the_reference() -> Result<()> {
    for ((ball, size), remembers) in BALLS.into_iter().flat_map(|ball| [(ball, false), (ball, true)]) {
        let ball = Neighborhood { gradient: 0.7, memory: -0.4, ..ball };
        for len in LENGTHS {
            let cpu = Cpu::new(2);
            let (w, old, g, m) = (var(1, len), var(2, len), var(3, len), var(4, len));
            let (w64, old64, g64, m64) = (wide(&w), wide(&old), wide(&g), wide(&m));
            let of =
                |w, g, m| Slope { memory: remembers.then_some(m), size, factor: 1.5, ..Slope::new(w, g) };
            let before = bits(&w);
            let sum = climb(&cpu, &ball, 0.05, of(&w, &g, &m), &old)?;
            let expected = climb(&cpu, &ball, 0.05, of(&w64, &g64, &m64), &old64)?;
            assert!((sum - expected).abs() <= 1e-12 * expected, "{ball:?} {size:?}: {sum} for {expected}");
            assert_close(&w, &w64, 1e-6);
            assert_eq!(bits(&old), before);
            assert!(bits(&w) != before);
            restore(&w, &old)?;
            restore(&w64, &old64)?;
            assert_eq!(bits(&w), before);
            assert_close(&w, &w64, 0.0);
            assert_close(&m, &m64, 0.0);
        }
    }
    Ok(())
}

/// The ascent has length ρ in its own norm, and is the best of its length: g·e = ρ ‖g‖_q.
#[test]
fn ascent_reaches_the_dual_norm() -> Result<()> {
    let cpu = Cpu::shared();
    for p in [1.2, 2.0, 3.0, 10.0, f64::INFINITY] {
        let ball = Neighborhood::new(p);
        let (q, rho) = (ball.dual(), 0.05);
        let (w, old, g) = (wide(&var(1, 50)), wide(&var(2, 50)), wide(&var(3, 50)));
        let sum = climb(cpu, &ball, rho, Slope::new(&w, &g), &old)?;
        let e = (w.as_tensor() - old.as_tensor())?.to_vec1::<f64>()?;
        let length = if p.is_infinite() {
            e.iter().fold(0.0, |max: f64, e| max.max(e.abs()))
        } else {
            e.iter().map(|e| e.abs().powf(p)).sum::<f64>().powf(1.0 / p)
        };
        let gain: f64 = e.iter().zip(g.to_vec1::<f64>()?).map(|(e, g)| e * g).sum();
        assert!((length - rho).abs() < 1e-11, "p = {p}: {length}");
        assert!((gain - rho * sum.powf(1.0 / q)).abs() < 1e-11, "p = {p}: {gain}");
    }
    Ok(())
}

#[test]
fn a_zero_gradient_moves_nothing() -> Result<()> {
    for (ball, size) in BALLS {
        for dtype in [DType::F32, DType::F64] {
            let w = Var::from_tensor(&var(1, 20).to_dtype(dtype)?)?;
            let old = Var::zeros(20, dtype, CPU)?;
            let g = Tensor::zeros(20, dtype, CPU)?;
            let before = w.copy()?;
            climb(Cpu::shared(), &ball, 0.5, Slope::new(&w, &g).with_size(size), &old)?;
            assert_close(&w, &before, 0.0);
        }
    }
    Ok(())
}

/// The rules of what becomes of two gradients, against the same in plain numbers.
#[test]
fn mixes_are_what_their_formulas_say() -> Result<()> {
    let dot = |a: &[f64], b: &[f64]| a.iter().zip(b).map(|(a, b)| a * b).sum::<f64>();
    for len in LENGTHS {
        let cpu = Cpu::new(2);
        let (x, y) = (var(5, len), var(6, len));
        let (x64, y64) = (wide(&x).to_vec1::<f64>()?, wide(&y).to_vec1::<f64>()?);
        let (xx, xy, yy) = (dot(&x64, &x64), dot(&x64, &y64), dot(&y64, &y64));
        let (dots, _) = dots(&cpu, &[(&x, &y)], &FoundInf::default())?;
        let (wide_dots, _) = super::dots(&cpu, &[(&wide(&x), &wide(&y))], &FoundInf::default())?;
        for (rule, of_x, of_y) in [
            (Rule::Fixed(0.3, -2.0), 0.3, -2.0),
            (Rule::SurrogateGap { alpha: 0.4 }, -0.4, 1.0 + 0.4 * xy / yy),
            (Rule::Reuse { alpha: 0.7 }, 1.0, 0.7 * (xx / yy).sqrt()),
            (Rule::Beside, -xy / xx, 1.0),
        ] {
            let norm = (of_x * of_x * xx + 2.0 * of_x * of_y * xy + of_y * of_y * yy).max(0.0).sqrt();
            for clip in [None, Some(norm * 0.5 + 1e-3), Some(norm * 2.0 + 1.0)] {
                let shorter = clip.map_or(1.0, |clip| (clip / (norm + 1e-6)).min(1.0));
                let expected: Vec<f64> =
                    x64.iter().zip(&y64).map(|(x, y)| shorter * (of_x * x + of_y * y)).collect();
                let expected = Tensor::from_vec(expected, len, CPU)?;
                for (dots, x, y) in [(&dots, x.clone(), y.clone()), (&wide_dots, wide(&x), wide(&y))] {
                    let mix = dots.mix(rule, clip)?;
                    assert!((mix.norm().to_scalar::<f64>()? - norm).abs() <= 1e-6 * norm.max(1.0));
                    let cosine = mix.cosine().to_scalar::<f64>()?;
                    assert!((cosine - xy / (xx * yy).sqrt()).abs() < 1e-6);
                    let v = Var::from_tensor(&x.ones_like()?)?;
                    let note = FoundInf::default();
                    combine_all(&cpu, Combination::Mixed(&mix, 1.0), &[(&v, &x, &y)], &note)?;
                    assert_close(&v, &expected, 2e-6);
                    combine_all(&cpu, Combination::Plus(&mix, -0.5), &[(&v, &x, &y)], &note)?;
                    assert_close(&v, &(&expected * 0.5)?, 2e-6);
                }
            }
        }
    }
    Ok(())
}

#[test]
fn sums_and_averages_agree_with_the_reference() -> Result<()> {
    let (cpu, note) = (Cpu::new(2), FoundInf::default());
    for len in LENGTHS {
        let (v, x) = (var(1, len), var(2, len));
        let (v64, x64) = (wide(&v), wide(&x));
        for combination in [
            Combination::PlusScaled(0.3),
            Combination::Toward(0.1),
            Combination::Toward(1.0),
            Combination::Scaled(-2.0),
        ] {
            combine_all(&cpu, combination, &[(&v, &x, &x)], &note)?;
            combine_all(&cpu, combination, &[(&v64, &x64, &x64)], &note)?;
            assert_close(&v, &v64, 1e-6);
        }
        assert_close(&v64, &(x64.as_tensor() * -2.0)?, 0.0);
    }
    Ok(())
}

#[test]
fn sgd_agrees_with_the_reference() -> Result<()> {
    let cpu = Cpu::new(2);
    for len in LENGTHS {
        for (nesterov, buffered) in [(false, false), (false, true), (true, true)] {
            let step = SgdStep { nesterov, dampening: if nesterov { 0.0 } else { 0.2 }, ..SGD };
            let (w, b, g) = (var(1, len), var(2, len), var(3, len));
            let (w64, b64, g64) = (wide(&w), wide(&b), wide(&g));
            for _ in 0..3 {
                sgd(&cpu, &w, &g, buffered.then_some(&b), &step)?;
                sgd(&cpu, &w64, &g64, buffered.then_some(&b64), &step)?;
            }
            assert_close(&w, &w64, 1e-6);
            assert_close(&b, &b64, 1e-6);
        }
    }
    Ok(())
}

#[test]
fn adamw_agrees_with_the_reference() -> Result<()> {
    let cpu = Cpu::new(2);
    for len in LENGTHS {
        let (w, m, v, g) = (var(1, len), var(2, len), var(3, len), var(4, len));
        v.set(&v.sqr()?)?;
        let (w64, m64, v64, g64) = (wide(&w), wide(&m), wide(&v), wide(&g));
        adamw(&cpu, &w, &g, &m, &v, &ADAMW)?;
        adamw(&cpu, &w64, &g64, &m64, &v64, &ADAMW)?;
        for (found, expected) in [(&w, &w64), (&m, &m64), (&v, &v64)] {
            assert_close(found, expected, 1e-6);
        }
    }
    Ok(())
}

/// Also covers blocks handed out in any order.
#[test]
fn any_number_of_threads_and_instruction_set_gives_the_same_bits() -> Result<()> {
    let len = 200_001;
    let everything = |cpu: &Cpu| -> Result<Vec<Vec<u32>>> {
        let (w, b, c, g) = (var(1, len), var(2, len), var(3, len), var(4, len));
        let mut results = Vec::new();
        for (ball, size) in BALLS {
            let slope = Slope { memory: Some(&c), size, ..Slope::new(&w, &g) };
            let ball = Neighborhood { memory: 0.3, ..ball };
            let sum = climb(cpu, &ball, 0.05, slope, &b)?.to_bits();
            results.extend([vec![(sum >> 32) as u32, sum as u32], bits(&w)]);
        }
        let (_, sums) = dots(cpu, &[(&w, &g)], &FoundInf::default())?;
        for sum in sums.expect("the CPU's are here")[0].map(f64::to_bits) {
            results.push(vec![(sum >> 32) as u32, sum as u32]);
        }
        combine_all(cpu, Combination::Toward(0.3), &[(&c, &g, &g)], &FoundInf::default())?;
        sgd(cpu, &w, &g, Some(&b), &SGD)?;
        adamw(cpu, &w, &g, &b, &c, &ADAMW)?;
        results.extend([bits(&w), bits(&b), bits(&c)]);
        Ok(results)
    };
    let expected = everything(&Cpu::new(1))?;
    for threads in [2, 3, 7] {
        assert!(everything(&Cpu::new(threads))? == expected, "{threads} threads");
    }
    for set in crate::InstructionSet::available() {
        assert!(everything(&Cpu::with_instruction_set(2, set)?)? == expected, "{set:?}");
    }
    Ok(())
}

/// An ascent by half the gradient.
fn half() -> Result<Ascent> {
    Ascent::new(&Neighborhood { normalize: false, ..Neighborhood::new(2.0) }, 0.5, 1.0)
}

#[test]
fn strided_and_aliasing_gradients_are_taken() -> Result<()> {
    let cpu = Cpu::shared();
    let w = Var::from_vec(noise(1, 12), (3, 4), CPU)?;
    let old = Var::zeros((3, 4), DType::F32, CPU)?;
    let strided = Tensor::from_vec(noise(2, 12), (4, 3), CPU)?.t()?;
    let expected = ((&strided * 0.5)? + w.as_tensor())?;
    perturb_all(cpu, &half()?, &[(Slope::new(&w, &strided), &old)])?;
    assert_close(&w, &expected, 1e-7);
    restore(&w, &old)?;

    // The gradient of |w|² / 2 is w itself.
    let expected = (w.as_detached_tensor() * 1.5)?;
    perturb_all(cpu, &half()?, &[(Slope::new(&w, &w.as_detached_tensor()), &old)])?;
    assert_close(&w, &expected, 1e-7);
    let expected = (w.as_detached_tensor() * 0.9)?;
    sgd(cpu, &w, &w.as_detached_tensor(), None, &SgdStep { weight_decay: 0.0, ..SGD })?;
    assert_close(&w, &expected, 1e-7);
    Ok(())
}

#[test]
fn operands_that_do_not_match_are_refused_and_nothing_moves() -> Result<()> {
    let cpu = Cpu::shared();
    let w = var(1, 6);
    let before = bits(&w);
    let g = var(2, 6);
    let message = |result: Result<()>| result.expect_err("must be refused").to_string();
    let narrow = message(sgd(cpu, &w, &var(2, 5), None, &SGD));
    assert_eq!(narrow, "gradient: expected [6] F32 on Cpu, found [5] F32 on Cpu");
    let double = message(perturb_all(cpu, &half()?, &[(Slope::new(&w, &g), &wide(&var(2, 6)))]));
    assert_eq!(double, "old: expected [6] F32 on Cpu, found [6] F64 on Cpu");
    let twice = message(perturb_all(cpu, &half()?, &[(Slope::new(&w, &g), &w.clone())]));
    assert!(twice.contains("expected a variable of its own"));
    assert!(message(restore(&w, &w.clone())).contains("same variable twice"));
    let m = var(3, 6);
    assert!(message(adamw(cpu, &w, &g, &m, &m.clone(), &ADAMW)).contains("second moment"));
    assert!(power_sums(cpu, &BALLS[0].0, &[Slope::new(&w, &wide(&g))]).is_err());
    let remembering = Slope { memory: Some(&m), ..Slope::new(&w, &g) };
    assert!(
        message(perturb_all(cpu, &half()?, &[(remembering, &m.clone())])).contains("same variable twice")
    );
    let note = FoundInf::default();
    assert!(dots(cpu, &[(&g, &var(2, 5))], &note).is_err());
    assert!(combine_all(cpu, Combination::Scaled(1.0), &[(&w, &wide(&g), &g)], &note).is_err());
    // A gradient that is one of the states, or a view of it.
    let v = var(4, 6);
    let view = m.as_detached_tensor().reshape((2, 3))?.reshape(6)?;
    for shared in [m.as_tensor(), &view] {
        for result in [
            perturb_all(cpu, &half()?, &[(Slope::new(&w, shared), &m)]),
            sgd(cpu, &w, shared, Some(&m), &SGD),
            adamw(cpu, &w, shared, &m, &v, &ADAMW),
            adamw(cpu, &w, shared, &v, &m, &ADAMW),
        ] {
            assert!(message(result).contains("apart from the optimizer's state"));
        }
    }
    assert_eq!(bits(&w), before);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn restoring_gives_back_every_bit(bits_in in prop::collection::vec(any::<u32>(), 1..300), scale in -1e3..1e3f64) {
        let values: Vec<f32> = bits_in.iter().copied().map(f32::from_bits).collect();
        let len = values.len();
        let w = Var::from_vec(values, len, CPU)?;
        let old = Var::zeros(len, DType::F32, CPU)?;
        for (ball, size) in BALLS {
            let ascent = Ascent::new(&ball, scale, 1.0)?;
            perturb_all(Cpu::shared(), &ascent, &[(Slope::new(&w, &var(3, len)).with_size(size), &old)])?;
            restore(&w, &old)?;
            prop_assert_eq!(&bits(&w), &bits_in);
        }
    }
}
