//! A run on one page: report.html, which needs no other file.

use std::fmt::Write;
use std::path::Path;

use wrn_sam_data::Split;

use crate::confusion::Confusion;
use crate::error::Result;
use crate::metrics::{EpochMetrics, EvalSplit, FinalTest};
use wrn_sam_charts::escape;

/// A wrongly answered image: its number in the test split, its label, the answer and the answer's probability.
pub(crate) struct Mistake {
    pub(crate) image: usize,
    pub(crate) label: String,
    pub(crate) answer: String,
    pub(crate) probability: f32,
}

/// What the page shows.
pub(crate) struct Page<'a> {
    /// What was trained on what.
    pub(crate) subject: &'a str,
    pub(crate) synthetic: bool,
    pub(crate) split: EvalSplit,
    pub(crate) rows: &'a [EpochMetrics],
    pub(crate) tests: &'a [FinalTest],
    /// Of the weights with the name `shown`.
    pub(crate) shown: &'a str,
    pub(crate) confusion: &'a Confusion,
    pub(crate) mistakes: &'a [Mistake],
    pub(crate) test: &'a Split,
    /// Names and values.
    pub(crate) system: &'a [(&'static str, String)],
    /// Titles and texts.
    pub(crate) files: &'a [(&'static str, String)],
}

const STYLE: &str = "body{font:15px/1.45 Helvetica,Arial,sans-serif;color:#222;max-width:1000px;margin:2em auto;padding:0 1em}\
h1{font-size:1.6em}h2{font-size:1.2em;margin-top:2em}table{border-collapse:collapse}td,th{padding:.2em .8em;text-align:right;\
border-bottom:1px solid #ddd}td:first-child,th:first-child{text-align:left}pre{background:#f5f5f5;padding:1em;overflow:auto}\
svg{max-width:100%;height:auto}.note{background:#fff3cd;padding:.6em 1em}figure{display:inline-block;width:112px;margin:0 8px 12px 0;\
vertical-align:top;font-size:12px;line-height:1.25}figure img{width:96px;height:96px;image-rendering:pixelated;display:block}";

impl Page<'_> {
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let html = self.to_html();
        Ok(wrn_sam_files::write(path, |file| file.write_all(html.as_bytes()))?)
    }

    fn to_html(&self) -> String {
        let subject = escape(self.subject);
        let mut html = format!(
            "<!DOCTYPE html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n<title>{subject}</title>\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n<style>{STYLE}</style>\n</head>\n<body>\n<h1>{subject}</h1>\n"
        );
        if self.synthetic {
            html += "<p class=\"note\">Trained on synthetic images: the figures say nothing about photographs.</p>\n";
        }
        self.push_results(&mut html);
        html += "<h2>Curves</h2>\n";
        for svg in crate::report::curves(self.subject, self.split, self.rows) {
            html += &svg;
        }
        self.push_classes(&mut html);
        self.push_mistakes(&mut html);
        html += "<h2>System</h2>\n<table>\n";
        for (name, value) in self.system {
            let _ = writeln!(html, "<tr><td>{name}</td><td>{}</td></tr>", escape(value));
        }
        html += "</table>\n";
        for (title, text) in self.files {
            let _ = write!(html, "<h2>{title}</h2>\n<pre>{}</pre>\n", escape(text));
        }
        html + "</body>\n</html>\n"
    }

    fn push_results(&self, html: &mut String) {
        *html += "<h2>Test images, at the end</h2>\n<table>\n\
                  <tr><th>weights</th><th>epoch</th><th>loss</th><th>top-1</th><th>top-5</th></tr>\n";
        for FinalTest { weights, epoch, loss, top1, top5 } in self.tests {
            let (top1, top5) = (100.0 * top1, 100.0 * top5);
            let _ = writeln!(
                html,
                "<tr><td>{weights}.safetensors</td><td>{epoch}</td><td>{loss:.4}</td><td>{top1:.2} %</td><td>{top5:.2} %</td></tr>"
            );
        }
        *html += "</table>\n";
        *html += match self.split {
            EvalSplit::Validation => {
                "<p>The best epoch was chosen on validation images; the test images were measured once, after that.</p>\n"
            }
            EvalSplit::Test => {
                "<p>The best epoch was chosen on these test images, so its figure is too good. That of the last epoch is not \
                 chosen by anything.</p>\n"
            }
        };
    }

    fn push_classes(&self, html: &mut String) {
        let confusion = self.confusion;
        let mut classes: Vec<usize> =
            (0..confusion.names().len()).filter(|&class| confusion.images(class) > 0).collect();
        let accuracy = |class: usize| confusion.class_accuracy(class).unwrap_or(0.0);
        classes.sort_by(|&one, &other| accuracy(one).total_cmp(&accuracy(other)));
        let _ = write!(
            html,
            "<h2>Classes, by {}.safetensors</h2>\n<p>The hardest and the easiest, with what they are most often taken for:</p>\n<table>\n\
             <tr><th>class</th><th>images</th><th>top-1</th><th>taken for</th></tr>\n",
            self.shown
        );
        let shown = if classes.len() > 12 {
            [&classes[..6], &classes[classes.len() - 6..]].concat()
        } else {
            classes
        };
        for class in shown {
            let others = (0..confusion.names().len()).filter(|&other| other != class);
            let taken = others.max_by_key(|&other| (confusion.count(class, other), std::cmp::Reverse(other)));
            let taken = taken.filter(|&other| confusion.count(class, other) > 0);
            let taken = taken.map_or(String::new(), |other| {
                format!("{} ({})", escape(&confusion.names()[other]), confusion.count(class, other))
            });
            let _ = writeln!(
                html,
                "<tr><td>{}</td><td>{}</td><td>{:.1} %</td><td>{taken}</td></tr>",
                escape(&confusion.names()[class]),
                confusion.images(class),
                100.0 * accuracy(class),
            );
        }
        *html += "</table>\n";
        *html += &confusion.to_svg("Confusion matrix of the test images");
    }

    fn push_mistakes(&self, html: &mut String) {
        if self.mistakes.is_empty() {
            return;
        }
        *html += "<h2>Mistakes</h2>\n<p>The test images of which the network was surest, and wrong:</p>\n";
        for Mistake { image, label, answer, probability } in self.mistakes {
            let picture = base64(&bmp(self.test.image(*image), self.test.image_size()));
            let (label, answer) = (escape(label), escape(answer));
            let _ = writeln!(
                html,
                "<figure><img alt=\"{label}\" src=\"data:image/bmp;base64,{picture}\"><figcaption>{label}, taken for {answer} \
                 ({:.0} %); image {image}</figcaption></figure>",
                100.0 * probability
            );
        }
    }
}

