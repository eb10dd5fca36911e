//! The shape of a convolution, and the numbers that a layer gives for it.

use std::fmt;

use candle_core::Tensor;

use crate::span::Cost;
use crate::{Error, Result};

/// How a convolution's kernel goes over the image: what PyTorch's `Conv2d` has beside its sizes.
///
/// ```
/// use wrn_sam_kernels::conv2d::Conv2dConfig;
/// let depthwise = Conv2dConfig::new(1, 1).with_groups(64); // stride 1, padding 1
/// assert_eq!((depthwise.stride, depthwise.dilation), (1, 1));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub struct Conv2dConfig {
    /// Input pixels from one output to the next, in both directions.
    pub stride: usize,
    /// Zeros on each side of the image.
    pub padding: usize,
    /// Input pixels from one of the kernel's taps to the next.
    pub dilation: usize,
    /// Parts that the channels are divided into: an output channel sees its own part of the input channels only.
    pub groups: usize,
}

impl Conv2dConfig {
    /// A stride and a padding, with dilation 1 and one group.
    #[must_use]
    pub fn new(stride: usize, padding: usize) -> Self {
        Self { stride, padding, dilation: 1, groups: 1 }
    }

    /// With `dilation` input pixels from one tap to the next.
    #[must_use]
    pub fn with_dilation(self, dilation: usize) -> Self {
        Self { dilation, ..self }
    }

    /// With the channels in so many groups. With as many groups as channels, the convolution is depthwise.
    #[must_use]
    pub fn with_groups(self, groups: usize) -> Self {
        Self { groups, ..self }
    }
}

impl Default for Conv2dConfig {
    /// Stride 1 and no padding, as in PyTorch.
    fn default() -> Self {
        Self::new(1, 0)
    }
}

/// The shape of a convolution with a square kernel, the same stride in both directions and the same zero
/// padding on all four sides: one that a convolution can have, and whose tensors' lengths do not overflow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Conv2dShape {
    pub(crate) batch: usize,
    pub(crate) height: usize,
    pub(crate) width: usize,
    pub(crate) in_channels: usize,
    pub(crate) out_channels: usize,
    pub(crate) kernel: usize,
    pub(crate) stride: usize,
    pub(crate) padding: usize,
    pub(crate) dilation: usize,
    pub(crate) groups: usize,
}

/// The size of a product from which on Winograd's algorithm is used.
const WINOGRAD_FLOPS: u64 = 1 << 27;

/// How a convolution's three products are computed.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Method {
    Winograd,
    NarrowGroups,
    ImplicitGemm,
}

impl Conv2dShape {
    /// A convolution of images `[N, H, W, C]` of the dimensions `input` to `out_channels` channels, with a kernel of
    /// `kernel` by `kernel`, `stride` input pixels from one output to the next, and `padding` zeros on each side.
    ///
    /// # Errors
    /// [`Error::Shape`] where a size other than the batch and the padding is 0, where the kernel is larger than the
    /// padded image, or where a tensor of the shape does not fit the address space.
    pub fn new(
        input: [usize; 4],
        out_channels: usize,
        kernel: usize,
        stride: usize,
        padding: usize,
    ) -> Result<Self> {
        Self::with_config(input, out_channels, kernel, Conv2dConfig::new(stride, padding))
    }

    /// As [`new`](Self::new), with any dilation and groups.
    ///
    /// # Errors
    /// As [`new`](Self::new), with the kernel's extent `(kernel - 1) dilation + 1` in the place of `kernel`; and where the
    /// groups do not divide both numbers of channels.
    pub fn with_config(
        input: [usize; 4],
        out_channels: usize,
        kernel: usize,
        config: Conv2dConfig,
    ) -> Result<Self> {
        let [batch, height, width, in_channels] = input;
        let Conv2dConfig { stride, padding, dilation, groups } = config;
        // A stride beyond the padded image gives one output, as that of its size does.
        let stride = stride.min(height.max(width).saturating_add(padding.saturating_mul(2)));
        let shape = Self {
            batch,
            height,
            width,
            in_channels,
            out_channels,
            kernel,
            stride,
            padding,
            dilation,
            groups,
        };
        shape.check()?;
        // A single tap has no distance to another.
        Ok(Self { dilation: if kernel == 1 { 1 } else { dilation }, ..shape })
    }

