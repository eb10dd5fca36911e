//! Pictures: what is decoded and refused, and folders of them by class.

use std::path::Path;

use image::codecs::jpeg::JpegEncoder;
use image::{ImageFormat, Rgb, RgbImage};
use wrn_sam_data::pictures::{PictureOptions, decode};
use wrn_sam_data::{Dataset, Error};

/// A picture with detail everywhere, so that every part of a scan matters.
fn picture(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| {
        Rgb([(x * 7 + y * 13) as u8, (x * y * 3) as u8, ((x * 31) ^ (y * 17)) as u8])
    })
}

fn jpeg(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = Vec::new();
    JpegEncoder::new_with_quality(&mut bytes, 90).encode_image(picture).unwrap();
    bytes
}

fn png(picture: &RgbImage) -> Vec<u8> {
    let mut bytes = std::io::Cursor::new(Vec::new());
    picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
    bytes.into_inner()
}

#[test]
fn a_picture_of_the_right_size_keeps_its_pixels() {
    for size in [1, 5, 32, 64] {
        let picture = picture(size, size);
        let image = decode(&png(&picture), size as usize).unwrap();
        let plane = (size * size) as usize;
        for (i, pixel) in picture.pixels().enumerate() {
            assert_eq!([image[i], image[plane + i], image[2 * plane + i]], pixel.0);
        }
    }
    // The middle square of a wide picture.
    let wide = picture(40, 10);
    let middle = RgbImage::from_fn(10, 10, |x, y| *wide.get_pixel(x + 15, y));
    assert_eq!(decode(&png(&wide), 10).unwrap(), decode(&png(&middle), 10).unwrap());
}

#[test]
fn a_jpeg_whose_scan_is_cut_is_refused_even_with_an_end_marker() {
    for side in [16, 37, 80] {
        let whole = jpeg(&picture(side, side));
        decode(&whole, 32).unwrap();
        let scan = whole.windows(2).position(|bytes| bytes == [0xff, 0xda]).expect("a scan") + 14;
        let step = ((whole.len() - scan) / 60).max(1);
        for length in (scan..whole.len() - 3).step_by(step) {
            let cut = [&whole[..length], &[0xff, 0xd9]].concat();
            let error = decode(&cut, 32).expect_err("a cut scan").to_string();
            assert!(error.starts_with("the JPEG is"), "{length} of {}: {error}", whole.len());
        }
        // Bytes behind the end are nothing that matters.
        decode(&[&whole[..], b"trailing"].concat(), 32).unwrap();
    }
}

#[test]
fn other_files_are_called_what_they_are() {
    for (bytes, part) in [
        (&b""[..], "the file is empty"),
        (b"text", "neither PNG nor JPEG"),
        (b"GIF89a..........", "it is Gif"),
        (&png(&picture(8, 8))[..60], "unexpected"),
        (&jpeg(&picture(8, 8))[..200], "cut short"),
    ] {
        let error = decode(bytes, 32).unwrap_err().to_string();
        assert!(error.to_lowercase().contains(&part.to_lowercase()), "{part} in {error}");
    }
}

/// A folder with `pictures` PNGs for each class in each of `splits`; "" is the folder itself.
fn folder(splits: &[&str], classes: &[&str], pictures: u32) -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    for (class, name) in classes.iter().enumerate() {
        for (split, split_name) in splits.iter().enumerate() {
            let folder = folder.path().join(split_name).join(name);
            std::fs::create_dir_all(&folder).unwrap();
            for i in 0..pictures {
                let color = Rgb([class as u8 * 50, split as u8 * 100, i as u8]);
                RgbImage::from_pixel(20, 12, color).save(folder.join(format!("{i:02}.png"))).unwrap();
            }
        }
    }
    folder
}

fn options() -> PictureOptions {
    PictureOptions::default().with_image_size(16)
}

#[test]
fn folders_of_classes_become_splits() {
    let folder = folder(&["train", "val"], &["zebra", "ape", "cat"], 4);
    std::fs::write(folder.path().join("train/ape/notes.txt"), "not a picture").unwrap();
    std::fs::write(folder.path().join("train/ape/.hidden.png"), "not a picture").unwrap();
    let data = Dataset::from_pictures(folder.path(), &options()).unwrap();
    assert_eq!(data.class_names, ["ape", "cat", "zebra"]);
    assert_eq!((data.train.len(), data.test.len(), data.image_size()), (12, 12, 16));
    assert_eq!(data.train.labels(), [0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]);
    // ape was the second class to be made; its picture 3, of the test split.
    assert_eq!(data.test.image(3), [[50; 256], [100; 256], [3; 256]].as_flattened());
    let name = folder.path().file_name().unwrap().to_str().unwrap();
    assert_eq!(data.source.name, name);
    assert_eq!(data.source.to_string(), format!("{name}, pictures in {}", folder.path().display()));
    assert!(!data.source.is_synthetic() && !data.source.is_unknown());
    assert_eq!(data.source.location().as_deref(), Some(folder.path()));
}

