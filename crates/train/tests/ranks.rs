//! Runs on several ranks, as threads of this process: the same bits for any number of them, and errors that end all.

use std::collections::HashMap;
use std::path::Path;
use std::sync::Arc;
use std::thread;

use candle_core::{DType, Device, Tensor};
use wrn_sam_collective::{Collective, Error as RanksError, Precision, Ranks, Solo};
use wrn_sam_data::{Batch, Dataset};
use wrn_sam_models::{Parameters, WideResNet, WideResNetConfig};
use wrn_sam_optim::{AscentOver, Sam, SamConfig, Sgd, SgdConfig};
use wrn_sam_train::{
    Ascent, Control, Error, Exchange, MicroBatch, Observer, Outcome, Recipe, Result, StepProgress, Trainer,
    step_micro_batches,
};

/// Runs by `work`, which gets each rank's end, on `world` ranks. What they return, in order.
fn on_ranks<T: Send + 'static>(
    world: usize,
    work: impl Fn(Arc<dyn Collective>) -> T + Send + Sync + 'static,
) -> Vec<T> {
    if world == 1 {
        return vec![work(Arc::new(Solo))];
    }
    let work = Arc::new(work);
    let start = |rank: Ranks| {
        let work = work.clone();
        thread::spawn(move || work(Arc::new(rank)))
    };
    let ranks: Vec<_> = Ranks::threads(world).unwrap().into_iter().map(start).collect();
    ranks.into_iter().map(|rank| rank.join().unwrap()).collect()
}

