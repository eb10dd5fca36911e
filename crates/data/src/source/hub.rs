//! The Hugging Face hub, through the client and the cache that candle-datasets uses.

use std::path::PathBuf;

use hf_hub::{HFClientSync, HFError};

use super::{Origin, parquet};
use crate::{Cifar, Error, Result, Variant};

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

impl Cifar {
    /// Reads the data set from the Hugging Face hub's `uoft-cs/cifar10` or `uoft-cs/cifar100`. What is in the hub's
    /// cache is not fetched again, and needs no network.
    ///
    /// The environment is heeded as by all of the hub's clients: `HF_HOME` and `HF_HUB_CACHE` for the cache,
    /// `HF_ENDPOINT` for the server, `HF_TOKEN`, and `HTTPS_PROXY`, `ALL_PROXY` and `NO_PROXY`.
    ///
    /// ```no_run
    /// use wrn_sam_data::{Cifar, Variant};
    ///
    /// let cifar = Cifar::from_hub(Variant::Cifar100)?;
    /// # Ok::<(), wrn_sam_data::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::Hub`] where it cannot be had; those of [`from_parquet`](Self::from_parquet).
    pub fn from_hub(variant: Variant) -> Result<Self> {
        let (owner, name, folder) = variant.on_hub();
        let repository = format!("{owner}/{name}");
        let fail = |error: HFError| Error::Hub { repository: repository.clone(), reason: error.to_string() };
        let dataset = HFClientSync::new().map_err(fail)?.dataset(owner, name);
        let file = |split: &str| -> Result<PathBuf> {
            let wanted =
                dataset.download_file().filename(format!("{folder}/{split}/0000.parquet")).revision(REVISION);
            match wanted.clone().local_files_only(true).send() {
                Err(HFError::LocalEntryNotFound { .. }) => wanted.send(),
                cached => cached,
            }
            .map_err(fail)
        };
        let (train, test) = (file("train")?, file("test")?);
        parquet::from_files(variant, &train, &test, Origin::Hub { repository: repository.clone() })
    }
}