#[test]
fn without_a_test_folder_a_share_of_each_class_is_held_out() {
    let folder = folder(&[""], &["a", "b"], 10);
    let data = Dataset::from_pictures(folder.path(), &options().with_test_share(0.3)).unwrap();
    assert_eq!((data.train.len(), data.test.labels()), (14, &[0, 0, 0, 1, 1, 1][..]));
    let again = Dataset::from_pictures(folder.path(), &options().with_test_share(0.3)).unwrap();
    assert_eq!(data.test.bytes(), again.test.bytes());
    let other = Dataset::from_pictures(folder.path(), &options().with_test_share(0.3).with_seed(1)).unwrap();
    assert_ne!(data.test.bytes(), other.test.bytes());
}

#[test]
fn pictures_are_decoded_once_until_they_change() {
    let folder = folder(&[""], &["a", "b"], 5);
    let cache = folder.path().join(".wrn-sam-pictures-16");
    let first = Dataset::from_pictures(folder.path(), &options()).unwrap();
    let kept = std::fs::read(&cache).unwrap();
    // What is read the second time is the cache: its pixels, under a checksum that fits.
    let again = Dataset::from_pictures(folder.path(), &options()).unwrap();
    assert_eq!(first.train.bytes(), again.train.bytes());
    assert_eq!(std::fs::read(&cache).unwrap(), kept);
    // A flipped bit is found, and the pictures are decoded again.
    let mut damaged = kept.clone();
    *damaged.last_mut().unwrap() ^= 1;
    std::fs::write(&cache, &damaged).unwrap();
    let again = Dataset::from_pictures(folder.path(), &options()).unwrap();
    assert_eq!(first.train.bytes(), again.train.bytes());
    assert_eq!(std::fs::read(&cache).unwrap(), kept);
    // A picture that changes is seen, even one of the same length.
    std::thread::sleep(std::time::Duration::from_millis(20));
    let path = folder.path().join("a/00.png");
    RgbImage::from_pixel(20, 12, Rgb([200; 3])).save(&path).unwrap();
    let changed = Dataset::from_pictures(folder.path(), &options()).unwrap();
    let all = |data: &Dataset| [data.train.bytes(), data.test.bytes()].concat();
    assert_ne!(all(&first), all(&changed));
    assert_ne!(std::fs::read(&cache).unwrap(), kept);
    std::fs::remove_file(&cache).unwrap();
    Dataset::from_pictures(folder.path(), &options().with_cache(false)).unwrap();
    assert!(!cache.exists());
}

#[test]
fn what_is_wrong_with_a_folder_is_said() {
    let fails = |folder: &Path, options: &PictureOptions, parts: &[&str]| {
        let error = Dataset::from_pictures(folder, options).unwrap_err();
        for part in parts {
            assert!(error.to_string().contains(part), "{part} in {error}");
        }
        error
    };
    let empty = tempfile::tempdir().unwrap();
    fails(empty.path(), &options(), &["it has no folders", "a folder for each class"]);
    fails(&empty.path().join("absent"), &options(), &["cannot list", "absent"]);
    fails(folder(&[""], &["a"], 3).path(), &options(), &["only one folder, a"]);
    fails(folder(&[""], &["a", "b"], 0).path(), &options(), &["no .png, .jpg or .jpeg file"]);
    for (wrong, part) in [
        (options().with_image_size(0), "image size = 0"),
        (options().with_image_size(1025), "image size = 1025"),
        (options().with_test_share(1.0), "test share = 1"),
        (options().with_test_share(f64::NAN), "test share = NaN"),
    ] {
        fails(folder(&[""], &["a", "b"], 2).path(), &wrong, &[part]);
    }

    let both = folder(&["train", "test"], &["a", "b"], 2);
    std::fs::create_dir(both.path().join("test/c")).unwrap();
    fails(both.path(), &options(), &["the class c is not among those to train on (a, b)"]);

    let damaged = folder(&[""], &["a", "b"], 3);
    for name in ["a/01.png", "b/00.png"] {
        std::fs::write(damaged.path().join(name), "no picture").unwrap();
    }
    let error =
        fails(damaged.path(), &options(), &["a/01.png: it is neither PNG nor JPEG", "1 other picture"]);
    assert!(matches!(error, Error::Picture { .. }));
    assert!(!damaged.path().join(".wrn-sam-pictures-16").exists());
}