/// A change of a recipe, and its name.
type Change = (&'static str, fn(&mut Recipe));

fn recipe() -> Recipe {
    Recipe::quick().with(|recipe| {
        (recipe.epochs, recipe.batch_size, recipe.threads) = (2, 16, 1);
        recipe.checkpoint_every = 1;
        recipe.micro_batches = 4;
    })
}

/// 40 training images: two steps of four micro-batches and a last step of two.
fn data() -> Dataset {
    Dataset::synthetic(3, 40, 24)
}

fn train(recipe: &Recipe, ranks: Arc<dyn Collective>, out: &Path) -> Result<Outcome> {
    Trainer::new(recipe.clone(), data()).with_ranks(ranks).run(out)
}

/// What a run leaves that must not depend on the number of ranks: weights, and the metrics without the times.
fn results(out: &Path) -> (Vec<u8>, Vec<u8>, Vec<String>) {
    let rows = std::fs::read_to_string(out.join("metrics.csv")).unwrap();
    // Not the last columns: seconds and images a second.
    let without_times = |row: &str| row.split(',').take(7).collect::<Vec<_>>().join(",");
    let read = |name: &str| std::fs::read(out.join(name)).unwrap();
    (read("model.safetensors"), read("best.safetensors"), rows.lines().map(without_times).collect())
}

/// The tensors of the newest checkpoint: weights, buffers and optimizer state, as bits.
fn checkpoint(out: &Path) -> Vec<(String, Vec<u8>)> {
    let newest = wrn_sam_train::checkpoint::newest(&out.join("checkpoints")).unwrap().unwrap();
    let mut tensors: Vec<_> =
        newest.checkpoint.model.into_iter().chain(newest.checkpoint.optimizer).collect();
    tensors.sort_by(|(one, _), (other, _)| one.cmp(other));
    tensors.into_iter().map(|(name, tensor)| (name, safetensors::View::data(&tensor).to_vec())).collect()
}

#[track_caller]
fn same(one: &Path, other: &Path, what: &str) {
    assert!(checkpoint(one) == checkpoint(other), "{what}: the checkpoints differ");
    let (one, other) = (results(one), results(other));
    assert_eq!(one.2, other.2, "{what}: the metrics differ");
    assert!(one.0 == other.0 && one.1 == other.1, "{what}: the weights differ");
}

#[test]
fn results_have_the_same_bits_for_any_number_of_ranks() {
    let recipes: [Change; 4] = [
        ("over the batch", |_| ()),
        ("m-sharpness", |recipe| recipe.ascent = Ascent::Micro),
        ("dropout and mixup", |recipe| (recipe.dropout, recipe.mixup_alpha) = (0.3, 0.5)),
        ("adaptive", |recipe| (recipe.adaptive, recipe.rho, recipe.norm) = (true, 0.5, 3.0)),
    ];
    for (name, change) in recipes {
        let recipe = recipe().with(change);
        let folder = tempfile::tempdir().unwrap();
        let outs: Vec<_> = [1, 2, 4].map(|world| folder.path().join(world.to_string())).into();
        for (world, out) in [1, 2, 4].into_iter().zip(&outs) {
            let (recipe, there) = (recipe.clone(), out.clone());
            for outcome in on_ranks(world, move |ranks| train(&recipe, ranks, &there)) {
                assert!(matches!(outcome.unwrap(), Outcome::Completed { .. }), "{name} on {world} ranks");
            }
            same(&outs[0], out, &format!("{name} on {world} ranks"));
        }
    }
}

#[test]
fn a_micro_batch_is_not_the_whole_batch() {
    let folder = tempfile::tempdir().unwrap();
    let out = |name: &str| folder.path().join(name);
    let whole = recipe().with(|recipe| recipe.micro_batches = 1);
    for (name, recipe) in [("parts", recipe()), ("whole", whole)] {
        let _ = train(&recipe, Arc::new(Solo), &out(name)).unwrap();
    }
    assert!(checkpoint(&out("parts")) != checkpoint(&out("whole")));
}

/// Asks for a stop after a number of steps.
struct StopAfter(usize, Control);

impl Observer for StopAfter {
    fn on_step(&mut self, _step: &StepProgress) {
        self.0 = self.0.saturating_sub(1);
        if self.0 == 0 {
            self.1.stop();
        }
    }
}

#[test]
fn a_run_that_was_stopped_goes_on_with_another_number_of_ranks_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let (whole, parts) = (folder.path().join("whole"), folder.path().join("parts"));
    let _ = train(&recipe(), Arc::new(Solo), &whole).unwrap();

    let out = parts.clone();
    let outcomes = on_ranks(4, move |ranks| {
        let control = Control::default();
        let observer = StopAfter(2, control.clone());
        let trainer = Trainer::new(recipe(), data()).with_ranks(ranks).with_observer(observer);
        trainer.with_control(control).run(&out)
    });
    // Only rank 0 has an observer that asked; all have stopped.
    for outcome in outcomes {
        let Outcome::Interrupted { checkpoint } = outcome.unwrap() else { panic!("not stopped") };
        assert!(checkpoint.ends_with("epoch-0000-step-000002.safetensors"), "{}", checkpoint.display());
    }
    for world in [2, 1] {
        let out = parts.clone();
        let outcomes = on_ranks(world, move |ranks| {
            let control = Control::default();
            let observer = StopAfter(if ranks.world() == 2 { 2 } else { 100 }, control.clone());
            let trainer = Trainer::new(recipe(), data()).with_ranks(ranks).with_observer(observer);
            trainer.with_control(control).resume(&out)
        });
        for outcome in outcomes {
            assert_eq!(matches!(outcome.unwrap(), Outcome::Completed { .. }), world == 1);
        }
    }
    same(&whole, &parts, "in three pieces on 4, 2 and 1 ranks");
}

#[test]
fn ranks_with_other_recipes_or_images_do_not_begin() {
    let folder = tempfile::tempdir().unwrap();
    for (name, expected) in
        [("recipe", "rank 1 has seed = 5, and rank 0 has seed = 17"), ("images", "rank 1 has images with")]
    {
        let out = folder.path().join(name);
        let errors = on_ranks(2, move |ranks| {
            let (mut recipe, mut images) = (recipe(), data());
            match (ranks.rank(), name) {
                (1, "recipe") => recipe.seed = 5,
                (1, _) => images = Dataset::synthetic(4, 40, 24),
                _ => {}
            }
            Trainer::new(recipe, images).with_ranks(ranks).run(&out).unwrap_err()
        });
        for error in errors {
            assert!(error.to_string().starts_with(expected), "{error}");
        }
        assert!(!folder.path().join(name).join("checkpoints").exists(), "something was trained");
    }
}

