//! cuDNN through its graph interface: descriptors, and a handle on the device's stream.
//!
//! Reviewed against the documentation of cuDNN 9's graph interface (cudnnBackend*):
//!
//! - A descriptor is created, given its attributes, finalized, and only then read by others; those it refers to may be
//!   destroyed once it is finalized. Each attribute is set with the type that the documentation names for it, and counts of
//!   elements are `i64`.
//! - Reading an attribute that holds descriptors fills descriptors created beforehand; asked for none, it gives their count.
//! - Enumerations are read as the integers they are, since a newer library may know values that these bindings do not.
//! - A handle is used by one thread at a time, with the device's context current on that thread; here both are so under a
//!   lock.

use std::ffi::c_void;
use std::sync::Arc;

use candle_core::cuda_backend::CudaDevice;
use candle_core::cuda_backend::cudarc::cudnn::{result, sys};
use candle_core::cuda_backend::cudarc::driver::CudaStream;
use sys::cudnnBackendAttributeName_t as Attribute;
use sys::cudnnBackendAttributeType_t as Kind;
use sys::cudnnBackendDescriptorType_t as DescriptorType;

use crate::{Error, Result};

/// What cuDNN answered, in its words.
#[derive(Debug)]
pub(crate) struct Failure(String);

impl Failure {
    pub(crate) fn new(reason: impl Into<String>) -> Self {
        Self(reason.into())
    }

    /// As an error of `operation`.
    pub(crate) fn of(self, operation: impl Into<String>) -> Error {
        Error::Device { operation: operation.into(), library: "cuDNN", status: self.0 }
    }
}

/// A status as a result, with the message that cuDNN keeps for the last error of this thread.
fn check(status: sys::cudnnStatus_t) -> std::result::Result<(), Failure> {
    if status == sys::cudnnStatus_t::CUDNN_STATUS_SUCCESS {
        return Ok(());
    }
    let mut message = [0u8; 512];
    // SAFETY: as many bytes as are there; cuDNN ends the text with a zero.
    unsafe { sys::cudnnGetLastErrorString(message.as_mut_ptr().cast(), message.len()) };
    let end = message.iter().position(|&byte| byte == 0).unwrap_or(message.len());
    let message = String::from_utf8_lossy(&message[..end]);
    Err(Failure(if message.trim().is_empty() {
        format!("{status:?}")
    } else {
        format!("{status:?}: {message}")
    }))
}

/// A value that an attribute takes: its type, and how it is stored.
pub(crate) trait Value: Copy {
    const KIND: Kind;
}

macro_rules! values {
    ($($kind:ident: $value:ty),* $(,)?) => {
        $(impl Value for $value {
            const KIND: Kind = Kind::$kind;
        })*
    };
}

values! {
    CUDNN_TYPE_INT64: i64,
    CUDNN_TYPE_FLOAT: f32,
    CUDNN_TYPE_HANDLE: sys::cudnnHandle_t,
    CUDNN_TYPE_DATA_TYPE: sys::cudnnDataType_t,
    CUDNN_TYPE_CONVOLUTION_MODE: sys::cudnnConvolutionMode_t,
    CUDNN_TYPE_HEUR_MODE: sys::cudnnBackendHeurMode_t,
    CUDNN_TYPE_BACKEND_DESCRIPTOR: sys::cudnnBackendDescriptor_t,
}

/// An address on the device.
#[derive(Clone, Copy)]
#[repr(transparent)]
pub(crate) struct Pointer(pub(crate) u64);

impl Value for Pointer {
    const KIND: Kind = Kind::CUDNN_TYPE_VOID_PTR;
}

/// A descriptor, destroyed when dropped.
pub(crate) struct Descriptor(sys::cudnnBackendDescriptor_t);

// SAFETY: a descriptor is memory of its own, bound to no thread; it is used under the lock of its handle.
unsafe impl Send for Descriptor {}

impl Descriptor {
    pub(crate) fn new(kind: DescriptorType) -> std::result::Result<Self, Failure> {
        let mut descriptor = std::ptr::null_mut();
        // SAFETY: writes one pointer.
        check(unsafe { sys::cudnnBackendCreateDescriptor(kind, &mut descriptor) })?;
        Ok(Self(descriptor))
    }

    pub(crate) fn raw(&self) -> sys::cudnnBackendDescriptor_t {
        self.0
    }

    /// Sets an attribute.
    pub(crate) fn with<T: Value>(self, name: Attribute, values: &[T]) -> std::result::Result<Self, Failure> {
        let (count, values) = (values.len() as i64, values.as_ptr().cast::<c_void>());
        // SAFETY: `count` values of the type that goes with `KIND`; cuDNN copies them.
        check(unsafe { sys::cudnnBackendSetAttribute(self.0, name, T::KIND, count, values) })?;
        Ok(self)
    }

    /// Sets an attribute that refers to other descriptors.
    pub(crate) fn with_descriptor(self, name: Attribute, other: &Self) -> std::result::Result<Self, Failure> {
        self.with(name, &[other.0])
    }

    pub(crate) fn finalize(self) -> std::result::Result<Self, Failure> {
        // SAFETY: a live descriptor.
        check(unsafe { sys::cudnnBackendFinalize(self.0) })?;
        Ok(self)
    }

