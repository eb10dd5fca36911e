//! PNG and JPEG pictures: one decoded to an image, and a folder of them by class read as a data set (feature `pictures`).

mod cache;
mod decode;
mod folder;

pub use decode::{PictureError, decode};
pub use folder::{PictureOptions, list};