#[test]
fn an_error_on_one_rank_ends_all() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().to_path_buf();
    std::fs::write(out.join("notes.txt"), "mine").unwrap();
    let errors = on_ranks(2, move |ranks| train(&recipe(), ranks, &out).unwrap_err());
    assert!(matches!(errors[0], Error::FolderNotEmpty { .. }), "{}", errors[0]);
    let theirs = errors[1].to_string();
    assert!(theirs.starts_with("rank 0 has stopped: the folder") && theirs.contains("notes.txt"), "{theirs}");

    // In the second step, on rank 1 only.
    let out = folder.path().join("loss");
    let errors = on_ranks(2, move |ranks| {
        let rank = ranks.rank();
        let calls = std::cell::Cell::new(0);
        let loss = move |logits: &Tensor, labels: &Tensor| {
            calls.set(calls.get() + 1);
            let loss = wrn_sam_losses::smooth_cross_entropy(logits, labels, 0.1)?;
            Ok::<_, Error>(if rank == 1 && calls.get() == 6 { (loss * f64::NAN)? } else { loss })
        };
        // With an ascent for each micro-batch, the rank that has it finds it before the sum.
        let recipe = recipe().with(|recipe| recipe.ascent = Ascent::Micro);
        Trainer::new(recipe, data()).with_ranks(ranks).with_loss(loss).run(&out).unwrap_err()
    });
    assert!(
        errors[1].to_string().starts_with("epoch 1, step 2: the gradient's norm is not finite"),
        "{}",
        errors[1]
    );
    let Error::Step { epoch: 1, step: 2, source } = &errors[0] else { panic!("{}", errors[0]) };
    assert!(source.to_string().starts_with("rank 1 has stopped: epoch 1, step 2"), "{source}");
}

#[test]
fn micro_batches_are_for_all_ranks() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("two");
    let errors = on_ranks(4, move |ranks| {
        let recipe = recipe().with(|recipe| recipe.micro_batches = 2);
        train(&recipe, ranks, &out).unwrap_err().to_string()
    });
    for error in errors {
        assert_eq!(error, "micro_batches = 2: must be a multiple of the number of ranks");
    }

    // Unless the recipe says otherwise, a new run has one for each rank.
    let out = folder.path().join("one");
    let there = out.clone();
    let recipe = recipe().with(|recipe| (recipe.micro_batches, recipe.epochs) = (1, 1));
    on_ranks(2, move |ranks| train(&recipe, ranks, &there).unwrap());
    assert_eq!(Recipe::from_run(&out).unwrap().micro_batches, 2);
}

#[test]
fn gradients_in_bf16_are_other_gradients_and_the_same_on_every_rank() {
    let folder = tempfile::tempdir().unwrap();
    for exchange in [Exchange::F32, Exchange::Bf16] {
        let out = folder.path().join(format!("{exchange:?}"));
        // The replica check at every checkpoint compares the ranks.
        let outcomes =
            on_ranks(2, move |ranks| train(&recipe().with(|recipe| recipe.exchange = exchange), ranks, &out));
        assert!(outcomes.iter().all(|outcome| outcome.is_ok()));
    }
    let [exact, rounded] = ["F32", "Bf16"].map(|name| checkpoint(&folder.path().join(name)));
    assert!(exact != rounded);
}

/// Bad memory: a weight of rank 1 is another than that of the others.
#[test]
fn a_rank_that_drifted_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let errors = on_ranks(4, move |ranks| {
        let rank = ranks.rank();
        let optimizer = move |parameters: Vec<(String, candle_core::Var)>,
                              setup: &wrn_sam_train::Setup<'_>| {
            if rank == 1 {
                let weight = &parameters[0].1;
                weight.set(&(weight.as_tensor() * 1.0001)?)?;
            }
            Ok::<_, Error>(wrn_sam_optim::Sgd::named(parameters, setup.recipe.sgd())?)
        };
        Trainer::new(recipe(), data()).with_ranks(ranks).with_optimizer(optimizer).run(&out).unwrap_err()
    });
    for error in errors {
        assert!(matches!(&error, Error::Drifted { ranks, .. } if *ranks == [1]), "{error}");
    }
}