    /// An `i64` attribute.
    pub(crate) fn integer(&self, name: Attribute) -> std::result::Result<i64, Failure> {
        let (mut value, mut count) = (0i64, 0i64);
        let at = std::ptr::from_mut(&mut value).cast::<c_void>();
        // SAFETY: room for the one value asked for.
        check(unsafe {
            sys::cudnnBackendGetAttribute(self.0, name, Kind::CUDNN_TYPE_INT64, 1, &mut count, at)
        })?;
        Ok(value)
    }

    /// An attribute of enumerated values, as integers.
    pub(crate) fn numbers(&self, name: Attribute, kind: Kind) -> std::result::Result<Vec<u32>, Failure> {
        let (mut values, mut count) = ([0u32; 64], 0i64);
        let at = values.as_mut_ptr().cast::<c_void>();
        // SAFETY: room for the 64 values asked for, each a C enumeration, of which cuDNN writes no more than there are.
        check(unsafe { sys::cudnnBackendGetAttribute(self.0, name, kind, 64, &mut count, at) })?;
        Ok(values[..(count.max(0) as usize).min(64)].to_vec())
    }

    /// An attribute of descriptors of the given kind, `most` of them at most.
    pub(crate) fn descriptors(
        &self,
        name: Attribute,
        kind: DescriptorType,
        most: usize,
    ) -> std::result::Result<Vec<Self>, Failure> {
        let descriptors = (0..most).map(|_| Self::new(kind)).collect::<std::result::Result<Vec<_>, _>>()?;
        let mut raw: Vec<_> = descriptors.iter().map(Self::raw).collect();
        let mut count = 0i64;
        let (of, at) = (Kind::CUDNN_TYPE_BACKEND_DESCRIPTOR, raw.as_mut_ptr().cast::<c_void>());
        // SAFETY: as many descriptors as are asked for, each made just now; cuDNN fills the first `count` of them.
        check(unsafe { sys::cudnnBackendGetAttribute(self.0, name, of, most as i64, &mut count, at) })?;
        Ok(descriptors.into_iter().take(count.max(0) as usize).collect())
    }

    /// How many descriptors an attribute has.
    pub(crate) fn count(&self, name: Attribute) -> std::result::Result<usize, Failure> {
        let (mut count, of) = (0i64, Kind::CUDNN_TYPE_BACKEND_DESCRIPTOR);
        // SAFETY: none are asked for, so none are written.
        check(unsafe {
            sys::cudnnBackendGetAttribute(self.0, name, of, 0, &mut count, std::ptr::null_mut())
        })?;
        Ok(count.max(0) as usize)
    }
}

impl Drop for Descriptor {
    fn drop(&mut self) {
        // SAFETY: made by `new`, destroyed once. There is nobody to tell of a failure.
        unsafe { sys::cudnnBackendDestroyDescriptor(self.0) };
    }
}

/// A cuDNN handle on a device's stream.
pub(crate) struct Handle {
    handle: sys::cudnnHandle_t,
    /// Which outlives the handle.
    pub(crate) stream: Arc<CudaStream>,
}

// SAFETY: a handle may move between threads that use it one at a time.
unsafe impl Send for Handle {}

impl Handle {
    pub(crate) fn new(device: &CudaDevice) -> Result<Self> {
        let stream = device.cuda_stream();
        let failed = |reason: String| {
            let advice = "needed is cuDNN 9 for this CUDA version, found by the dynamic linker";
            Error::Device {
                operation: "opening cuDNN".to_string(),
                library: "cuDNN",
                status: format!("{reason} ({advice})"),
            }
        };
        stream.context().bind_to_thread().map_err(|error| failed(error.to_string()))?;
        let version = result::get_version();
        if !(90_000..1_000_000).contains(&version) {
            return Err(failed(format!("version {version}")));
        }
        let handle = result::create_handle().map_err(|error| failed(error.to_string()))?;
        let this = Self { handle, stream };
        // SAFETY: both are live; the stream is kept as long as the handle.
        let set = unsafe { result::set_stream(this.handle, this.stream.cu_stream().cast()) };
        set.map_err(|error| failed(error.to_string()))?;
        Ok(this)
    }

    pub(crate) fn raw(&self) -> sys::cudnnHandle_t {
        self.handle
    }

    /// Makes the device's context current, which every call that works on the device wants.
    pub(crate) fn bind(&self) -> std::result::Result<(), Failure> {
        self.stream.context().bind_to_thread().map_err(|error| Failure(error.to_string()))
    }

    /// Runs a finalized execution plan.
    ///
    /// # Safety
    /// `pack` names, for every tensor of the plan, memory on the device that fits its descriptor and is aligned as that
    /// says, and a workspace of the plan's size; no other stream uses any of it.
    pub(crate) unsafe fn execute(
        &self,
        plan: &Descriptor,
        pack: &Descriptor,
    ) -> std::result::Result<(), Failure> {
        // SAFETY: the caller's promise.
        check(unsafe { sys::cudnnBackendExecute(self.handle, plan.0, pack.0) })
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        // The last owner may be on another thread. Nobody is to be told of a failure, of this or the next.
        let _ = self.bind();
        // SAFETY: made by `new`, destroyed once; cuDNN lets work that is under way end.
        let _ = unsafe { result::destroy_handle(self.handle) };
    }
}
