//! The Hugging Face hub, by candle-datasets' access to it.

use candle_datasets::hub::{self, from_hub};
use hf_hub::{HFClient, HFClientSync, HFError};

use super::{Origin, parquet};
use crate::{Dataset, Error, Result, Variant, with_causes};

/// Where the hub keeps every data set as parquet.
const REVISION: &str = "refs/convert/parquet";

impl Variant {
    /// Owner and name on the hub, and the folder of the only configuration.
    fn on_hub(self) -> (&'static str, &'static str, &'static str) {
        match self {
            Self::Cifar10 => ("uoft-cs", "cifar10", "plain_text"),
            Self::Cifar100 => ("uoft-cs", "cifar100", "cifar100"),
        }
    }
}

impl Dataset {
    /// Reads the data set from the Hugging Face hub's `uoft-cs/cifar10` or `uoft-cs/cifar100`.
    ///
    /// Both files are looked for in the hub's cache; with them there no network is needed. Otherwise
    /// `candle_datasets::hub::from_hub` brings the cache up to date, and what it fetched is taken from there.
    ///
    /// The environment is heeded as by all of the hub's clients: `HF_HOME` and `HF_HUB_CACHE` for the cache,
    /// `HF_ENDPOINT` for the server, `HF_TOKEN`, and `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    ///
    /// ```no_run
    /// use wrn_sam_data::{Dataset, Variant};
    ///
    /// let cifar = Dataset::from_hub(Variant::Cifar100)?;
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Hub`] where it cannot be had; [`Error::HubCache`] where what the cache has is not the data set;
    /// [`Error::Io`].
    pub fn from_hub(variant: Variant) -> Result<Self> {
        let (owner, name, configuration) = variant.on_hub();
        let repository = format!("{owner}/{name}");
        let fail = |reason: String| Error::Hub { repository: repository.clone(), reason };
        let failed = |error: HFError| fail(with_causes(&error));
        let client = HFClient::new().map_err(failed)?;
        let cache = client.cache_dir().join(format!("datasets--{owner}--{name}"));
        let unfit = |reason: String| Error::HubCache { path: cache.clone(), variant, reason };

        let client = HFClientSync::from_inner(client).map_err(failed)?;
        let dataset = client.dataset(owner, name);
        let cached = |split: &str| {
            let file = format!("{configuration}/{split}/0000.parquet");
            dataset.download_file().filename(file).revision(REVISION).local_files_only(true).send().ok()
        };
        let both = || cached("train").zip(cached("test"));
        let (train, test) = match both() {
            Some(files) => files,
            None => {
                from_hub(&client, repository.clone()).map_err(|error| match error {
                    hub::Error::HubError(HFError::Io(error)) | hub::Error::IoError(error) => {
                        fail(format!("its cache {}: {error}", cache.display()))
                    }
                    hub::Error::HubError(error) => failed(error),
                    hub::Error::ParquetError(error) => unfit(error.to_string()),
                })?;
                let absent = format!("{REVISION} has no {configuration}/{{train,test}}/0000.parquet");
                both().ok_or_else(|| fail(absent))?
            }
        };
        let origin = Origin::Hub { repository: repository.clone() };
        parquet::from_files(variant, &train, &test, origin).map_err(|error| match error {
            Error::Parquet { path, reason, .. } => {
                let file = path.strip_prefix(&cache).unwrap_or(&path);
                unfit(format!("{}: {reason}", file.display()))
            }
            error => error,
        })
    }
}