/// A Windows bitmap, which every browser shows, of square planes of red, green and blue.
fn bmp(image: &[u8], side: usize) -> Vec<u8> {
    const HEADERS: u32 = 54;
    let row = (3 * side).next_multiple_of(4);
    let length = HEADERS + (row * side) as u32;
    let mut bmp = b"BM".to_vec();
    for number in [length, 0, HEADERS, 40, side as u32, side as u32, 1 | 24 << 16, 0, 0, 2835, 2835, 0, 0] {
        bmp.extend(number.to_le_bytes());
    }
    // From the lowest row to the highest, each filled up to whole words.
    for y in (0..side).rev() {
        for x in 0..side {
            let at = y * side + x;
            bmp.extend([2, 1, 0].map(|channel| image[channel * side * side + at]));
        }
        bmp.resize(HEADERS as usize + row * (side - y), 0);
    }
    bmp
}

/// Bytes in the letters of RFC 4648.
fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let bits = group.iter().fold(0, |bits, &byte| bits << 8 | u32::from(byte)) << (8 * (3 - group.len()));
        for letter in 0..4 {
            let index = bits >> (18 - 6 * letter) & 63;
            text.push(if letter <= group.len() { LETTERS[index as usize] as char } else { '=' });
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_is_the_standards() {
        for (bytes, expected) in [
            ("", ""),
            ("f", "Zg=="),
            ("fo", "Zm8="),
            ("foo", "Zm9v"),
            ("foobar", "Zm9vYmFy"),
            ("\u{ff}~", "w79+"),
        ] {
            assert_eq!(base64(bytes.as_bytes()), expected);
        }
    }

    #[test]
    fn a_bitmap_has_its_rows_upside_down_and_its_colors_backwards() {
        // Two by two: red, green; blue, white.
        let bitmap = bmp(&[255, 0, 0, 255, 0, 255, 0, 255, 0, 0, 255, 255], 2);
        assert_eq!(bitmap.len(), 54 + 2 * 8);
        assert_eq!(bitmap[54..], [255, 0, 0, 255, 255, 255, 0, 0, 0, 0, 255, 0, 255, 0, 0, 0]);
        assert_eq!(bitmap[2..6], 70u32.to_le_bytes());
    }
}
