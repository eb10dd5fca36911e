//! Recipes: what is refused and how it is said, and the way to TOML and back.

use proptest::prelude::*;
use wrn_sam_data::{Augmentation, Mix, Policy, Statistics};
use wrn_sam_train::{Augment, DataChoice, Error, Recipe, ScheduleKind};

fn refusal(toml: &str) -> String {
    Recipe::from_toml(toml).unwrap_err().to_string()
}

#[test]
fn a_value_out_of_range_is_named_with_its_range() {
    for (key, values) in [
        ("depth", &["33", "4", "0"][..]),
        ("width_factor", &["0", "100000"]),
        ("dropout", &["1", "-0.1", "nan"]),
        ("crop_padding", &["33"]),
        ("flip_probability", &["1.01", "-0.5", "nan"]),
        ("cutout_size", &["0"]),
        ("cutout_probability", &["-0.5", "1.5", "nan"]),
        ("randaugment_operations", &["15"]),
        ("randaugment_magnitude", &["31"]),
        ("mixup_alpha", &["-1", "1001", "nan"]),
        ("cutmix_alpha", &["-1", "inf"]),
        ("mix_probability", &["nan", "-0.1", "2"]),
        ("epochs", &["0", "1000001"]),
        ("batch_size", &["0", "65537"]),
        ("learning_rate", &["nan", "inf", "0", "-1"]),
        ("warmup_epochs", &["201"]),
        ("momentum", &["-0.1", "nan", "inf"]),
        ("dampening", &["nan", "inf"]),
        ("weight_decay", &["-1e-4", "inf"]),
        ("rho", &["-1", "nan", "inf"]),
        ("norm", &["1.0", "0.5", "nan"]),
        ("label_smoothing", &["1.5", "-0.1", "nan"]),
        ("threads", &["5000"]),
    ] {
        for value in values {
            let message = refusal(&format!("{key} = {value}"));
            assert!(message.starts_with(&format!("{key} = ")) && message.contains(": must be "), "{message}");
        }
    }
    for nesterov in ["momentum = 0.0", "dampening = 0.1"] {
        let message = refusal(&format!("nesterov = true\n{nesterov}"));
        assert!(message.starts_with("nesterov = true: must be false unless momentum"), "{message}");
    }
    let recipe = Recipe::quick().with(|recipe| recipe.seed = u64::MAX);
    assert!(recipe.to_toml().unwrap_err().to_string().contains("seed = 18446744073709551615"));
}

#[test]
fn unknown_keys_wrong_types_and_broken_toml_are_refused_with_their_place() {
    let message = refusal("depth = 16\nlerning_rate = 0.1\n");
    for part in ["line 2", "unknown field `lerning_rate`", "`learning_rate`"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    for (toml, part) in [
        ("batch_size = -1", "line 1"),
        ("epochs = 1.5", "line 1"),
        ("adaptive = \"yes\"", "line 1"),
        ("schedule = \"linear\"", "`step` or `cosine`"),
        ("augment = \"augmix\"", "`trivialaugment`"),
        ("depth = ", "line 1"),
        ("depth = 16\ndepth = 22", "duplicate key"),
    ] {
        assert!(matches!(Recipe::from_toml(toml), Err(Error::Toml { .. })), "{toml}");
        assert!(refusal(toml).contains(part), "{part} in {}", refusal(toml));
    }
}

#[test]
fn a_file_is_named_in_its_errors() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("mine.toml");
    assert!(Recipe::from_toml_file(&path).unwrap_err().to_string().starts_with("cannot read "));
    std::fs::write(&path, "rho = -1").unwrap();
    let error = Recipe::from_toml_file(&path).unwrap_err().to_string();
    assert!(error.contains("mine.toml") && error.contains("rho = -1"), "{error}");
    std::fs::write(&path, "").unwrap();
    assert_eq!(Recipe::from_toml_file(&path).unwrap(), Recipe::reference());
}

#[test]
fn the_reference_has_the_reference_values() {
    let reference = Recipe::reference();
    let toml = reference.to_toml().unwrap();
    for line in [
        "depth = 34",
        "width_factor = 10",
        "dropout = 0.0",
        "epochs = 200",
        "batch_size = 128",
        "learning_rate = 0.1",
        "schedule = \"step\"",
        "momentum = 0.9",
        "weight_decay = 0.0005",
        "rho = 0.1",
        "adaptive = false",
        "label_smoothing = 0.1",
        "augment = \"cutout\"",
        "mixup_alpha = 0.0",
        "cutmix_alpha = 0.0",
        "crop_padding = 4",
        "flip_probability = 0.5",
        "cutout_size = 16",
        "cutout_probability = 0.5",
        "seed = 17",
        "checkpoint_every = 5",
    ] {
        assert!(toml.lines().any(|found| found == line), "{line} in\n{toml}");
    }
    Recipe::quick().validate().unwrap();
    let rates = reference.learning_rates();
    for (epoch, rate) in
        [(0, 0.1), (39, 0.1), (40, 0.02), (100, 0.004), (140, 0.0008), (170, 0.00016), (199, 0.00016)]
    {
        assert!((rates.at(epoch) - rate).abs() < 1e-12, "epoch {epoch}");
    }
}

