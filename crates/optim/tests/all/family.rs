//! Every member of the family: against the papers' formulas (the values of testdata/make_family_fixtures.py), interrupted and
//! not, failing and not.

use std::collections::HashMap;
use std::path::Path;

use candle_core::backprop::GradStore;
use candle_core::{DType, Tensor, Var};
use candle_nn::Optimizer;
use wrn_sam_kernels::Cpu;
use wrn_sam_optim::{
    AdamW, AdamWConfig, Along, AscentOver, Descent, Error, Group, OptimizerState, Pass, Result, Sam,
    SamConfig, Scale, Sgd, SgdConfig, Variables, WeightAverage, When,
};

use crate::common::{CPU, bits};

const NAMES: [&str; 3] = ["weight", "bias", "scale"];
const STEPS: usize = 6;
/// Where a batch of six images is divided.
const PARTS: [(usize, usize); 2] = [(0, 4), (4, 2)];

type Tensors = HashMap<String, Tensor>;

/// A member of the family, under the name of its case in the fixtures.
#[derive(Clone, Copy)]
struct Member {
    name: &'static str,
    config: SamConfig,
    /// Those that are perturbed, or that have a radius of 0.3, or no weight decay.
    subset: &'static [usize],
    radii: &'static [usize],
    no_decay: &'static [usize],
    adamw: bool,
    over: Option<AscentOver>,
}

fn members() -> Vec<Member> {
    let sam = SamConfig::sam(0.1);
    let adaptive = |eta, biases| Scale::Adaptive { eta, biases };
    let plain = |name, config| Member {
        name,
        config,
        subset: &[],
        radii: &[],
        no_decay: &[],
        adamw: false,
        over: None,
    };
    let weighted = |decoupled| sam.with_descent(Descent::Weighted { gamma: 0.6, decoupled });
    let adaptive_steps = When::Adaptive { delta: 0.5, lambda1: -1.0, lambda2: 1.0, steps: 6 };
    vec![
        plain("asam", SamConfig::asam(0.5)),
        plain("adaptive", SamConfig::adaptive(0.5)),
        plain("tensor", sam.with_scale(Scale::Tensor)),
        plain("usam", SamConfig::usam(0.5)),
        plain("infinite", sam.with_rho(0.02).with_p(f64::INFINITY).with_scale(adaptive(0.1, true))),
        plain("three", sam.with_p(3.0)),
        Member { subset: &[1, 2], ..plain("subset", sam.with_rho(0.5)) },
        Member { radii: &[2], ..plain("radii", sam) },
        plain("every", sam.with_when(When::Every { k: 3 })),
        plain("late", sam.with_when(When::From { step: 2 })),
        plain("fsam", sam.with_along(Along::Friendly { sigma: 1.0, lambda: 0.6 })),
        plain("vasso", sam.with_along(Along::Averaged { theta: 0.4 })),
        plain("gsam", SamConfig::gsam(0.1)),
        plain("wsam", weighted(false)),
        plain("wsam_decoupled", weighted(true)),
        plain("aesam", sam.with_when(adaptive_steps)),
        plain("looksam", sam.with_when(When::Look { k: 3, alpha: 0.7 })),
        plain("msam", SamConfig::msam(0.3)),
        Member { adamw: true, ..plain("msam_adamw", SamConfig::msam(0.3)) },
        plain("clip", sam.with_clip(Some(0.05))),
        Member { no_decay: &[1, 2], ..plain("no_decay", sam) },
        Member { over: Some(AscentOver::MicroBatch), ..plain("micro", sam) },
        Member { over: Some(AscentOver::Batch), ..plain("gathered", sam) },
    ]
}

/// A small network and its data.
struct Task {
    vars: Vec<Var>,
    x: Tensor,
    y: Tensor,
}

fn fixture() -> Result<Tensors> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/family.safetensors");
    Ok(candle_core::safetensors::load(path, CPU)?)
}

impl Task {
    fn new(fixture: &Tensors, dtype: DType) -> Result<Self> {
        let get = |key: &str| fixture[key].to_dtype(dtype);
        let vars = NAMES.map(|name| Var::from_tensor(&get(&format!("initial/{name}"))?));
        let vars = vars.into_iter().collect::<candle_core::Result<_>>()?;
        Ok(Self { vars, x: get("data/x")?, y: get("data/y")? })
    }

