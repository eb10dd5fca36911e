//! The end of a run: the test images are measured, and what they show is written.

use std::collections::HashMap;
use std::path::Path;

use candle_core::Device;
use candle_nn::Optimizer;
use wrn_sam_data::Split;
use wrn_sam_optim::{OptimizerState, Variables};

use super::Session;
use crate::answers::Answers;
use crate::card;
use crate::classifier::Classifier;
use crate::confusion::Confusion;
use crate::error::{Error, Result};
use crate::metrics::{self, EvalSplit, FinalTest};
use crate::page::{Mistake, Page};
use crate::provenance::Provenance;

const TEST: &str = "test.csv";
const PAGE: &str = "report.html";
/// How many mistakes the page shows.
const MISTAKES: usize = 24;

impl<M: Classifier, O: Optimizer + OptimizerState + Variables> Session<'_, M, O> {
    /// Measures the last weights and the best ones on the test images, and writes the reports; `None` if asked to stop. What a
    /// run has already is only read, unless it was trained further.
    pub(super) fn finish(&mut self, trained: bool) -> Result<Option<Vec<FinalTest>>> {
        let (test_file, epoch) = (self.folder.file(TEST), self.progress.rows.len());
        let whole =
            self.folder.file(PAGE).is_file() && (!self.run.card || self.folder.file(card::FOLDER).is_dir());
        if !trained && whole && test_file.is_file() {
            let tests = metrics::read_test(&test_file)?;
            // Those of a shorter run, which was then lengthened, are old.
            if tests.iter().any(|test| test.weights == "model" && test.epoch == epoch) {
                return Ok(Some(tests));
            }
        }
        let last: HashMap<_, _> = self.state()?.into_iter().collect();
        let Some(mut shown) = self.test("model", epoch)? else { return Ok(None) };
        let mut tests = vec![shown.0.clone()];
        if let Some(best) = self.progress.best {
            let file = self.folder.file("best.safetensors");
            let is_best = |provenance: Provenance| provenance.epoch == best.epoch;
            if best.epoch == epoch {
                tests.push(FinalTest { weights: "best".into(), ..shown.0.clone() });
            } else if file.is_file() && Provenance::from_weights(&file)?.is_some_and(is_best) {
                self.parameters.load(&file)?;
                let tested = self.test("best", best.epoch);
                self.parameters.load_state(&last)?;
                let Some(tested) = tested? else { return Ok(None) };
                tests.push(tested.0.clone());
                if self.run.recipe.eval_split() == EvalSplit::Validation {
                    shown = tested;
                }
            }
        }
        match self.finish_average()? {
            Some(None) => return Ok(None),
            average => tests.extend(average.flatten()),
        }
        for test in &tests {
            self.record(test)?;
        }
        self.write_reports(&tests, &shown)?;
        // Last, as it says that all of the others are there.
        metrics::write_test(&test_file, &tests)?;
        Ok(Some(tests))
    }

    /// Measures the weights in force, named and of an epoch, on the test images.
    pub(super) fn test(&mut self, weights: &str, epoch: usize) -> Result<Option<(FinalTest, Answers)>> {
        let mut answers = Answers::default();
        let Some(tally) = self.evaluate(EvalSplit::Test, false, Some(&mut answers))? else { return Ok(None) };
        Ok(Some((FinalTest::new(weights, epoch, &tally), answers)))
    }

    /// Says what weights do on the test images: to the observer, to the logs and in their file.
    fn record(&mut self, test: &FinalTest) -> Result<()> {
        let file = self.folder.file(&format!("{}.safetensors", test.weights));
        let provenance = if file.is_file() { Provenance::from_weights(&file)? } else { None };
        if let Some(mut provenance) = provenance.filter(|provenance| provenance.test_top1.is_none()) {
            provenance.test_top1 = Some(test.top1);
            let state = candle_core::safetensors::load(&file, &Device::Cpu)?;
            let mut state: Vec<_> = state.into_iter().collect();
            state.sort_by(|(one, _), (other, _)| one.cmp(other));
            provenance.write_weights(&file, &state)?;
        }
        self.log(|logs| logs.test(test))?;
        self.run.observer.on_test(test);
        Ok(())
    }

    fn write_reports(&self, tests: &[FinalTest], (shown, answers): &(FinalTest, Answers)) -> Result<()> {
        let data = &self.run.data;
        let test = data.test.truncated(answers.classes.len());
        let labels: Vec<u32> = test.labels().iter().map(|&label| label.into()).collect();
        let confusion = Confusion::new(data.class_names.iter(), &labels, &answers.classes)?;
        let subject = self.results.subject();
        let write = |name: &str, text: String| {
            wrn_sam_files::write(self.folder.file(name), |file| file.write_all(text.as_bytes()))
        };
        write("confusion.csv", confusion.to_csv())?;
        write("classes.csv", confusion.classes_csv())?;
        write("confusion.svg", confusion.to_svg(&format!("Confusion matrix: {subject}")))?;
        Page {
            subject: &subject,
            synthetic: data.source.is_synthetic(),
            split: self.run.recipe.eval_split(),
            rows: &self.progress.rows,
            tests,
            shown: &shown.weights,
            confusion: &confusion,
            mistakes: &mistakes(&test, answers, &data.class_names),
            test: &test,
            system: &self.system(),
            files: &[
                ("Recipe", self.run.recipe.to_toml()?),
                ("Images", read(&self.folder.file("source.toml"))?),
            ],
        }
        .write(&self.folder.file(PAGE))?;
        if self.run.card {
            let weights = self.folder.file(&format!("{}.safetensors", shown.weights));
            if let Some(provenance) = Provenance::from_weights(&weights)? {
                provenance.write_repository(&weights, &self.folder.file(card::FOLDER))?;
            }
        }
        Ok(())
    }

    /// What the run was computed with.
    fn system(&self) -> Vec<(&'static str, String)> {
        let seconds: f64 = self.progress.rows.iter().map(|row| row.seconds).sum();
        let device = &self.run.device;
        let threads = self.cpu.threads();
        let plural = if threads == 1 { "" } else { "s" };
        let on_cpu = format!("{threads} thread{plural}, {:?}", self.cpu.instruction_set());
        vec![
            ("wrn-sam", env!("CARGO_PKG_VERSION").into()),
            ("system", format!("{} on {}", std::env::consts::OS, std::env::consts::ARCH)),
            ("device", if device.is_cpu() { "CPU".into() } else { format!("{:?}", device.location()) }),
            ("CPU", cpu_name().map_or(on_cpu.clone(), |name| format!("{name}, {on_cpu}"))),
            ("numbers", self.run.recipe.precision.to_string()),
            ("parameters", self.parameters.parameter_count().to_string()),
            ("training images", self.train.len().to_string()),
            ("validation images", self.validation.as_ref().map_or(0, |loader| loader.len()).to_string()),
            ("test images", self.test.len().to_string()),
            ("batches", self.train.to_string()),
            ("time of all epochs", format!("{seconds:.0} s")),
        ]
    }
}

fn mistakes(test: &Split, answers: &Answers, names: &[String]) -> Vec<Mistake> {
    let wrong = answers.wrong(test.labels()).into_iter().take(MISTAKES);
    let mistake = |image: usize| Mistake {
        image,
        label: names[usize::from(test.label(image))].clone(),
        answer: names[answers.classes[image] as usize].clone(),
        probability: answers.probabilities[image],
    };
    wrong.map(mistake).collect()
}

/// The processor's name, where the system tells (Linux).
fn cpu_name() -> Option<String> {
    let text = std::fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = text.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().into())
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path).map_err(Error::io("read", path))
}