#[test]
fn a_recipe_gives_the_augmentation_it_names() {
    let statistics = Statistics { mean: [0.5; 3], std: [0.25; 3] };
    let of = |toml: &str| Recipe::from_toml(toml).unwrap().augmentation(statistics);
    let same = |ours: Augmentation, theirs: Augmentation| {
        assert_eq!((ours.crop, ours.flip, ours.policy), (theirs.crop, theirs.flip, theirs.policy));
        assert_eq!(ours.cutout, theirs.cutout);
    };
    same(of(""), Augmentation::reference(statistics));
    same(of("augment = 'basic'"), Augmentation::basic(statistics));
    for (name, policy) in [
        ("autoaugment", Policy::AutoAugment),
        ("randaugment", Policy::RAND_AUGMENT),
        ("trivialaugment", Policy::TrivialAugment),
    ] {
        let toml = format!("augment = '{name}'\ncutout_probability = 1");
        same(of(&toml), Augmentation::from_policy(policy, statistics));
    }
    let policy = of("augment = 'randaugment'\nrandaugment_operations = 1\nrandaugment_magnitude = 14").policy;
    assert_eq!(policy, Some(Policy::RandAugment { operations: 1, magnitude: 14 }));

    let mix = |toml| Recipe::from_toml(toml).unwrap().mix();
    assert_eq!(mix(""), None);
    assert_eq!(mix("mixup_alpha = 0.2"), Some(Mix::mixup(0.2)));
    assert_eq!(mix("cutmix_alpha = 1.0\nmix_probability = 0.5"), Some(Mix::cutmix(1.0).with_p(0.5)));
    assert_eq!(mix("cutmix_alpha = 1.0\nmix_probability = 0"), None);
}

#[test]
fn only_what_changes_results_is_a_difference() {
    let ours = Recipe::quick().with(|recipe| {
        recipe.rho = 0.05;
        recipe.adaptive = true;
        recipe.threads = 3;
        recipe.checkpoint_every = 1;
    });
    let differences = ours.differences(&Recipe::quick()).unwrap();
    let told: Vec<_> = differences.iter().map(ToString::to_string).collect();
    assert_eq!(told, ["`adaptive` is true here but false there", "`rho` is 0.05 here but 0.1 there"]);
    assert!(ours.differences(&ours.clone().with(|recipe| recipe.threads = 1)).unwrap().is_empty());
}

prop_compose! {
    fn recipes()(
        (n, width_factor, batch_size, epochs) in (1usize..167, 1usize..=1000, 1usize..=65_536, 1usize..=1_000_000),
        (dropout, momentum, label_smoothing) in (0.0..1.0, 0.0..1.0, 0.0..1.0),
        (learning_rate, weight_decay, rho) in (f64::MIN_POSITIVE..1e300, 0.0..1e300, 0.0..1e300),
        (flip_probability, cutout_probability, cutout_size) in (0.0..=1.0, 0.0..=1.0, 1usize..=64),
        (seed, threads, checkpoint_every) in (0..=i64::MAX as u64, 0usize..=1024, 0usize..1000),
        (train_limit, test_limit) in (0usize..100_000, 0usize..100_000),
        (adaptive, cosine, deterministic) in any::<(bool, bool, bool)>(),
        data in prop::sample::select(vec![DataChoice::Synthetic, DataChoice::Cifar10, DataChoice::Cifar100]),
        augment in prop::sample::select(vec![
            Augment::Basic, Augment::Cutout, Augment::AutoAugment, Augment::RandAugment, Augment::TrivialAugment,
        ]),
        (mixup_alpha, cutmix_alpha, mix_probability) in (0.0..=1000.0, 0.0..=1000.0, 0.0..=1.0),
        (randaugment_operations, randaugment_magnitude) in (0usize..=14, 0usize..=30),
    ) -> Recipe {
        Recipe::reference().with(|recipe| {
            recipe.depth = 6 * n + 4;
            recipe.width_factor = width_factor;
            recipe.dropout = dropout;
            recipe.train_limit = train_limit;
            recipe.test_limit = test_limit;
            recipe.flip_probability = flip_probability;
            recipe.cutout_size = cutout_size;
            recipe.cutout_probability = cutout_probability;
            recipe.epochs = epochs;
            recipe.batch_size = batch_size;
            recipe.learning_rate = learning_rate;
            recipe.momentum = momentum;
            recipe.weight_decay = weight_decay;
            recipe.rho = rho;
            recipe.adaptive = adaptive;
            recipe.label_smoothing = label_smoothing;
            recipe.seed = seed;
            recipe.threads = threads;
            recipe.checkpoint_every = checkpoint_every;
            recipe.data = data;
            recipe.augment = augment;
            recipe.mixup_alpha = mixup_alpha;
            recipe.cutmix_alpha = cutmix_alpha;
            recipe.mix_probability = mix_probability;
            recipe.randaugment_operations = randaugment_operations;
            recipe.randaugment_magnitude = randaugment_magnitude;
            recipe.deterministic = deterministic;
            recipe.schedule = if cosine { ScheduleKind::Cosine } else { ScheduleKind::Step };
            recipe.norm = if adaptive { f64::INFINITY } else { 2.0 };
        })
    }
}

proptest! {
    #[test]
    fn every_recipe_survives_toml(recipe in recipes()) {
        let toml = recipe.to_toml().unwrap();
        let read = Recipe::from_toml(&toml).unwrap();
        prop_assert_eq!(&read, &recipe);
        prop_assert!(read.differences(&recipe).unwrap().is_empty());
    }
}