    fn named(&self) -> Vec<(String, Var)> {
        NAMES.iter().map(|name| (*name).to_string()).zip(self.vars.iter().cloned()).collect()
    }

    fn some(&self, indices: &[usize]) -> Vec<Var> {
        indices.iter().map(|index| self.vars[*index].clone()).collect()
    }

    /// The mean loss of some of the images.
    fn loss(&self, (start, len): (usize, usize)) -> candle_core::Result<Tensor> {
        let (x, y) = (self.x.narrow(0, start, len)?, self.y.narrow(0, start, len)?);
        let hidden = x.matmul(&self.vars[0])?.broadcast_add(&self.vars[1])?.tanh()?;
        (hidden.broadcast_mul(&self.vars[2])? - y)?.sqr()?.mean_all()
    }

    fn sam<O: Optimizer + Variables>(&self, member: &Member, base: O) -> Result<Sam<O>> {
        let mut sam = Sam::new(base, member.config)?;
        if !member.subset.is_empty() {
            sam = sam.perturbing(&self.some(member.subset))?;
        }
        if !member.radii.is_empty() {
            sam = sam.with_rho_of(&self.some(member.radii), 0.3)?;
        }
        Ok(sam)
    }

    fn sgd(&self, member: &Member) -> Result<Sgd> {
        let sgd = Sgd::named(self.named(), SgdConfig::new(0.1).with_momentum(0.9).with_weight_decay(0.01))?;
        if member.no_decay.is_empty() {
            return Ok(sgd);
        }
        sgd.with_group(&self.some(member.no_decay), Group::new().with_weight_decay(0.0))
    }

    fn adamw(&self) -> Result<AdamW> {
        AdamW::named(self.named(), AdamWConfig::new(0.01).with_weight_decay(0.01))
    }

    /// One step; whether it had a second pass.
    fn step<O: Optimizer>(&self, member: &Member, sam: &mut Sam<O>) -> Result<bool> {
        let mut climbed = false;
        match member.over {
            None => sam.step(|pass| {
                climbed |= pass == Pass::Second;
                self.loss((0, 6))
            })?,
            Some(over) => sam.step_parts(&PARTS.map(|(_, len)| len as f64 / 6.0), over, |part, pass| {
                climbed |= pass == Pass::Second;
                self.loss(PARTS[part])
            })?,
        };
        Ok(climbed)
    }
}

/// Calls `$run(task, member, sam)` with a `Sam` around the member's base.
macro_rules! with_sam {
    ($task:expr, $member:expr, $run:expr) => {
        if $member.adamw {
            $run($task, $member, $task.sam($member, $task.adamw()?)?)
        } else {
            $run($task, $member, $task.sam($member, $task.sgd($member)?)?)
        }
    };
}

#[track_caller]
fn assert_close(what: &str, found: &Tensor, expected: &Tensor, tolerance: f64) -> Result<()> {
    let difference =
        (found.to_dtype(DType::F64)? - expected)?.abs()?.flatten_all()?.max(0)?.to_scalar::<f64>()?;
    assert!(difference <= tolerance, "{what} in {:?}: off by {difference:e}", found.dtype());
    Ok(())
}

#[test]
fn every_member_takes_the_steps_of_its_paper() -> Result<()> {
    let fixture = fixture()?;
    for (dtype, tolerance) in [(DType::F64, 1e-10), (DType::F32, 1e-5)] {
        for member in members() {
            fn check<O: Optimizer + OptimizerState>(
                fixture: &Tensors,
                tolerance: f64,
                task: &Task,
                member: &Member,
                mut sam: Sam<O>,
            ) -> Result<()> {
                for step in 0..STEPS {
                    let climbed = task.step(member, &mut sam)?;
                    let key = |rest: &str| format!("{}/{step}/{rest}", member.name);
                    assert_eq!(
                        f64::from(climbed),
                        fixture[&key("climbed")].to_scalar::<f64>()?,
                        "{}",
                        key("")
                    );
                    for (name, var) in NAMES.iter().zip(&task.vars) {
                        let key = key(&format!("after/{name}"));
                        assert_close(&key, var, &fixture[&key], tolerance)?;
                    }
                }
                let state: Tensors = sam.state()?.into_iter().collect();
                for name in NAMES {
                    let key = format!("{}/memory/{name}", member.name);
                    let found = state.get(&format!("sam.memory.{name}"));
                    assert_eq!(found.is_some(), fixture.contains_key(&key), "{key}");
                    if let Some(found) = found {
                        assert_close(&key, found, &fixture[&key], tolerance)?;
                    }
                }
                Ok(())
            }
            let task = Task::new(&fixture, dtype)?;
            let run = |task: &Task, member: &Member, sam| check(&fixture, tolerance, task, member, sam);
            if member.adamw {
                let sam = task.sam(&member, task.adamw()?)?;
                check(&fixture, tolerance, &task, &member, sam)?;
            } else {
                run(&task, &member, task.sam(&member, task.sgd(&member)?)?)?;
            }
        }
    }
    Ok(())
}

