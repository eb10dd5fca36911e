//! The space of all parameters: one vector of n numbers.

use candle_core::{DType, Tensor, Var};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};
use rand_distr::{Distribution, StandardNormal};

use crate::error::{Error, Result};

/// A vector in the space of all parameters, one number for each, such as a gradient or a direction to walk along.
///
/// Made by a [`Surface`](crate::Surface), for whose parameters it is.
#[derive(Clone, Debug)]
pub struct Direction(pub(crate) Tensor);

impl Direction {
    /// The numbers `[n]`: those of the first parameter in the order of its elements, then those of the next.
    pub fn as_tensor(&self) -> &Tensor {
        &self.0
    }

    /// The inner product with a direction of the same surface, summed in `f64`.
    ///
    /// # Errors
    /// candle's, where the lengths differ.
    pub fn dot(&self, other: &Self) -> Result<f64> {
        let (a, b) = (self.0.to_dtype(DType::F64)?, other.0.to_dtype(DType::F64)?);
        Ok((a * b)?.sum_all()?.to_scalar()?)
    }

    /// The Euclidean norm.
    ///
    /// # Errors
    /// candle's, where a device fails.
    pub fn norm(&self) -> Result<f64> {
        Ok(self.dot(self)?.sqrt())
    }

    /// This direction, `factor` times as long.
    ///
    /// # Errors
    /// candle's, where a device fails.
    pub fn scaled(&self, factor: f64) -> Result<Self> {
        Ok(Self((&self.0 * factor)?))
    }

    /// `self + factor · other`.
    ///
    /// # Errors
    /// candle's, where the lengths differ.
    pub fn plus(&self, factor: f64, other: &Self) -> Result<Self> {
        Ok(Self((&self.0 + (&other.0 * factor)?)?))
    }

    /// The numbers without their signs.
    pub(crate) fn abs(&self) -> Result<Self> {
        Ok(Self(self.0.abs()?))
    }

    /// The product of each two numbers.
    pub(crate) fn times(&self, other: &Self) -> Result<Self> {
        Ok(Self((&self.0 * &other.0)?))
    }
}

/// The parameters in their order: how a vector is cut into their shapes.
#[derive(Debug)]
pub(crate) struct Space {
    named: Vec<(String, Var)>,
    len: usize,
}

impl Space {
    pub fn new(named: Vec<(String, Var)>) -> Result<Self> {
        let describe = |var: &Var| format!("{:?} on {:?}", var.dtype(), var.device().location());
        let (_, first) = named.first().ok_or(Error::NoParameters)?;
        for (name, var) in &named {
            if var.dtype() != first.dtype() || !var.device().same_device(first.device()) {
                return Err(Error::Mixed {
                    name: name.clone(),
                    expected: describe(first),
                    found: describe(var),
                });
            }
        }
        let len = named.iter().map(|(_, var)| var.elem_count()).sum();
        Ok(Self { named, len })
    }

    pub fn vars(&self) -> impl Iterator<Item = &Var> {
        self.named.iter().map(|(_, var)| var)
    }

    pub fn len(&self) -> usize {
        self.len
    }

    /// One vector of a tensor for each parameter.
    pub fn join(&self, parts: &[Tensor]) -> Result<Direction> {
        let found: Vec<_> = parts.iter().map(Tensor::dims).collect();
        let expected: Vec<_> = self.vars().map(|var| var.dims()).collect();
        if found != expected {
            let [expected, found] = [expected, found].map(|dims| format!("{dims:?}"));
            return Err(Error::Shape { what: "a direction", expected, found });
        }
        let (_, first) = &self.named[0];
        let flat = parts
            .iter()
            .map(|part| part.detach().to_device(first.device())?.to_dtype(first.dtype())?.flatten_all());
        Ok(Direction(Tensor::cat(&flat.collect::<candle_core::Result<Vec<_>>>()?, 0)?))
    }

    /// The parameters' parts of a vector, as views of it.
    pub fn split(&self, direction: &Direction) -> Result<Vec<Tensor>> {
        if direction.0.dims() != [self.len] {
            let (expected, found) = (format!("[{}]", self.len), format!("{:?}", direction.0.dims()));
            return Err(Error::Shape { what: "a direction", expected, found });
        }
        let mut start = 0;
        let cut = |var: &Var| {
            let len = var.elem_count();
            start += len;
            direction.0.narrow(0, start - len, len)?.reshape(var.shape())
        };
        Ok(self.vars().map(cut).collect::<candle_core::Result<_>>()?)
    }

    /// Numbers drawn for each parameter from a stream of its own, keyed by seed, purpose, draw and name: in whatever order
    /// the parameters come, each gets the same.
    pub fn draw(
        &self,
        seed: u64,
        purpose: [u8; 8],
        draw: u64,
        mut sample: impl FnMut(&mut ChaCha8Rng) -> f64,
    ) -> Result<Direction> {
        let parts = self.named.iter().map(|(name, var)| {
            let mut key = [0; 32];
            key[..8].copy_from_slice(&seed.to_le_bytes());
            key[8..16].copy_from_slice(&purpose);
            key[16..24].copy_from_slice(&fnv1a(name).to_le_bytes());
            key[24..].copy_from_slice(&draw.to_le_bytes());
            let mut rng = ChaCha8Rng::from_seed(key);
            let values: Vec<f64> = (0..var.elem_count()).map(|_| sample(&mut rng)).collect();
            Tensor::from_vec(values, var.shape(), &candle_core::Device::Cpu)
        });
        self.join(&parts.collect::<candle_core::Result<Vec<_>>>()?)
    }
}

/// The 64-bit FNV-1a hash of a name, which is the same on every machine.
fn fnv1a(name: &str) -> u64 {
    name.bytes().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

/// A normal deviate with mean 0 and deviation 1.
pub(crate) fn normal(rng: &mut ChaCha8Rng) -> f64 {
    StandardNormal.sample(rng)
}

/// 1 or -1, with equal odds.
pub(crate) fn sign(rng: &mut ChaCha8Rng) -> f64 {
    if rng.next_u32() & 1 == 0 { -1.0 } else { 1.0 }
}
