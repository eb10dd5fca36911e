//! A network of your own, trained by this workspace: a small ResNet for 32x32 images (He et al.,
//! <https://arxiv.org/abs/1512.03385>), with SAM over AdamW, checkpoints and resume.
//!
//! ```text
//! cargo run --release --example own_network -- result/own
//! ```
//!
//! The same command again goes on where the run was stopped or killed.

use std::{io::Write, path::PathBuf};

use wrn_sam::candle::{D, Tensor};
use wrn_sam::candle_nn::{Linear, Module, VarBuilder, linear};
use wrn_sam::data::Dataset;
use wrn_sam::models::{BatchNorm, Conv2d, Mode};
use wrn_sam::optim::{AdamW, AdamWConfig};
use wrn_sam::train::{Classifier, EpochMetrics, Observer, Recipe, Result, Trainer};

/// Two 3x3 convolutions beside a shortcut.
struct Block {
    conv1: Conv2d,
    norm1: BatchNorm,
    conv2: Conv2d,
    norm2: BatchNorm,
    /// Where the number of channels or the size of the images changes.
    projection: Option<Conv2d>,
}

impl Block {
    fn new(inputs: usize, outputs: usize, stride: usize, vb: VarBuilder) -> Result<Self> {
        let projects = inputs != outputs || stride != 1;
        let projection = projects.then(|| Conv2d::new(inputs, outputs, 1, stride, vb.pp("projection")));
        Ok(Self {
            conv1: Conv2d::new(inputs, outputs, 3, stride, vb.pp("conv1"))?,
            norm1: BatchNorm::new(outputs, vb.pp("norm1"))?,
            conv2: Conv2d::new(outputs, outputs, 3, 1, vb.pp("conv2"))?,
            norm2: BatchNorm::new(outputs, vb.pp("norm2"))?,
            projection: projection.transpose()?,
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let y = self.norm1.forward_relu(&self.conv1.forward(x)?, mode)?;
        let y = self.norm2.forward(&self.conv2.forward(&y)?, mode)?;
        let shortcut = self.projection.as_ref().map_or(Ok(x.clone()), |projection| projection.forward(x))?;
        Ok((y + shortcut)?.relu()?)
    }
}

struct ResNet {
    stem: Conv2d,
    norm: BatchNorm,
    blocks: Vec<Block>,
    classifier: Linear,
}

impl ResNet {
    fn new(classes: usize, vb: VarBuilder) -> Result<Self> {
        let block = |at: usize, inputs, stride| Block::new(inputs, 16 << at, stride, vb.pp("blocks").pp(at));
        Ok(Self {
            stem: Conv2d::new(3, 16, 3, 1, vb.pp("stem"))?,
            norm: BatchNorm::new(16, vb.pp("norm"))?,
            blocks: vec![block(0, 16, 1)?, block(1, 16, 2)?, block(2, 32, 2)?],
            classifier: linear(64, classes, vb.pp("classifier"))?,
        })
    }
}

impl Classifier for ResNet {
    fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.norm.forward_relu(&self.stem.forward(images)?, mode)?;
        let x = self.blocks.iter().try_fold(x, |x, block| block.forward(&x, mode))?;
        Ok(self.classifier.forward(&x.mean(D::Minus1)?.mean(D::Minus1)?)?)
    }

    fn classes(&self) -> usize {
        self.classifier.weight().dims()[0]
    }
}

struct Lines;

impl Observer for Lines {
    fn on_epoch(&mut self, row: &EpochMetrics) {
        let _ = writeln!(std::io::stdout(), "epoch {}: test top-1 {:.4}", row.epoch, row.eval_top1);
    }
}

fn main() -> std::result::Result<(), Box<dyn std::error::Error>> {
    let out = PathBuf::from(std::env::args().nth(1).unwrap_or_else(|| "result/own_network".into()));
    let recipe = "epochs = 3\nbatch_size = 64\nlearning_rate = 0.002\nrho = 0.05\ncheckpoint_every = 1";
    let data = Dataset::synthetic(17, 1024, 256); // or Dataset::open(Variant::Cifar100, "data")?
    let trainer = Trainer::new(Recipe::from_toml(recipe)?, data)
        .with_network(|vb, setup| ResNet::new(setup.classes, vb))
        .with_optimizer(|parameters, _| AdamW::named(parameters, AdamWConfig::default()))
        .with_observer(Lines);
    let outcome = if Recipe::from_run(&out).is_ok() { trainer.resume(&out) } else { trainer.run(&out) };
    let _ = writeln!(std::io::stdout(), "{:?}; everything is in {}", outcome?, out.display());
    Ok(())
}