/// Six steps in one go, and after each number of steps through a saved state into a new optimizer: the same bits.
#[test]
fn every_member_resumes_to_the_same_bits() -> Result<()> {
    fn after<O: Optimizer>(task: &Task, member: &Member, mut sam: Sam<O>) -> Result<Vec<u32>> {
        for _ in 0..STEPS {
            task.step(member, &mut sam)?;
        }
        bits(&task.vars)
    }
    fn begun<O: Optimizer + OptimizerState>(
        task: &Task,
        member: &Member,
        mut sam: Sam<O>,
        steps: usize,
    ) -> Result<Tensors> {
        for _ in 0..steps {
            task.step(member, &mut sam)?;
        }
        Ok(sam.state()?.into_iter().collect())
    }
    fn resumed<O: Optimizer + OptimizerState>(
        task: &Task,
        member: &Member,
        mut sam: Sam<O>,
        state: &Tensors,
        steps: usize,
    ) -> Result<Vec<u32>> {
        sam.load_state(state)?;
        assert_eq!((sam.config(), sam.steps()), (&member.config, steps as u64));
        for _ in steps..STEPS {
            task.step(member, &mut sam)?;
        }
        bits(&task.vars)
    }
    let fixture = fixture()?;
    for member in &members() {
        let straight = Task::new(&fixture, DType::F32)?;
        let expected = with_sam!(&straight, member, after)?;
        for steps in 0..STEPS {
            let task = Task::new(&fixture, DType::F32)?;
            let state = with_sam!(&task, member, |task, member, sam| begun(task, member, sam, steps))?;
            let found =
                with_sam!(&task, member, |task, member, sam| resumed(task, member, sam, &state, steps))?;
            assert_eq!(found, expected, "{} after {steps} steps", member.name);
        }
    }
    Ok(())
}

/// Whatever fails in any pass, everything is as before the step: weights, the base's state and what SAM remembers.
#[test]
fn a_failed_step_of_any_member_changes_nothing() -> Result<()> {
    fn check<O: Optimizer + OptimizerState>(task: &Task, member: &Member, mut sam: Sam<O>) -> Result<()> {
        let everything = |sam: &Sam<O>| {
            let state = sam.state()?.into_iter().map(|(name, value)| format!("{name} {value}"));
            Ok::<_, Error>((bits(&task.vars)?, state.collect::<Vec<_>>()))
        };
        for _ in 0..STEPS {
            task.step(member, &mut sam)?;
            let before = everything(&sam)?;
            let shares = PARTS.map(|(_, len)| len as f64 / 6.0);
            for (failing, bad) in [(0, f64::NAN), (1, f64::INFINITY), (2, f64::NAN), (3, f64::NAN)] {
                let mut calls = 0;
                let mut loss = |rows| {
                    calls += 1;
                    task.loss(rows)? * if calls - 1 == failing { bad } else { 1.0 }
                };
                let failed = match member.over {
                    None => sam.step(|_| loss((0, 6))),
                    Some(over) => sam.step_parts(&shares, over, |part, _| loss(PARTS[part])),
                };
                match failed {
                    // The step had fewer passes: it was taken, and goes into what comes next.
                    Ok(_) => assert!(calls <= failing, "{}", member.name),
                    Err(error) => {
                        assert!(error.to_string().contains("not finite"), "{error}");
                        assert_eq!(everything(&sam)?, before, "{} in call {failing}", member.name);
                        continue;
                    }
                }
                break;
            }
            let before = everything(&sam)?;
            drop(sam.begin()?);
            assert_eq!(everything(&sam)?, before, "{}", member.name);
        }
        Ok(())
    }
    let fixture = fixture()?;
    for member in &members() {
        let task = Task::new(&fixture, DType::F32)?;
        with_sam!(&task, member, check)?;
    }
    Ok(())
}

