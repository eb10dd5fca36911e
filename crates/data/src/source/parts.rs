//! A data set on its way from a distribution's files to a [`Dataset`].

use std::io::Read;
use std::path::Path;

use super::layout::{FileLayout, Member};
use super::{Format, Origin, Source, published};
use crate::checksum::{FileChecksum, Summed};
use crate::{Dataset, Error, Result, Split, binary, class_names, python};

/// One of a distribution's files, to be read.
pub(super) struct MemberFile<'a> {
    pub(super) member: Member,
    pub(super) path: &'a Path,
    /// In bytes.
    pub(super) size: u64,
    pub(super) reader: &'a mut dyn Read,
}

/// What was read so far.
pub(super) struct DatasetParts {
    layout: &'static FileLayout,
    train: Vec<Option<Split>>,
    test: Option<Split>,
    class_names: Option<Vec<String>>,
    coarse_names: Option<Vec<String>>,
    /// The sums of the files that were read.
    files: Vec<FileChecksum>,
}

impl DatasetParts {
    pub(super) fn new(layout: &'static FileLayout) -> Self {
        let train = vec![None; layout.train_parts()];
        Self { layout, train, test: None, class_names: None, coarse_names: None, files: Vec::new() }
    }

    /// Decodes a file.
    pub(super) fn add(&mut self, file: MemberFile) -> Result<()> {
        let FileLayout { variant, format, .. } = *self.layout;
        let MemberFile { member, path, size, reader } = file;
        let max_bytes = self.layout.max_bytes(member);
        let mut reader = Summed::new(reader);
        match (member, self.layout.images(member)) {
            (_, Some(images)) => {
                let split = match format {
                    Format::Binary => {
                        binary::check_size(variant, path, size, Some(images))?;
                        binary::read_records(variant, &mut reader, path, Some(images))?
                    }
                    Format::Python => {
                        python::read_batch(variant, &mut reader, path, max_bytes, Some(images))?
                    }
                };
                match member {
                    Member::Train(part) => self.train[part] = Some(split),
                    _ => self.test = Some(split),
                }
            }
            (Member::Meta, _) => {
                let [fine, coarse] = python::read_names(variant, &mut reader, path, max_bytes)?;
                (self.class_names, self.coarse_names) = (Some(fine), Some(coarse));
            }
            _ => {
                let mut text = String::new();
                let read = reader.by_ref().take(max_bytes).read_to_string(&mut text);
                read.map_err(Error::io("read", path))?;
                let (names, expected) = match member {
                    Member::FineNames => (&mut self.class_names, variant.classes()),
                    _ => (&mut self.coarse_names, variant.coarse_classes()),
                };
                *names = Some(class_names::parse(&text, path, expected)?);
            }
        }
        let name = self.layout.name(member);
        self.files.push(reader.finish(name).map_err(Error::io("read", path))?);
        Ok(())
    }

    /// The whole, if all images are there. `folder` is where they should be; `archive` is the file that all others
    /// were in, if they were in one.
    pub(super) fn finish(
        self,
        folder: &Path,
        origin: Origin,
        archive: Option<FileChecksum>,
    ) -> Result<Dataset> {
        let variant = self.layout.variant;
        let images: Vec<_> = self.train.into_iter().chain([self.test]).collect();
        let mut splits = Vec::new();
        for (split, (_, name)) in images.into_iter().zip(self.layout.image_files()) {
            splits.push(split.ok_or_else(|| Error::Missing { path: folder.join(name), variant })?);
        }
        let test = splits.pop().expect("a layout has a test split");
        let known = published::are_published(self.layout, &self.files);
        let files = archive.map_or(self.files, |archive| vec![archive]);
        let mut cifar = Dataset {
            train: Split::concatenated(splits)?,
            test,
            class_names: self.class_names.unwrap_or_else(|| class_names::built_in(variant.names())),
            coarse_names: self.coarse_names.unwrap_or_else(|| class_names::built_in(variant.coarse_names())),
            source: Source::new(variant, origin, files),
        };
        cifar.source.known = known;
        Ok(cifar.recognized())
    }
}

impl Dataset {
    /// The data set, with its source saying whether it is the published one; and a warning if it is not.
    pub(super) fn recognized(mut self) -> Self {
        self.source.known = self.source.known || published::has_published_content(&self);
        let source = &self.source;
        tracing::info!(train = self.train.len(), test = self.test.len(), "read {source}");
        if !source.known {
            tracing::warn!(
                "{source}: neither the checksums of the files nor the images are those of the published {}; results on it \
                 cannot be compared with published ones",
                source.name
            );
        }
        self
    }
}
