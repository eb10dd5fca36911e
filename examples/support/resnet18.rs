//! ResNet-18 (He et al., <https://arxiv.org/abs/1512.03385>) as torchvision has it, built from this workspace's layers, on the
//! CPU. Its values have torchvision's names, so its weights are read as they are.

use wrn_sam::candle::{Result, Tensor};
use wrn_sam::candle_nn::{Linear, Module, VarBuilder, linear};
use wrn_sam::kernels::Cpu;
use wrn_sam::kernels::elementwise::add_relu;
use wrn_sam::kernels::pool::{global_avg_pool2d, max_pool2d};
use wrn_sam::models::{BatchNorm, Conv2d, Mode};

/// Two 3x3 convolutions beside a shortcut, which is projected where the shape changes.
struct Block {
    conv1: Conv2d,
    bn1: BatchNorm,
    conv2: Conv2d,
    bn2: BatchNorm,
    downsample: Option<(Conv2d, BatchNorm)>,
}

impl Block {
    fn new(inputs: usize, outputs: usize, stride: usize, vb: VarBuilder) -> Result<Self> {
        // In torchvision's order, so that the parameters come in it too.
        Ok(Self {
            conv1: Conv2d::new(inputs, outputs, 3, stride, vb.pp("conv1"))?,
            bn1: BatchNorm::new(outputs, vb.pp("bn1"))?,
            conv2: Conv2d::new(outputs, outputs, 3, 1, vb.pp("conv2"))?,
            bn2: BatchNorm::new(outputs, vb.pp("bn2"))?,
            downsample: match (inputs == outputs, stride) {
                (true, 1) => None,
                _ => {
                    let convolution = Conv2d::new(inputs, outputs, 1, stride, vb.pp("downsample").pp(0))?;
                    Some((convolution, BatchNorm::new(outputs, vb.pp("downsample").pp(1))?))
                }
            },
        })
    }

    fn forward(&self, x: &Tensor, mode: Mode) -> Result<Tensor> {
        let y = self.bn1.forward_relu(&self.conv1.forward(x)?, mode)?;
        let y = self.bn2.forward(&self.conv2.forward(&y)?, mode)?;
        let shortcut = match &self.downsample {
            Some((convolution, norm)) => norm.forward(&convolution.forward(x)?, mode)?,
            None => x.clone(),
        };
        Ok(add_relu(Cpu::shared(), &y, &shortcut)?)
    }
}

/// For images [N, 3, H, W] of any size, normalized as torchvision's weights want them.
pub struct ResNet18 {
    conv1: Conv2d,
    bn1: BatchNorm,
    blocks: Vec<Block>,
    fc: Linear,
}

impl ResNet18 {
    /// The network of a builder's values; `fc` has so many classes.
    pub fn new(classes: usize, vb: VarBuilder) -> Result<Self> {
        let conv1 = Conv2d::new(3, 64, 7, 2, vb.pp("conv1"))?;
        let bn1 = BatchNorm::new(64, vb.pp("bn1"))?;
        let mut blocks = Vec::new();
        for (layer, inputs, outputs) in [(1, 64, 64), (2, 64, 128), (3, 128, 256), (4, 256, 512)] {
            let vb = vb.pp(format!("layer{layer}"));
            let stride = if layer == 1 { 1 } else { 2 };
            blocks.push(Block::new(inputs, outputs, stride, vb.pp(0))?);
            blocks.push(Block::new(outputs, outputs, 1, vb.pp(1))?);
        }
        Ok(Self { conv1, bn1, blocks, fc: linear(512, classes, vb.pp("fc"))? })
    }

    /// Logits [N, classes].
    pub fn forward(&self, images: &Tensor, mode: Mode) -> Result<Tensor> {
        let x = self.bn1.forward_relu(&self.conv1.forward(images)?, mode)?;
        let x = max_pool2d(Cpu::shared(), &x, 3, 2, 1)?;
        let x = self.blocks.iter().try_fold(x, |x, block| block.forward(&x, mode))?;
        self.fc.forward(&global_avg_pool2d(Cpu::shared(), &x)?)
    }
}