/// Blocks of two of four micro-batches, summed apart and then added, give the bits of all four in one step: each
/// block's sum is a subtree.
#[test]
fn sums_over_micro_batches_follow_one_tree() -> Result<()> {
    let gradients: Vec<Vec<f32>> = (0..7)
        .map(|k| (0..40_000).map(|i| ((i * 31 + k * 97) as f32 * 0.618).sin() * 0.1).collect())
        .collect();
    let add = |a: &[f32], b: &[f32]| a.iter().zip(b).map(|(a, b)| a + b).collect::<Vec<f32>>();
    let leaf = |k: usize| gradients[k].iter().map(|g| g * (1.0f32 / 7.0)).collect::<Vec<f32>>();
    let pair = |k: usize| add(&leaf(k), &leaf(k + 1));
    // ((0 1) (2 3)) ((4 5) 6)
    let expected = add(&add(&pair(0), &pair(2)), &add(&pair(4), &leaf(6)));
    for threads in [1, 3] {
        for over in [AscentOver::Batch, AscentOver::MicroBatch] {
            let w = Var::zeros(40_000, DType::F32, CPU)?;
            let base = Sgd::new(vec![w.clone()], SgdConfig::new(1.0))?.with_cpu(Cpu::new(threads));
            let mut sam = Sam::new(base, SamConfig::sam(0.0))?.with_cpu(Cpu::new(threads));
            let mut step = sam.begin()?;
            for gradient in &gradients {
                let mut store = GradStore::default();
                store.insert(&w, Tensor::new(gradient.as_slice(), CPU)?);
                match over {
                    AscentOver::Batch => step.gather(1.0 / 7.0, &store)?,
                    AscentOver::MicroBatch => assert!(step.part(1.0 / 7.0, &store)?.is_none()),
                }
            }
            match over {
                AscentOver::Batch => assert!(step.climb_gathered()?.is_none()),
                AscentOver::MicroBatch => step.finish()?,
            }
            let found: Vec<u32> = w.to_vec1::<f32>()?.into_iter().map(|x| (-x).to_bits()).collect();
            assert!(
                found == expected.iter().map(|x| x.to_bits()).collect::<Vec<_>>(),
                "{threads} threads, {over:?}"
            );
        }
    }
    Ok(())
}

#[test]
fn calls_for_micro_batches_come_in_order() -> Result<()> {
    let fixture = fixture()?;
    let task = Task::new(&fixture, DType::F32)?;
    let before = bits(&task.vars)?;
    let plain = members().into_iter().find(|member| member.name == "micro").expect("a member");
    let mut sam = task.sam(&plain, task.sgd(&plain)?)?;
    let gradients = || Ok::<_, Error>(task.loss((0, 6))?.backward()?);
    let said = |error: Error, part: &str| {
        assert!(matches!(error, Error::MicroBatches(_)) && error.to_string().contains(part), "{error}");
    };

    let mut step = sam.begin()?;
    step.gather(0.5, &gradients()?)?;
    said(step.part(0.5, &gradients()?).map(drop).expect_err("both"), "either");
    said(step.climb(&gradients()?).map(drop).expect_err("gathered"), "climb_gathered");
    let mut step = sam.begin()?;
    drop(step.part(0.5, &gradients()?)?);
    said(step.gather(0.5, &gradients()?).expect_err("both"), "either");
    said(step.finish().expect_err("a dropped part"), "drop the step");
    let step = sam.begin()?;
    said(step.finish().expect_err("no part"), "`finish` ends");
    said(sam.begin()?.climb_gathered().map(drop).expect_err("nothing"), "comes after");
    let mut perturbed = sam.begin()?.climb(&gradients()?)?.expect("rho is above 0");
    perturbed.gather(1.0, &gradients()?)?;
    said(perturbed.descend(&gradients()?).expect_err("gathered"), "use `finish`");
    let perturbed = sam.begin()?.climb(&gradients()?)?.expect("rho is above 0");
    said(perturbed.finish().expect_err("nothing"), "nothing was gathered");
    for share in [0.0, -0.5, 1.5, f64::NAN] {
        let error = sam.begin()?.gather(share, &gradients()?).expect_err("a share");
        assert!(error.to_string().starts_with("share = "), "{error}");
    }
    assert!(sam.step_parts(&[], AscentOver::Batch, |_, _| task.loss((0, 6))).is_err());
    assert_eq!(bits(&task.vars)?, before);

    for member in members() {
        let mut sam = task.sam(&member, task.sgd(&member)?)?;
        let refused = ["fsam", "vasso", "aesam", "looksam", "wsam_decoupled", "msam", "msam_adamw"];
        let taken = sam.begin()?.part(1.0, &gradients()?).map(drop);
        assert_eq!(taken.is_err(), refused.contains(&member.name), "{}", member.name);
    }
    Ok(())
}

