//! Which classes a network takes for which.

use std::fmt::Write;

use crate::error::{Error, Result};
use wrn_sam_charts::escape;

/// How many images of each class were taken for each class.
///
/// ```
/// use wrn_sam_train::Confusion;
///
/// let confusion = Confusion::new(["cat", "dog"], &[0, 0, 0, 1], &[0, 1, 0, 1])?;
/// assert_eq!(confusion.count(0, 1), 1); // a cat was taken for a dog
/// assert_eq!(confusion.class_accuracy(0), Some(2.0 / 3.0));
/// assert_eq!(confusion.to_csv(), "label,cat,dog\ncat,2,1\ndog,0,1\n");
/// # Ok::<(), wrn_sam_train::Error>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confusion {
    names: Vec<String>,
    /// A row for each label, a column for each answer.
    counts: Vec<u64>,
}

impl Confusion {
    /// Of the images' `labels` and a network's `answers`, both as numbers of classes.
    ///
    /// # Errors
    /// [`Error::Metrics`] where their numbers differ, or one names no class.
    pub fn new(
        class_names: impl IntoIterator<Item = impl Into<String>>,
        labels: &[u32],
        answers: &[u32],
    ) -> Result<Self> {
        let names: Vec<String> = class_names.into_iter().map(Into::into).collect();
        let classes = names.len();
        let refused =
            |found: String, expected: String| Error::Metrics { what: "of answers".into(), found, expected };
        if labels.len() != answers.len() {
            let found = format!("{} labels and {} answers", labels.len(), answers.len());
            return Err(refused(found, "one answer for each label".into()));
        }
        let mut counts = vec![0; classes * classes];
        for (&label, &answer) in labels.iter().zip(answers) {
            let largest = label.max(answer) as usize;
            if largest >= classes {
                return Err(refused(format!("class {largest}"), format!("a class below {classes}")));
            }
            counts[label as usize * classes + answer as usize] += 1;
        }
        Ok(Self { names, counts })
    }

    /// The names of the classes.
    pub fn names(&self) -> &[String] {
        &self.names
    }

    fn row(&self, label: usize) -> &[u64] {
        &self.counts[label * self.names.len()..][..self.names.len()]
    }

    /// How many images with `label` were taken for `answer`.
    ///
    /// # Panics
    /// As indexing does, if one of them is no class.
    pub fn count(&self, label: usize, answer: usize) -> u64 {
        self.row(label)[answer]
    }

    /// How many images have `label`.
    ///
    /// # Panics
    /// As indexing does, if it is no class.
    pub fn images(&self, label: usize) -> u64 {
        self.row(label).iter().sum()
    }

    /// The share of the images with `label` that were answered rightly; `None` where there are none.
    ///
    /// # Panics
    /// As indexing does, if it is no class.
    pub fn class_accuracy(&self, label: usize) -> Option<f64> {
        let images = self.images(label);
        (images > 0).then(|| self.count(label, label) as f64 / images as f64)
    }

    /// The matrix as a table: a line for each label, a column for each answer.
    pub fn to_csv(&self) -> String {
        let names: Vec<_> = self.names.iter().map(|name| field(name)).collect();
        let mut csv = format!("label,{}\n", names.join(","));
        for (label, name) in names.iter().enumerate() {
            let counts: Vec<_> = self.row(label).iter().map(u64::to_string).collect();
            let _ = writeln!(csv, "{name},{}", counts.join(","));
        }
        csv
    }

    /// A line for each class: its name, its images, and the share of them that was answered rightly.
    pub fn classes_csv(&self) -> String {
        let mut csv = "class,images,top1\n".to_string();
        for (label, name) in self.names.iter().enumerate() {
            let accuracy = self.class_accuracy(label).map_or(String::new(), |top1| format!("{top1:.6}"));
            let _ = writeln!(csv, "{},{},{accuracy}", field(name), self.images(label));
        }
        csv
    }

