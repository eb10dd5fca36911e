//! The program `predict`: what it says of good weights and pictures, and what it refuses.

mod support;

use std::io::{Cursor, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;

use image::{DynamicImage, GrayAlphaImage, ImageFormat, LumaA, Rgb, RgbImage, Rgba, RgbaImage, imageops};
use support::{Ended, example, root, tiny};
use wrn_sam::candle::{DType, Device, Tensor};
use wrn_sam::models::{Parameters, WideResNet, WideResNetConfig, read_metadata, save_state_dict};

fn folder() -> tempfile::TempDir {
    tempfile::tempdir().expect("a temporary folder")
}

fn write(path: &Path, bytes: impl AsRef<[u8]>) {
    std::fs::write(path, bytes).expect("a file in the temporary folder");
}

/// The values of a network of 10 classes, whose answers differ from picture to picture.
fn network() -> Parameters {
    let parameters = Parameters::new(3, DType::F32, &Device::Cpu);
    WideResNet::new(&WideResNetConfig::new(10, 1).with_classes(10), parameters.var_builder())
        .expect("a network");
    let weight = parameters.get("f.8_classification.weight").expect("a classifier");
    let values: Vec<f32> = (0..weight.elem_count()).map(|i| (i as f32 * 1.7).sin()).collect();
    weight.set(&Tensor::from_vec(values, weight.dims(), &Device::Cpu).expect("a tensor")).expect("its shape");
    parameters
}

fn weights(folder: &Path) -> PathBuf {
    let path = folder.join("model.safetensors");
    network().save(&path).expect("weights");
    path
}

fn colorful(width: u32, height: u32) -> RgbImage {
    RgbImage::from_fn(width, height, |x, y| Rgb([(x * 3) as u8, (y * 5) as u8, (x * y / 7) as u8]))
}

fn encoded(image: impl Into<DynamicImage>, format: ImageFormat) -> Vec<u8> {
    let mut bytes = Cursor::new(Vec::new());
    image.into().write_to(&mut bytes, format).expect("an encoded picture");
    bytes.into_inner()
}

fn saved(path: PathBuf, image: impl Into<DynamicImage>) -> PathBuf {
    let format = ImageFormat::from_path(&path).expect("a known extension");
    write(&path, encoded(image, format));
    path
}

fn predict(weights: &Path, images: &[&Path]) -> Ended {
    Ended::of(example("predict").arg(weights).args(images))
}

/// What is said of one picture, without its name.
fn answer(weights: &Path, image: &Path) -> String {
    let stdout = predict(weights, &[image]).succeeds().stdout;
    stdout.split_once('\n').expect("a name and classes").1.to_string()
}

#[test]
fn five_classes_are_named_wherever_the_weights_are() {
    let folder = folder();
    let out = folder.path().join("run");
    Ended::of(tiny().args(["--seed", "3", "--out"]).arg(&out)).succeeds();
    let model = out.join("model.safetensors");
    let wide = saved(folder.path().join("wide.png"), colorful(90, 50));
    let small = saved(folder.path().join("small.jpg"), colorful(7, 9));
    let ended = predict(&model, &[&wide, &small]).succeeds();
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert_eq!(lines.len(), 12, "{}", ended.stdout);
    for (image, lines) in [&wide, &small].into_iter().zip(lines.chunks(6)) {
        assert_eq!(lines[0], image.display().to_string());
        let probability =
            |line: &&str| line.split('%').next().and_then(|text| text.trim().parse::<f64>().ok());
        let probabilities: Vec<f64> = lines[1..].iter().map(|line| probability(line).expect(line)).collect();
        assert!(probabilities.is_sorted_by(|a, b| a >= b), "{probabilities:?}");
        assert!(probabilities[0] >= 1.0 && probabilities.iter().sum::<f64>() <= 100.5, "{probabilities:?}");
        assert!(lines[1..].iter().all(|line| line.contains("synthetic_")), "{}", ended.stdout);
    }
    assert!(
        ended.stderr.contains("trained on synthetic images: the classes mean nothing"),
        "{}",
        ended.stderr
    );

    // The weights say it themselves.
    let moved = folder.path().join("moved.safetensors");
    std::fs::copy(&model, &moved).expect("a copy");
    let elsewhere = predict(&moved, &[&wide, &small]).succeeds();
    assert_eq!(elsewhere.stdout, ended.stdout);
    assert!(elsewhere.stderr.contains("trained on synthetic images"), "{}", elsewhere.stderr);

    // Of photographs, with other names and statistics.
    let text = read_metadata(&model).expect("weights").expect("what they were trained on");
    let parameters = Parameters::new(0, DType::F32, &Device::Cpu);
    let config = WideResNetConfig::from_state_dict(&model).expect("a network");
    WideResNet::new(&config, parameters.var_builder()).expect("a network");
    parameters.load(&model).expect("weights");
    let with = |text: &str| {
        save_state_dict(&moved, &parameters.state().expect("values"), Some(text)).expect("weights");
        predict(&moved, &[&wide])
    };
    let photographs = text.replace("synthetic = true", "synthetic = false").replace("synthetic_", "flower_");
    let ended = with(&photographs).succeeds();
    assert!(ended.stdout.contains("flower_") && ended.stderr.is_empty(), "{}{}", ended.stdout, ended.stderr);
    with("no TOML").fails(1, &["moved.safetensors", "its metadata"]);
    let line = text.lines().find(|line| line.starts_with("std = ")).expect("statistics");
    with(&text.replace(line, "std = [0.2, 0.0, 0.2]")).fails(1, &["its metadata: ", "standard deviation"]);
}

#[test]
fn weights_that_do_not_say_what_they_were_trained_on_are_assumed_aloud() {
    let folder = folder();
    let model = weights(folder.path());
    let image = saved(folder.path().join("a.png"), colorful(32, 32));
    let ended = predict(&model, &[&image]).succeeds();
    assert!(ended.stderr.contains("its 10 classes are taken for CIFAR-10's"), "{}", ended.stderr);
    let known = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"];
    assert!(
        ended.stdout.lines().skip(1).all(|line| known.iter().any(|name| line.ends_with(name))),
        "{}",
        ended.stdout
    );
}

#[test]
fn weights_that_are_not_finite_are_refused() {
    let folder = folder();
    let image = saved(folder.path().join("a.png"), colorful(32, 32));
    let model = folder.path().join("model.safetensors");
    for (name, value, part) in [
        ("f.0_convolution.weight", f32::NAN, "f.0_convolution.weight holds NaN"),
        ("f.8_classification.bias", f32::INFINITY, "f.8_classification.bias holds inf"),
        ("f.4_normalization.running_var", -1.0, "f.4_normalization.running_var holds -1"),
        ("f.0_convolution.weight", 3e38, "outputs are not finite"),
    ] {
        let parameters = network();
        let var = parameters.get(name).expect("a value");
        var.set(&Tensor::full(value, var.dims(), &Device::Cpu).expect("a tensor")).expect("its shape");
        parameters.save(&model).expect("weights");
        let ended = predict(&model, &[&image]);
        assert_eq!(ended.stdout, "");
        ended.fails(1, &[part]);
    }
    predict(&folder.path().join("none.safetensors"), &[&image])
        .fails(1, &["none.safetensors", "No such file"]);
    predict(&image, &[&image]).fails(1, &["a.png is a PNG image, not weights"]);
    predict(folder.path(), &[&image]).fails(1, &["is a folder"]);
    let golden = root().join("testdata/wrn10-1_sam_sgd.safetensors");
    predict(&golden, &[&image]).fails(1, &["wrn10-1_sam_sgd.safetensors"]);
}

#[test]
fn pictures_that_are_cut_damaged_or_none_are_named_and_the_others_are_classified() {
    let folder = folder();
    let model = weights(folder.path());
    let path = |name: &str| folder.path().join(name);
    let good = saved(path("good.png"), colorful(40, 40));
    let (png, jpeg) =
        (encoded(colorful(90, 50), ImageFormat::Png), encoded(colorful(90, 50), ImageFormat::Jpeg));
    let mut bad =
        vec![path("none.png"), path("empty.png"), path("text.jpg"), path("gif.png"), path("large.jpg")];
    write(&bad[1], b"");
    write(&bad[2], b"no picture");
    write(&bad[3], b"GIF89a\x01\0\x01\0\0\0\0;");
    for (format, bytes) in [("png", &png), ("jpg", &jpeg)] {
        for length in [20, bytes.len() / 3, bytes.len() / 2, bytes.len() * 9 / 10] {
            bad.push(path(&format!("cut{length}.{format}")));
            write(&bad[bad.len() - 1], &bytes[..length]);
        }
    }
    bad.push(path("noend.jpg"));
    write(&bad[bad.len() - 1], &jpeg[..jpeg.len() - 2]);
    // The frame header's height and width.
    let frame = jpeg.windows(2).position(|pair| pair == [0xff, 0xc0]).expect("a frame header");
    let mut large = jpeg.clone();
    large[frame + 5..frame + 9].copy_from_slice(&[0xff, 0xdc, 0xff, 0xdc]);
    write(&bad[4], large);

    let images: Vec<&Path> = bad.iter().flat_map(|bad| [bad.as_path(), &good]).collect();
    let ended = predict(&model, &images);
    assert_eq!(ended.stdout.lines().filter(|line| *line == good.display().to_string()).count(), bad.len());
    assert_eq!(ended.stdout.lines().count(), 6 * bad.len());
    let errors: Vec<&str> = ended.stderr.lines().filter(|line| line.starts_with("error: ")).collect();
    assert_eq!(errors.len(), bad.len(), "{}", ended.stderr);
    for (bad, error) in bad.iter().zip(&errors) {
        assert!(error.starts_with(&format!("error: {}: ", bad.display())), "{error}");
    }
    for (place, part) in [(0, "No such file"), (1, "empty"), (2, "neither PNG nor JPEG"), (3, "it is Gif")] {
        assert!(errors[place].contains(part), "{}", errors[place]);
    }
    assert!(errors[4].contains("65500 x 65500") && errors[4].contains("limit of 1074 MB"), "{}", errors[4]);
    assert_eq!(ended.code, Some(1));
}

#[test]
fn folders_and_stdin_are_read() {
    let folder = folder();
    let model = weights(folder.path());
    let pictures = folder.path().join("pictures");
    std::fs::create_dir_all(pictures.join("b")).expect("a folder");
    let (png, jpeg) =
        (encoded(colorful(40, 30), ImageFormat::Png), encoded(colorful(40, 30), ImageFormat::Jpeg));
    write(&pictures.join("c.JPG"), &jpeg);
    write(&pictures.join("b/x.jpeg"), &jpeg);
    write(&pictures.join("a.png"), &png);
    write(&pictures.join("notes.txt"), "no picture");
    write(&pictures.join("._a.png"), "no picture");
    let names =
        |ended: Ended| -> Vec<String> { ended.stdout.lines().step_by(6).map(str::to_string).collect() };
    let expected = ["a.png", "b/x.jpeg", "c.JPG"].map(|name| pictures.join(name).display().to_string());
    assert_eq!(names(predict(&model, &[&pictures]).succeeds()), expected);

    let mut command = example("predict");
    command.arg(&model).arg("-").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().expect("predict runs");
    child.stdin.take().expect("a pipe").write_all(&png).expect("predict reads");
    let output = child.wait_with_output().expect("predict ends");
    let stdout = String::from_utf8(output.stdout).expect("text");
    assert_eq!(stdout, format!("-\n{}", answer(&model, &pictures.join("a.png"))));

    let empty = folder.path().join("empty");
    std::fs::create_dir(&empty).expect("a folder");
    predict(&model, &[&empty]).fails(1, &["empty: the folder has no .png, .jpg or .jpeg file"]);
    Ended::of(example("predict").arg(&model)).fails(2, &["IMAGE"]);
    Ended::of(example("predict").args(["--device", "abacus", "m", "a.png"])).fails(2, &["abacus"]);
}

/// A JPEG with an EXIF segment of one entry: its orientation.
fn with_orientation(jpeg: &[u8], orientation: u8) -> Vec<u8> {
    let mut exif = b"\xff\xe1\0\x22Exif\0\0MM\0\x2a\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0".to_vec();
    exif.extend([orientation, 0, 0, 0, 0, 0, 0]);
    [&jpeg[..2], &exif, &jpeg[2..]].concat()
}

#[test]
fn pictures_are_turned_as_their_orientation_says() {
    let folder = folder();
    let model = weights(folder.path());
    let jpeg = encoded(colorful(90, 51), ImageFormat::Jpeg);
    let stored = image::load_from_memory(&jpeg).expect("a JPEG").to_rgb8();
    let turns: [fn(&RgbImage) -> RgbImage; 8] = [
        |image| image.clone(),
        imageops::flip_horizontal,
        imageops::rotate180,
        imageops::flip_vertical,
        |image| imageops::flip_horizontal(&imageops::rotate90(image)),
        imageops::rotate90,
        |image| imageops::flip_horizontal(&imageops::rotate270(image)),
        imageops::rotate270,
    ];
    let (turned, upright) = (folder.path().join("turned.jpg"), folder.path().join("upright.png"));
    let mut answers = std::collections::HashSet::new();
    for (turn, orientation) in turns.iter().zip(1..) {
        write(&turned, with_orientation(&jpeg, orientation));
        let expected = answer(&model, &saved(upright.clone(), turn(&stored)));
        assert_eq!(answer(&model, &turned), expected, "{orientation}");
        answers.insert(expected);
    }
    assert_eq!(answers.len(), 8);
}

#[test]
fn transparent_pixels_are_laid_over_white() {
    let folder = folder();
    let model = weights(folder.path());
    let opaque = colorful(40, 40);
    let alpha = |x: u32, y: u32| if x < 20 { 255 } else { (y * 6) as u8 };
    let over = |color: u8, alpha: u8| {
        let alpha = f64::from(alpha) / 255.0;
        (f64::from(color) * alpha + 255.0 * (1.0 - alpha)).round() as u8
    };
    let clear = RgbaImage::from_fn(40, 40, |x, y| {
        let Rgb([red, green, blue]) = *opaque.get_pixel(x, y);
        Rgba([red, green, blue, alpha(x, y)])
    });
    let laid =
        RgbImage::from_fn(40, 40, |x, y| Rgb(opaque.get_pixel(x, y).0.map(|color| over(color, alpha(x, y)))));
    let gray = GrayAlphaImage::from_fn(40, 40, |x, y| LumaA([(x * y) as u8, alpha(x, y)]));
    let laid_gray = RgbImage::from_fn(40, 40, |x, y| Rgb([over((x * y) as u8, alpha(x, y)); 3]));
    let hidden = RgbaImage::from_pixel(40, 40, Rgba([0, 255, 0, 0]));
    let white = RgbImage::from_pixel(40, 40, Rgb([255; 3]));
    let cases: [(DynamicImage, RgbImage); 3] =
        [(clear.into(), laid), (gray.into(), laid_gray), (hidden.into(), white)];
    for (place, (transparent, expected)) in cases.into_iter().enumerate() {
        let transparent = saved(folder.path().join(format!("{place}.png")), transparent);
        let expected = saved(folder.path().join("expected.png"), expected);
        assert_eq!(answer(&model, &transparent), answer(&model, &expected), "{place}");
    }
}

/// Pictures and weights from reports of faults, in the folder `bug-inputs` of the extra test data.
#[test]
fn extra_pictures_and_weights_are_read_or_refused_in_one_line() {
    let Some(extra) = std::env::var_os("WRN_SAM_EXTRA") else {
        println!("skipped: WRN_SAM_EXTRA, a folder of extra test data, is not set");
        return;
    };
    let folder = PathBuf::from(extra).join("bug-inputs");
    let (good, base) = (folder.join("sd/good.safetensors"), folder.join("img/base0.png"));
    let refused = |ended: Ended, part: &str| {
        assert_eq!(ended.stdout, "");
        ended.fails(1, &[part]);
    };
    for name in ["cut20.jpg", "cut90.jpg", "headeronly.jpg", "noeoi.jpg"] {
        refused(predict(&good, &[&folder.join("img").join(name)]), "the JPEG is cut short");
    }
    let over_white = answer(&good, &folder.join("img/rgba_over_white.png"));
    assert_eq!(answer(&good, &folder.join("img/rgba_hidden_green.png")), over_white);
    for name in
        ["rgb14000.png", "big.jpg", "exif2.jpg", "exif3.jpg", "exif6.jpg", "la.png", "fully_transparent.png"]
    {
        answer(&good, &folder.join("img").join(name));
    }

    answer(&good, &base);
    let expected = answer(&folder.join("sd/f64.safetensors"), &base);
    for name in ["module_prefix", "orig_mod_prefix", "no_nbt"] {
        assert_eq!(answer(&folder.join(format!("sd/{name}.safetensors")), &base), expected, "{name}");
    }
    for name in ["bf16", "cifar10_run_without_recipe", "synthetic_run_without_recipe"] {
        let ended = predict(&folder.join(format!("sd/{name}.safetensors")), &[&base]).succeeds();
        assert!(ended.stderr.contains("does not say what it was trained on"), "{}", ended.stderr);
    }
    for (name, part) in [
        ("all_nan", "holds NaN"),
        ("nan_conv0", "f.0_convolution.weight holds NaN"),
        ("neg_var", "running_var holds -"),
        ("big_conv0", "not finite"),
        ("lfs_pointer", "is a Git LFS pointer, not the weights"),
    ] {
        refused(predict(&folder.join(format!("sd/{name}.safetensors")), &[&base]), part);
    }
}