#[test]
fn what_does_not_fit_is_refused_by_name() -> Result<()> {
    let fixture = fixture()?;
    let task = Task::new(&fixture, DType::F32)?;
    let momentum = SamConfig::msam(0.1);
    let look = SamConfig::looksam(0.1);
    let pairs = [
        (look.with_along(Along::Averaged { theta: 0.5 }), "`when: Look` with `along: Averaged`"),
        (
            look.with_descent(Descent::SurrogateGap { alpha: 0.1 }),
            "`when: Look` with `descent: SurrogateGap`",
        ),
        (momentum.with_descent(Descent::Weighted { gamma: 0.5, decoupled: false }), "`descent: Weighted`"),
        (momentum.with_when(When::Every { k: 2 }), "`along: Momentum` with `when: Every`"),
        (SamConfig::aesam(0.1, 5).with_along(Along::Momentum), "`along: Momentum` with `when: Adaptive`"),
        (look.with_along(Along::Momentum), "`when: Look` with `along: Momentum`"),
    ];
    for (config, said) in pairs {
        let error = Sam::new(task.adamw()?, config).map(drop).expect_err(said);
        assert!(matches!(error, Error::Choices { .. }) && error.to_string().contains(said), "{error}");
    }
    let valid = SamConfig::default();
    for (config, name) in [
        (valid.with_along(Along::Friendly { sigma: f64::NAN, lambda: 0.5 }), "sigma"),
        (valid.with_along(Along::Friendly { sigma: 1.0, lambda: 1.0 }), "lambda"),
        (valid.with_along(Along::Averaged { theta: 0.0 }), "theta"),
        (valid.with_scale(Scale::Adaptive { eta: -1.0, biases: true }), "eta"),
        (valid.with_descent(Descent::SurrogateGap { alpha: -0.1 }), "alpha"),
        (valid.with_descent(Descent::Weighted { gamma: 1.0, decoupled: true }), "gamma"),
        (valid.with_when(When::Every { k: 0 }), "k"),
        (valid.with_when(When::Look { k: 0, alpha: 0.7 }), "k"),
        (valid.with_when(When::Look { k: 1, alpha: f64::INFINITY }), "alpha"),
        (SamConfig::aesam(0.1, 0), "steps"),
        (valid.with_clip(Some(0.0)), "clip"),
    ] {
        let error = config.validate().expect_err(name);
        assert!(matches!(&error, Error::OutOfRange(error) if error.name == name), "{error}");
    }

    // A momentum that is not there, biases that have no names, and variables of others.
    let plain = Sgd::named(task.named(), SgdConfig::new(0.1))?;
    assert!(matches!(Sam::new(plain, momentum), Err(Error::NoMomentum)));
    let candles = candle_nn::SGD::new(task.vars.clone(), 0.1)?;
    assert!(matches!(Sam::over(task.vars.clone(), candles, momentum), Err(Error::NoMomentum)));
    let unnamed = Sgd::new(task.vars.clone(), SgdConfig::new(0.1))?;
    assert!(matches!(Sam::new(unnamed, SamConfig::asam(0.1)), Err(Error::Unnamed)));
    let other = Var::new(1f32, CPU)?;
    let sam = || Sam::new(task.adamw()?, valid);
    assert!(matches!(sam()?.perturbing(std::slice::from_ref(&other)), Err(Error::UnknownParameter(0))));
    assert!(matches!(sam()?.perturbing(&[]), Err(Error::NoParameters)));
    assert!(sam()?.with_rho_of(&task.some(&[1]), -1.0).is_err());
    assert!(task.adamw()?.with_group(&[other], Group::new()).is_err());
    assert!(
        task.adamw()?.with_group(&task.some(&[1]), Group::new().with_learning_rate_ratio(f64::NAN)).is_err()
    );

    // A gradient in one pass only, where both are needed.
    let mut sam = Sam::new(task.adamw()?, SamConfig::gsam(0.1))?;
    let perturbed = sam.begin()?.climb(&task.loss((0, 6))?.backward()?)?.expect("rho is above 0");
    let error = perturbed.descend(&task.vars[0].sqr()?.sum_all()?.backward()?).expect_err("one pass");
    assert!(matches!(&error, Error::OnePass { parameter } if parameter == "bias"), "{error}");
    Ok(())
}

