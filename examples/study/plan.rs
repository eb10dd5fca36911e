//! The file of a study, and the runs that it asks for.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use toml::{Table, Value};
use wrn_sam::train::Recipe;

use crate::measure::Settings;
use crate::support::AnyError;

/// A study as its file has it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Plan {
    pub title: String,
    pub seeds: Vec<u64>,
    /// What all runs share.
    #[serde(default)]
    recipe: Table,
    #[serde(rename = "method")]
    pub methods: Vec<Method>,
    /// What is measured of the ends.
    pub sharpness: Option<Settings>,
}

/// One method.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Method {
    pub name: String,
    /// Its own keys.
    #[serde(default)]
    recipe: Table,
}

/// One run of a study.
pub struct Run {
    pub method: String,
    pub recipe: Recipe,
    pub folder: PathBuf,
}

impl Plan {
    /// # Errors
    /// A file that cannot be read or is no study; a method twice; none; fewer than two seeds; a recipe with a wrong key or
    /// value.
    pub fn read(path: &Path) -> Result<Self, AnyError> {
        let refused = |error: &dyn std::fmt::Display| AnyError::from(format!("{}: {error}", path.display()));
        let text = std::fs::read_to_string(path).map_err(|error| refused(&error))?;
        let plan: Self = toml::from_str(&text).map_err(|error| refused(&error))?;
        let mut names: Vec<_> = plan.methods.iter().map(|method| folder_name(&method.name)).collect();
        names.sort();
        names.dedup();
        let mut seeds = plan.seeds.clone();
        seeds.sort_unstable();
        seeds.dedup();
        match (names.len() == plan.methods.len(), seeds.len() == plan.seeds.len()) {
            _ if names.is_empty() => return Err(refused(&"it has no [[method]]")),
            _ if seeds.len() < 2 => return Err(refused(&"it needs two seeds or more, for a deviation")),
            (false, _) => return Err(refused(&"two methods have the same name")),
            (_, false) => return Err(refused(&"a seed is listed twice")),
            _ => {}
        }
        plan.runs(Path::new("")).map_err(|error| refused(&error))?;
        Ok(plan)
    }

    /// All runs, every method with the first seed before the second seed's.
    ///
    /// # Errors
    /// A recipe with a wrong key or value.
    pub fn runs(&self, out: &Path) -> Result<Vec<Run>, AnyError> {
        let pairs = self.seeds.iter().flat_map(|&seed| self.methods.iter().map(move |method| (method, seed)));
        pairs.map(|(method, seed)| self.run(method, seed, out)).collect()
    }

    fn run(&self, method: &Method, seed: u64, out: &Path) -> Result<Run, AnyError> {
        let mut keys = self.recipe.clone();
        keys.extend(method.recipe.clone());
        keys.insert("seed".into(), Value::Integer(i64::try_from(seed)?));
        let recipe =
            toml::to_string(&keys).map_err(AnyError::from).and_then(|text| Ok(Recipe::from_toml(&text)?));
        let recipe = recipe.map_err(|error| format!("method {}: {error}", method.name))?;
        let folder = out.join(folder_name(&method.name)).join(format!("seed-{seed}"));
        Ok(Run { method: method.name.clone(), recipe, folder })
    }
}

/// A name as a folder's: letters and digits, in lower case, with `-` between them.
fn folder_name(name: &str) -> String {
    let words = name.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty());
    words.map(str::to_lowercase).collect::<Vec<_>>().join("-")
}