    /// The matrix as a figure: the darker a square, the larger the share of its row. A browser shows a square's number under
    /// the pointer.
    pub fn to_svg(&self, title: &str) -> String {
        let classes = self.names.len().max(1);
        let cell = (640.0 / classes as f64).clamp(6.0, 48.0);
        let (left, top, side) = (150.0, 150.0, cell * classes as f64);
        let (width, height) = ((left + side + 20.0).max(480.0), top + side + 20.0);
        let font = (0.8 * cell).clamp(5.0, 13.0);
        let mut svg = format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {width:.1} {height:.1}\" width=\"{width:.1}\" \
             height=\"{height:.1}\" font-family=\"Helvetica, Arial, sans-serif\" font-size=\"{font:.1}\" fill=\"#333\">\n\
             <title>{title}</title>\n<rect width=\"{width:.1}\" height=\"{height:.1}\" fill=\"#fff\"/>\n\
             <text x=\"{:.1}\" y=\"24\" text-anchor=\"middle\" font-size=\"16\" font-weight=\"bold\">{title}</text>\n\
             <text x=\"{:.1}\" y=\"46\" text-anchor=\"middle\" font-size=\"13\">rows: the right class; columns: the answer</text>\n",
            width / 2.0,
            width / 2.0,
            title = escape(title),
        );
        for (index, name) in self.names.iter().enumerate() {
            let at = (index as f64 + 0.5) * cell;
            let name = escape(name);
            let (x, y) = (left - 6.0, top + at + 0.35 * font);
            let _ = writeln!(svg, "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"end\">{name}</text>");
            let (x, y) = (left + at + 0.35 * font, top - 6.0);
            let _ = writeln!(svg, "<text transform=\"translate({x:.1} {y:.1}) rotate(-90)\">{name}</text>");
        }
        for label in 0..self.names.len() {
            for (answer, &count) in self.row(label).iter().enumerate().filter(|(_, count)| **count > 0) {
                let (x, y) = (left + answer as f64 * cell, top + label as f64 * cell);
                let share = count as f64 / self.images(label) as f64;
                let color = if label == answer { "#1f77b4" } else { "#e8710a" };
                let _ = writeln!(
                    svg,
                    "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{cell:.1}\" height=\"{cell:.1}\" fill=\"{color}\" \
                     fill-opacity=\"{:.3}\"><title>{}: {count} of {} taken for {}</title></rect>",
                    0.08 + 0.92 * share,
                    escape(&self.names[label]),
                    self.images(label),
                    escape(&self.names[answer]),
                );
                if cell >= 20.0 {
                    let (x, y) = (x + 0.5 * cell, y + 0.5 * cell + 0.35 * font);
                    let _ = writeln!(
                        svg,
                        "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"middle\">{count}</text>"
                    );
                }
            }
        }
        let _ = writeln!(
            svg,
            "<rect x=\"{left}\" y=\"{top}\" width=\"{side:.1}\" height=\"{side:.1}\" fill=\"none\" stroke=\"#333\"/>\n</svg>"
        );
        svg
    }
}

/// A text as a field of a table: in quotes where it has a comma, a quote or a line's end.
fn field(text: &str) -> String {
    match text.contains([',', '"', '\n', '\r']) {
        true => format!("\"{}\"", text.replace('"', "\"\"")),
        false => text.into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_class_is_refused() {
        let error = |labels: &[u32], answers: &[u32]| {
            Confusion::new(["a", "b"], labels, answers).unwrap_err().to_string()
        };
        assert!(error(&[0, 1], &[0]).contains("2 labels and 1 answers"));
        assert!(error(&[2], &[0]).contains("class 2") && error(&[0], &[7]).contains("class 7"));
    }

    #[test]
    fn tables_and_figures_hold_odd_names() {
        let confusion = Confusion::new(["a, b", "say \"c\"", "<d>"], &[0, 0, 1, 1], &[0, 2, 0, 1]).unwrap();
        assert_eq!(
            confusion.classes_csv(),
            "class,images,top1\n\"a, b\",2,0.500000\n\"say \"\"c\"\"\",2,0.500000\n<d>,0,\n"
        );
        assert!(confusion.to_csv().starts_with("label,\"a, b\",\"say \"\"c\"\"\",<d>\n\"a, b\",1,0,1\n"));
        assert_eq!(confusion.class_accuracy(2), None);
        let svg = confusion.to_svg("R & D");
        assert!(
            svg.contains("a, b: 1 of 2 taken for &lt;d&gt;")
                && svg.contains("R &amp; D")
                && !svg.contains("<d>")
        );
        assert_eq!(svg.matches(" taken for ").count(), 4);
    }
}