    /// The convolution of images `x`, `[N, C, H, W]`, with kernels `w`, `[O, C / groups, kernel, kernel]`.
    ///
    /// # Errors
    /// As [`with_config`](Self::with_config), and where `x` and `w` do not fit each other; an error of candle's where
    /// they are not of four dimensions.
    pub fn from_tensors(x: &Tensor, w: &Tensor, config: Conv2dConfig) -> Result<Self> {
        let (batch, in_channels, height, width) = x.dims4()?;
        let (out_channels, weight_channels, kernel, kernel_width) = w.dims4()?;
        let mismatch = |what, expected: usize, found: usize| {
            let (expected, found) = (expected.to_string(), found.to_string());
            Err(Error::Shape { what, expected, found })
        };
        if kernel_width != kernel {
            return mismatch("kernel width (as its height)", kernel, kernel_width);
        }
        let shape = Self::with_config([batch, height, width, in_channels], out_channels, kernel, config)?;
        if weight_channels != in_channels / config.groups {
            return mismatch("input channels of w", in_channels / config.groups, weight_channels);
        }
        Ok(shape)
    }

    /// The input's dimensions `[N, H, W, C]`.
    pub fn input_dims(&self) -> [usize; 4] {
        [self.batch, self.height, self.width, self.in_channels]
    }

    /// The weight's dimensions `[O, C / groups, kernel, kernel]`.
    pub fn weight_dims(&self) -> [usize; 4] {
        [self.out_channels, self.in_channels / self.groups, self.kernel, self.kernel]
    }

    /// The output's dimensions `[N, H, W, O]`.
    pub fn output_dims(&self) -> [usize; 4] {
        [self.batch, self.out_height(), self.out_width(), self.out_channels]
    }

    /// Elements of the input.
    pub fn input_len(&self) -> usize {
        self.input_dims().iter().product()
    }

    /// Elements of the weight.
    pub fn weight_len(&self) -> usize {
        self.weight_dims().iter().product()
    }

    /// Elements of the output.
    pub fn output_len(&self) -> usize {
        self.output_dims().iter().product()
    }

    /// Floating-point operations of each of the three products, counted as the direct convolution's
    /// multiplications and additions (padding included), however it is computed. At most `u64::MAX`.
    pub fn flops(&self) -> u64 {
        let [_, channels, kernel, _] = self.weight_dims();
        let products = (channels as u64).saturating_mul((kernel * kernel) as u64);
        (2 * self.output_len() as u64).saturating_mul(products)
    }

    pub(crate) fn out_height(&self) -> usize {
        self.out_size(self.height)
    }

    pub(crate) fn out_width(&self) -> usize {
        self.out_size(self.width)
    }

    fn out_size(&self, size: usize) -> usize {
        (size + 2 * self.padding - self.extent()) / self.stride + 1
    }

    /// The lines, and columns, of the image from the kernel's first tap to its last.
    pub(crate) fn extent(&self) -> usize {
        (self.kernel - 1) * self.dilation + 1
    }

    /// The convolution of one group by itself.
    pub(super) fn of_group(&self) -> Self {
        let groups = self.groups;
        Self {
            in_channels: self.in_channels / groups,
            out_channels: self.out_channels / groups,
            groups: 1,
            ..*self
        }
    }

