//! Images held out for validation: what is chosen on them, when the test images are measured, and early stopping.

use std::path::Path;

use wrn_sam_data::Dataset;
use wrn_sam_train::metrics::{self, EvalSplit, header};
use wrn_sam_train::{
    Control, EvaluateProgress, Observer, Outcome, Provenance, Recipe, StepProgress, Trainer,
};

use crate::support::{End, data, recipe, trainer};

/// Of the 120 training images, 40 are held out, and 64 of the others are trained on: two steps an epoch.
fn with_validation() -> Recipe {
    recipe().with(|recipe| {
        recipe.validation = 40;
        recipe.train_limit = 64;
        recipe.epochs = 3;
    })
}

/// What was measured, in order and without repetitions.
#[derive(Default)]
struct Measured(Vec<(usize, EvalSplit, usize)>);

impl Observer for Measured {
    fn on_evaluate(&mut self, progress: &EvaluateProgress) {
        let measured = (progress.epoch, progress.split, progress.total);
        if self.0.last() != Some(&measured) {
            self.0.push(measured);
        }
    }
}

#[test]
fn the_best_epoch_is_chosen_on_validation_images_and_the_test_images_are_measured_at_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let mut measured = Measured::default();
    let outcome = trainer(&with_validation()).with_observer(&mut measured).run(&out).unwrap();
    let Outcome::Completed { metrics: rows, tests, .. } = outcome else { panic!("interrupted") };
    let split = EvalSplit::Validation;
    assert_eq!(measured.0, [(1, split, 40), (2, split, 40), (3, split, 40), (3, EvalSplit::Test, 40)]);

    let text = std::fs::read_to_string(out.join("metrics.csv")).unwrap();
    assert_eq!(text.lines().next(), Some(&*header(split)));
    assert_eq!(metrics::read(&out.join("metrics.csv")).unwrap(), rows);
    let best = rows.iter().rposition(|row| row.best).unwrap();
    let highest = rows.iter().map(|row| row.eval_top1).fold(0.0, f64::max);
    assert_eq!(rows.iter().position(|row| row.eval_top1 == highest), Some(best));

    // What the end says of both files is what the files say, and what they do.
    assert_eq!(metrics::read_test(&out.join("test.csv")).unwrap(), tests);
    let [last, chosen] = &tests[..] else { panic!("{tests:?}") };
    assert_eq!((&*last.weights, last.epoch, &*chosen.weights, chosen.epoch), ("model", 3, "best", best + 1));
    for test in &tests {
        let file = out.join(format!("{}.safetensors", test.weights));
        let provenance = Provenance::from_weights(&file).unwrap().unwrap();
        assert_eq!((provenance.epoch, provenance.test_top1), (test.epoch, Some(test.top1)));
        assert_eq!(provenance.validation_top1, Some(rows[test.epoch - 1].eval_top1));
    }
    let page = std::fs::read_to_string(out.join("report.html")).unwrap();
    assert!(page.contains("chosen on validation images") && page.contains("Classes, by best.safetensors"));
    let confusion = std::fs::read_to_string(out.join("confusion.csv")).unwrap();
    let right: u32 = confusion
        .lines()
        .skip(1)
        .enumerate()
        .map(|(class, line)| line.split(',').nth(class + 1).unwrap().parse::<u32>().unwrap())
        .sum();
    assert_eq!(f64::from(right) / 40.0, chosen.top1);
}

#[test]
fn without_validation_every_file_says_that_the_test_images_chose() {
    let (_folder, out, _) = crate::support::whole_run();
    assert!(
        std::fs::read_to_string(out.join("metrics.csv"))
            .unwrap()
            .lines()
            .next()
            .unwrap()
            .ends_with("best_by_test")
    );
    assert!(std::fs::read_to_string(out.join("report.html")).unwrap().contains("so its figure is too good"));
    let rows = metrics::read(&out.join("metrics.csv")).unwrap();
    let tests = metrics::read_test(&out.join("test.csv")).unwrap();
    assert_eq!((tests[0].top1, tests[0].loss), (rows[1].eval_top1, rows[1].eval_loss));
}

/// Stops the run after every step, and after every measured batch.
struct Impatient(Control);

impl Observer for Impatient {
    fn on_step(&mut self, _: &StepProgress) {
        self.0.stop();
    }
    fn on_evaluate(&mut self, progress: &EvaluateProgress) {
        if progress.split == EvalSplit::Test && progress.images < progress.total {
            self.0.stop();
        }
    }
}

#[test]
fn a_run_with_validation_is_resumed_to_the_same_bits() {
    let folder = tempfile::tempdir().unwrap();
    let [whole, parts] = ["whole", "parts"].map(|name| folder.path().join(name));
    let _ = trainer(&with_validation()).run(&whole).unwrap();
    let piece = |out: &Path, begun: bool| {
        let control = Control::default();
        let trainer =
            trainer(&with_validation()).with_control(control.clone()).with_observer(Impatient(control));
        if begun { trainer.resume(out).unwrap() } else { trainer.run(out).unwrap() }
    };
    let mut pieces = 1;
    let mut outcome = piece(&parts, false);
    while matches!(outcome, Outcome::Interrupted { .. }) && pieces < 20 {
        outcome = piece(&parts, true);
        pieces += 1;
    }
    // The test images are always measured in two batches, so the stop between them has to be left out once.
    if matches!(outcome, Outcome::Interrupted { .. }) {
        let _ = trainer(&with_validation()).resume(&parts).unwrap();
    }
    assert!(pieces > 6, "{pieces}");
    End::of(&whole).assert_same(&End::of(&parts), "in pieces");
    for name in ["test.csv", "confusion.csv", "classes.csv", "confusion.svg"] {
        let read = |out: &Path| std::fs::read_to_string(out.join(name)).unwrap();
        assert_eq!(read(&whole), read(&parts), "{name}");
    }
}

