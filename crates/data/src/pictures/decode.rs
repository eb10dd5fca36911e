//! From a picture's bytes to the square of pixels that a network sees.

use std::io::Cursor;

use image::imageops::FilterType;
use image::metadata::Orientation;
use image::{DynamicImage, ImageDecoder, ImageFormat, ImageReader, Limits, Rgb, RgbImage};
use zune_jpeg::JpegDecoder;
use zune_jpeg::zune_core::bytestream::ZCursor;
use zune_jpeg::zune_core::colorspace::ColorSpace;
use zune_jpeg::zune_core::options::DecoderOptions;

use crate::IMAGE_CHANNELS;

/// No picture may take more bytes than this once decoded: 357 megapixels of RGB.
const LARGEST: u64 = 1 << 30;

/// Why a picture cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PictureError(pub(crate) String);

impl From<&str> for PictureError {
    fn from(reason: &str) -> Self {
        Self(reason.into())
    }
}

impl From<image::ImageError> for PictureError {
    fn from(error: image::ImageError) -> Self {
        Self(error.to_string())
    }
}

/// A whole PNG or JPEG as an image of `size` by `size` pixels: planes of red, green and blue, row by row.
///
/// It is turned as its EXIF orientation says and laid over white where it is transparent. Its largest central square is scaled
/// by Catmull and Rom's cubic filter, which averages where it makes smaller, so nothing is distorted.
///
/// # Errors
/// [`PictureError`] where it is another file, is cut short or damaged, or has too many pixels.
///
/// # Panics
/// If `size` is 0.
pub fn decode(bytes: &[u8], size: usize) -> Result<Vec<u8>, PictureError> {
    assert!(size > 0, "an image has pixels");
    let (mut image, orientation) = match image::guess_format(bytes) {
        _ if bytes.is_empty() => return Err("the file is empty".into()),
        Ok(ImageFormat::Png) => png(bytes)?,
        Ok(ImageFormat::Jpeg) => jpeg(bytes)?,
        Ok(other) => return Err(PictureError(format!("it is {other:?}; only PNG and JPEG are read"))),
        Err(_) => return Err("it is neither PNG nor JPEG".into()),
    };
    image.apply_orientation(orientation);
    let image = middle(over_white(image).into(), size as u32);
    let plane = |channel| image.as_raw().iter().skip(channel).step_by(IMAGE_CHANNELS).copied();
    Ok((0..IMAGE_CHANNELS).flat_map(plane).collect())
}

fn check_size(width: u64, height: u64, bytes: u64) -> Result<(), PictureError> {
    if bytes <= LARGEST {
        return Ok(());
    }
    let megabytes = |bytes: u64| bytes.div_ceil(1_000_000);
    let (needed, limit) = (megabytes(bytes), megabytes(LARGEST));
    Err(PictureError(format!(
        "its {width} x {height} pixels take {needed} MB, more than the limit of {limit} MB: scale it down"
    )))
}

fn png(bytes: &[u8]) -> Result<(DynamicImage, Orientation), PictureError> {
    let mut reader = ImageReader::with_format(Cursor::new(bytes), ImageFormat::Png);
    reader.limits(Limits::no_limits());
    let mut decoder = reader.into_decoder()?;
    let (width, height) = decoder.dimensions();
    check_size(width.into(), height.into(), decoder.total_bytes())?;
    let orientation = decoder.orientation()?;
    Ok((DynamicImage::from_decoder(decoder)?, orientation))
}

/// Decoded in strict mode, which the image crate does not offer: otherwise what is missing or damaged becomes gray.
fn jpeg(bytes: &[u8]) -> Result<(DynamicImage, Orientation), PictureError> {
    let Some(end) = end_marker(bytes) else {
        return Err("the JPEG is cut short: it has no end marker".into());
    };
    let damaged =
        |error| PictureError(format!("the JPEG is damaged or of a kind that is not supported: {error}"));
    let mut decoder = jpeg_decoder(bytes);
    decoder.decode_headers().map_err(damaged)?;
    let (width, height) = decoder.dimensions().ok_or("the JPEG says no size")?;
    check_size(width as u64, height as u64, 3 * width as u64 * height as u64)?;
    let orientation = decoder.exif().and_then(|exif| Orientation::from_exif_chunk(exif));
    let pixels = decoder.decode().map_err(damaged)?;
    // Where a scan ends before its picture does, the decoder reads zeros. So other bits there change the picture, while
    // behind a whole scan nothing reads them.
    let longer = [&bytes[..end], &[0xa5; 64], &bytes[end..]].concat();
    if jpeg_decoder(&longer).decode().ok().as_ref() != Some(&pixels) {
        return Err("the JPEG is cut short: its data end before the picture does".into());
    }
    let image = RgbImage::from_raw(width as u32, height as u32, pixels)
        .ok_or("the JPEG has fewer pixels than it says")?;
    Ok((image.into(), orientation.unwrap_or(Orientation::NoTransforms)))
}

fn jpeg_decoder(bytes: &[u8]) -> JpegDecoder<ZCursor<&[u8]>> {
    let options = DecoderOptions::default().set_strict_mode(true).jpeg_set_out_colorspace(ColorSpace::RGB);
    let options = options.set_max_width(usize::MAX).set_max_height(usize::MAX);
    JpegDecoder::new_with_options(ZCursor::new(bytes), options)
}

/// Where the end marker is to which a JPEG's segments and scans lead. One in a thumbnail, which lies within a segment,
/// does not count.
fn end_marker(bytes: &[u8]) -> Option<usize> {
    let mut at = 2;
    while let Some(&[first, marker]) = bytes.get(at..at + 2) {
        at += match (first, marker) {
            (0xff, 0xd9) => return Some(at),
            // Fill bytes before a marker; a byte of a scan that is no marker; markers without a segment.
            (0xff, 0xff) => 1,
            (0xff, 0x00 | 0x01 | 0xd0..=0xd8) => 2,
            (0xff, _) => match bytes.get(at + 2..at + 4) {
                Some(&[high, low]) => 2 + usize::from(u16::from_be_bytes([high, low])),
                _ => return None,
            },
            _ => 1,
        };
    }
    None
}

/// What shows through is white, as on paper; a transparent pixel's own color is arbitrary.
fn over_white(image: DynamicImage) -> RgbImage {
    if !image.color().has_alpha() {
        return image.into_rgb8();
    }
    let image = image.into_rgba8();
    RgbImage::from_fn(image.width(), image.height(), |x, y| {
        let [red, green, blue, alpha] = image.get_pixel(x, y).0;
        let over = |color: u8| {
            let (color, alpha) = (u32::from(color), u32::from(alpha));
            ((color * alpha + 255 * (255 - alpha) + 127) / 255) as u8
        };
        Rgb([red, green, blue].map(over))
    })
}

fn middle(mut image: DynamicImage, size: u32) -> RgbImage {
    let (width, height) = (image.width(), image.height());
    let side = width.min(height);
    if width != height {
        image = image.crop_imm((width - side) / 2, (height - side) / 2, side, side);
    }
    let image = if side == size { image } else { image.resize_exact(size, size, FilterType::CatmullRom) };
    image.into_rgb8()
}