    /// That a convolution can have this shape, and that none of its tensors' lengths overflows.
    fn check(&self) -> Result<()> {
        let error = |what, expected: &str, found: usize| {
            Err(Error::Shape { what, expected: expected.into(), found: found.to_string() })
        };
        let Self {
            height, width, in_channels, out_channels, kernel, stride, padding, dilation, groups, ..
        } = *self;
        for (what, value) in [
            ("height", height),
            ("width", width),
            ("input channels", in_channels),
            ("output channels", out_channels),
            ("kernel", kernel),
            ("stride", stride),
            ("dilation", dilation),
            ("groups", groups),
        ] {
            if value == 0 {
                return error(what, "at least 1", value);
            }
        }
        for (what, channels) in [("input channels", in_channels), ("output channels", out_channels)] {
            if !channels.is_multiple_of(groups) {
                return error(what, &format!("a multiple of the {groups} groups"), channels);
            }
        }
        // Half of the address space for every product of dimensions, far beyond what memory holds.
        let padded = |size: usize| padding.checked_mul(2)?.checked_add(size);
        let product = |factors: [Option<usize>; 4]| {
            let product =
                factors.into_iter().try_fold(1usize, |product, factor| product.checked_mul(factor?))?;
            product.checked_mul(2 * size_of::<f32>())
        };
        let (padded_height, padded_width) = (padded(height), padded(width));
        let channels = Some(in_channels.max(out_channels));
        // The first covers the tensors, the second the step from one line of outputs to the next.
        let lines = [Some(self.batch.max(1)), padded_height, padded_width, channels];
        if product(lines).is_none() || product([Some(stride), Some(1), padded_width, channels]).is_none() {
            return error("batch", "a convolution that fits the address space", self.batch);
        }
        if product([Some(in_channels), Some(out_channels), Some(kernel), Some(kernel)]).is_none() {
            return error("kernel", "a weight that fits the address space", kernel);
        }
        let extent = (kernel - 1).checked_mul(dilation).and_then(|extent| extent.checked_add(1));
        if extent.is_none_or(|extent| padded_height.min(padded_width).is_some_and(|size| size < extent)) {
            let (what, found) = if dilation == 1 { ("kernel", kernel) } else { ("dilation", dilation) };
            return error(what, "a kernel of at most the padded input's height and width", found);
        }
        Ok(())
    }

    /// What each of the three products costs, with one more pass over its result where something is added.
    pub(super) fn cost(&self, add: Option<&[f32]>) -> Cost {
        let elements = self.input_len() + self.weight_len() + self.output_len() + add.map_or(0, <[f32]>::len);
        let flops = self.flops();
        let computed = if self.method() == Method::Winograd { flops / 4 } else { flops };
        Cost { flops, computed, ..Cost::passes(1, elements) }
    }

    pub(super) fn method(&self) -> Method {
        let group = (self.in_channels / self.groups, self.out_channels / self.groups);
        if self.groups > 1 && matches!(group, (1, 1) | (2, 2) | (4, 4) | (8, 8)) {
            return Method::NarrowGroups;
        }
        // With fewer channels than half a vector, Winograd's lanes idle; the image's three take the implicit
        // way. So does what is done in less than a millisecond either way: there the direct sum's smaller
        // rounding error is worth more.
        let suits = (self.kernel, self.stride, self.padding, self.dilation, self.groups) == (3, 1, 1, 1, 1)
            && self.in_channels >= 8
            && self.flops() >= WINOGRAD_FLOPS;
        if suits { Method::Winograd } else { Method::ImplicitGemm }
    }
}

impl fmt::Display for Conv2dShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            batch, height, width, in_channels, out_channels, kernel, stride, dilation, groups, ..
        } = self;
        write!(f, "{batch} x {height}x{width}, {in_channels} -> {out_channels}, k{kernel} s{stride}")?;
        if *dilation > 1 {
            write!(f, " d{dilation}")?;
        }
        if *groups > 1 {
            write!(f, " g{groups}")?;
        }
        Ok(())
    }
}