#[test]
fn steps_say_what_they_read() -> Result<()> {
    let fixture = fixture()?;
    for (member, read) in members().into_iter().map(|member| {
        let name = member.name;
        (member, name == "subset")
    }) {
        let task = Task::new(&fixture, DType::F32)?;
        let mut sam = task.sam(&member, task.sgd(&member)?)?;
        assert_eq!(sam.begin()?.reads_only().is_some(), read, "{}", member.name);
    }
    let task = Task::new(&fixture, DType::F32)?;
    let subset = members().into_iter().find(|member| member.name == "subset").expect("a member");
    let mut sam = task.sam(&subset, task.sgd(&subset)?)?;
    let ids = |vars: &[Var]| vars.iter().map(|var| var.id()).collect::<Vec<_>>();
    assert_eq!(ids(&sam.begin()?.reads_only().expect("a subset")), ids(&task.some(&[1, 2])));
    // It is enough to have those.
    let mut only = GradStore::default();
    let all = task.loss((0, 6))?.backward()?;
    for var in task.some(&[1, 2]) {
        only.insert(&var, all.get(&var).expect("a gradient").clone());
    }
    let perturbed = sam.begin()?.climb(&only)?.expect("rho is above 0");
    perturbed.descend(&task.loss((0, 6))?.backward()?)?;
    for (name, var) in NAMES.iter().zip(&task.vars) {
        let key = format!("subset/0/after/{name}");
        assert_close(&key, var, &fixture[&key], 1e-5)?;
    }
    // With a rho of 0 the step is along the first gradients.
    sam.set_rho(0.0)?;
    assert!(sam.begin()?.reads_only().is_none());
    Ok(())
}

#[test]
fn a_weight_average_is_saved_and_puts_the_weights_back() -> Result<()> {
    let w = Var::new(&[1f32, -2.0], CPU)?;
    let count = Var::new(3i64, CPU)?;
    let named = || vec![("w".to_string(), w.clone()), ("count".to_string(), count.clone())];
    let set = |value: f32| -> Result<()> {
        w.set(&Tensor::new(&[value, -value], CPU)?)?;
        Ok(count.set(&(count.as_detached_tensor() + 1.0)?)?)
    };
    for warms_up in [false, true] {
        let make = || {
            let ema = WeightAverage::ema(named(), 0.9)?;
            Ok::<_, Error>(if warms_up { ema.with_warm_up() } else { ema })
        };
        let (mut average, mut expected) = (make()?, 0f64);
        for (n, value) in [2f32, 4.0, -1.0, 8.0].into_iter().enumerate() {
            set(value)?;
            average.update()?;
            let decay = if warms_up { 0.9f64.min((1.0 + n as f64) / (10.0 + n as f64)) } else { 0.9 };
            let decay = if n == 0 { 0.0 } else { decay };
            expected = decay * expected + (1.0 - decay) * f64::from(value);
            let mut resumed = make()?;
            resumed.load_state(&average.state()?.into_iter().collect())?;
            average = resumed;
            let found = average.values()[0].1.to_vec1::<f32>()?;
            assert!(
                (f64::from(found[0]) - expected).abs() < 1e-6 && found[1] == -found[0],
                "{found:?}, {expected}"
            );
            assert_eq!(average.values()[1].1.to_scalar::<i64>()?, count.to_scalar::<i64>()?);
        }
        let (before, kept) = (bits(std::slice::from_ref(&w))?, average.values()[0].1.to_vec1::<f32>()?);
        let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            average.swapped(|| {
                assert_eq!(w.to_vec1::<f32>().expect("f32"), kept);
                panic!("in an evaluation")
            })
        }));
        assert!(panicked.is_err());
        assert_eq!(bits(std::slice::from_ref(&w))?, before);
        assert_eq!(average.values()[0].1.to_vec1::<f32>()?, kept);
        let mut state: Tensors = average.state()?.into_iter().collect();
        state.insert("decay".into(), Tensor::new(1f64, CPU)?);
        assert!(average.load_state(&state).is_err());
    }
    assert!(WeightAverage::ema(named(), 1.0).is_err() && WeightAverage::swa(vec![]).is_err());
    Ok(())
}
