//! A data set as one value.

use crate::{Error, Origin, Result, Source, Split};

/// Images to train and to test on, and the names of their classes: CIFAR, generated ones, or your own.
///
/// ```no_run
/// use wrn_sam_data::{Dataset, Variant};
///
/// let cifar = Dataset::open(Variant::Cifar100, "data")?;
/// println!("{}: {} + {} images", cifar.source, cifar.train.len(), cifar.test.len());
/// println!("the first is a {}", cifar.class_names[usize::from(cifar.train.label(0))]);
/// # Ok::<(), wrn_sam_data::Error>(())
/// ```
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct Dataset {
    /// The training split; 50,000 images in both variants of CIFAR.
    pub train: Split,
    /// The test split; 10,000 images in both variants of CIFAR.
    pub test: Split,
    /// The name of each class, by label.
    pub class_names: Vec<String>,
    /// The name of each superclass, by coarse label; only CIFAR-100 has any.
    pub coarse_names: Vec<String>,
    /// Where all this comes from.
    pub source: Source,
}

impl Dataset {
    /// A data set of your own, from images in memory. `name` is what titles and weights call it.
    ///
    /// ```
    /// use wrn_sam_data::{Dataset, Split};
    ///
    /// let split = |images: usize| Split::of_size(8, vec![0; images * 3 * 8 * 8], vec![1; images], None);
    /// let data = Dataset::new("shapes", split(20)?, split(5)?, ["disk", "square"])?;
    /// assert_eq!((data.classes(), data.image_size()), (2, 8));
    /// assert_eq!(data.source.to_string(), "shapes, images in memory");
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Dataset`] where the splits' images have two sizes, a label has no name, or two classes have one name.
    pub fn new(
        name: impl Into<String>,
        train: Split,
        test: Split,
        class_names: impl IntoIterator<Item = impl Into<String>>,
    ) -> Result<Self> {
        let names = class_names.into_iter().map(Into::into).collect();
        Self::of_origin(name.into(), Origin::Memory, train, test, names)
    }

    pub(crate) fn of_origin(
        name: String,
        origin: Origin,
        train: Split,
        test: Split,
        class_names: Vec<String>,
    ) -> Result<Self> {
        let fail = |reason: String| Err(Error::Dataset { name: name.clone(), reason });
        if train.image_size() != test.image_size() {
            let (train, test) = (train.image_size(), test.image_size());
            return fail(format!(
                "training images of {train} pixels a side and test images of {test}, one size expected"
            ));
        }
        let names = class_names.len();
        let labels = train.labels().iter().chain(test.labels());
        if let Some(label) = labels.copied().find(|&label| usize::from(label) >= names) {
            return fail(format!(
                "the label {label} with {names} names of classes, one name for each label expected"
            ));
        }
        let mut seen = std::collections::HashSet::new();
        if let Some(twice) = class_names.iter().find(|name| !seen.insert(*name)) {
            return fail(format!("two classes with the name {twice}"));
        }
        let source = Source::own(name, origin);
        Ok(Self { train, test, class_names, coarse_names: Vec::new(), source })
    }

    /// The number of classes, which is what a network needs to know.
    pub fn classes(&self) -> usize {
        self.class_names.len()
    }

    /// The images' side in pixels.
    pub fn image_size(&self) -> usize {
        self.train.image_size()
    }
}