#[test]
fn a_rank_that_leaves_is_an_error_on_the_others() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let errors =
        on_ranks(2, move |ranks| (ranks.rank() == 0).then(|| train(&recipe(), ranks, &out).unwrap_err()));
    let error = errors[0].as_ref().unwrap();
    assert!(matches!(error, Error::Collective(RanksError::Gone { rank: 1 })), "{error}");
}

/// Three steps of two micro-batches that PyTorch computed in float64, on one rank and on two: the update of all parameters
/// together, and that of all running statistics.
#[test]
fn steps_of_two_micro_batches_are_pytorch_s_on_one_rank_and_on_two() {
    let Some(extra) = std::env::var_os("WRN_SAM_EXTRA") else {
        println!("skipped: WRN_SAM_EXTRA names no folder with golden/family");
        return;
    };
    let folder = Path::new(&extra).join("golden/family");
    for (name, over) in [("sam_micro", AscentOver::MicroBatch), ("sam_accumulate", AscentOver::Batch)] {
        let file = folder.join(name).with_extension("safetensors");
        let golden = candle_core::safetensors::load(&file, &Device::Cpu).unwrap();
        for world in [1, 2] {
            let there = golden.clone();
            for distances in on_ranks(world, move |ranks| replay(&there, over, ranks).unwrap()) {
                let [parameters, statistics] = distances;
                assert!(parameters < 1e-4 && statistics < 1e-4, "{name} on {world} ranks: {distances:?}");
            }
        }
    }
}

/// The relative distance from PyTorch's update of the parameters, and of the running statistics.
fn replay(
    golden: &HashMap<String, Tensor>,
    over: AscentOver,
    ranks: Arc<dyn Collective>,
) -> Result<[f64; 2]> {
    let below = |prefix: &str| -> HashMap<String, Tensor> {
        let inside =
            |(key, value): (&String, &Tensor)| Some((key.strip_prefix(prefix)?.into(), value.clone()));
        golden.iter().filter_map(inside).collect()
    };
    let (before, after) = (below("init/"), below("step3/after/"));
    let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    let model = WideResNet::new(&WideResNetConfig::new(10, 1).with_classes(10), parameters.var_builder())?;
    parameters.load_state(&before)?;
    let sgd = SgdConfig::new(0.1).with_momentum(0.9).with_weight_decay(5e-4);
    let sam = Sam::new(Sgd::named(parameters.named_trainable(), sgd)?, SamConfig::sam(0.1))?;
    let mut sam = sam.with_buffers(parameters.buffers())?.with_ranks(ranks.clone(), Precision::Exact);
    for step in 1..=3 {
        let batch =
            Batch::new(golden[&format!("step{step}/x")].clone(), golden[&format!("step{step}/y")].clone());
        let mut own = MicroBatch::split(&batch, 2, 0)?;
        if ranks.world() == 2 {
            own = vec![own.swap_remove(ranks.rank())];
        }
        let loss =
            |logits: &Tensor, labels: &Tensor| wrn_sam_losses::smooth_cross_entropy(logits, labels, 0.1);
        step_micro_batches(&model, &mut sam, &own, over, loss)?;
    }
    let (mut distance, mut length) = ([0.0; 2], [0.0; 2]);
    for (name, found) in parameters.state()? {
        if found.dtype() != DType::F32 {
            continue;
        }
        let kind = usize::from(name.contains("running_"));
        let sum = |tensor: Tensor| {
            Ok::<_, Error>(tensor.to_dtype(DType::F64)?.sqr()?.sum_all()?.to_scalar::<f64>()?)
        };
        distance[kind] += sum((&found - &after[&name])?)?;
        length[kind] += sum((&after[&name] - &before[&name])?)?;
    }
    Ok([0, 1].map(|kind| (distance[kind] / length[kind]).sqrt()))
}