#[test]
fn a_run_ends_when_its_patience_does() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    // Weights that hardly move answer the same in every epoch.
    let recipe = with_validation().with(|recipe| {
        (recipe.learning_rate, recipe.epochs, recipe.patience) = (1e-9, 50, 2);
    });
    let Outcome::Completed { metrics: rows, tests, .. } = trainer(&recipe).run(&out).unwrap() else {
        panic!()
    };
    assert!(rows.len() < 50 && tests.len() == 2, "{} epochs", rows.len());
    let best = rows.iter().rposition(|row| row.best).unwrap();
    assert_eq!(rows.len(), best + 1 + 2);
    assert!(rows.windows(2).all(|rows| !rows[1].best || rows[1].eval_top1 > rows[0].eval_top1));
    // It is over: resumed, nothing is trained.
    let before = std::fs::read(out.join("model.safetensors")).unwrap();
    let Outcome::Completed { metrics, .. } = trainer(&recipe).resume(&out).unwrap() else { panic!() };
    assert_eq!(metrics, rows);
    assert!(std::fs::read(out.join("model.safetensors")).unwrap() == before);
}

#[test]
fn impossible_parts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let fails = |recipe: &Recipe, expected: &str| {
        let error = trainer(recipe).run(&folder.path().join("run")).unwrap_err().to_string();
        assert_eq!(error, expected);
    };
    let base = recipe();
    fails(
        &base.clone().with(|recipe| recipe.validation = 120),
        "validation = 120: must be fewer than there are training images",
    );
    fails(
        &base.clone().with(|recipe| recipe.patience = 1),
        "patience = 1: must be 0 where `validation` is 0",
    );
    fails(&base.clone().with(|recipe| recipe.image_size = 0), "image_size = 0: must be from 1 to 1024");
    fails(
        &base.with(|recipe| recipe.image_size = 64),
        "the images have another size than the recipe's `image_size`; found 32x32 pixels, expected 64x64",
    );
    assert!(!folder.path().join("run").exists());
}

/// Images of your own keep their name, in every file of the run.
#[test]
fn own_images_are_called_by_their_name() {
    let folder = tempfile::tempdir().unwrap();
    let out = folder.path().join("run");
    let (train, test) = (data().train, data().test);
    let names: Vec<String> = (0..100).map(|class| format!("kind {class}")).collect();
    let own = Dataset::new("my leaves", train, test, names).unwrap();
    let recipe = recipe().with(|recipe| recipe.epochs = 1);
    let _ = Trainer::new(recipe, own).with_card(true).run(&out).unwrap();
    let provenance = Provenance::from_weights(&out.join("model.safetensors")).unwrap().unwrap();
    assert_eq!((&*provenance.data, provenance.synthetic, provenance.image_size), ("my leaves", false, 32));
    assert_eq!(provenance.classes[7], "kind 7");
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    assert!(read("recipe.toml").contains("data = \"memory\""));
    assert!(read("source.toml").contains("source = \"my leaves, images in memory\""));
    assert!(
        read("loss.svg").contains("WRN-10-1, my leaves") && !read("report.html").contains("synthetic images")
    );

    // The folder for the hub.
    let card = read("hub/README.md");
    for part in [
        "\n# WRN-10-1, my leaves\n",
        "\n  results:\n",
        "      type: \"my-leaves\"\n",
        "      split: test\n",
        "kind 99",
        "SAM, rho 0.1",
    ] {
        assert!(card.contains(part), "no {part} in {card}");
    }
    let config: serde_json::Value = serde_json::from_str(&read("hub/config.json")).unwrap();
    assert_eq!((&config["num_classes"], &config["id2label"]["7"]), (&100.into(), &"kind 7".into()));
    assert!(
        std::fs::read(out.join("hub/model.safetensors")).unwrap()
            == std::fs::read(out.join("model.safetensors")).unwrap()
    );
}

/// The end of a run is written again where a file of it is missing, or is that of a shorter run.
#[test]
fn missing_and_old_reports_are_written_again() {
    let (_folder, out, _) = crate::support::whole_run();
    let read = |name: &str| std::fs::read_to_string(out.join(name)).unwrap();
    let before = ["test.csv", "confusion.csv", "report.html"].map(read);
    let old = "weights,epoch,loss,top1,top5\nmodel,1,4.000000,0.010000,0.050000\n";
    std::fs::write(out.join("test.csv"), old).unwrap();
    let Outcome::Completed { tests, .. } = trainer(&recipe()).resume(&out).unwrap() else { panic!() };
    assert_eq!(metrics::read_test(&out.join("test.csv")).unwrap(), tests);
    std::fs::remove_file(out.join("confusion.csv")).unwrap();
    std::fs::remove_file(out.join("report.html")).unwrap();
    let _ = trainer(&recipe()).resume(&out).unwrap();
    assert!(before == ["test.csv", "confusion.csv", "report.html"].map(read));
    std::fs::write(out.join("test.csv"), "mine").unwrap();
    let error = trainer(&recipe()).resume(&out).unwrap_err().to_string();
    assert!(error.contains("test.csv") && error.contains("another header"), "{error}");
}
