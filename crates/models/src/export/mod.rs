//! Networks and values in the formats of other programs.

mod onnx;
mod protobuf;
mod torch_save;

pub(crate) use onnx::to_onnx;
pub use torch_save::save_pytorch;
