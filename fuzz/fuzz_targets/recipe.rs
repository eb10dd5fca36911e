//! Recipes: what is read is valid, and reads the same once written.
#![no_main]

use libfuzzer_sys::fuzz_target;
use wrn_sam_train::Recipe;

fuzz_target!(|text: &str| {
    if let Ok(recipe) = Recipe::from_toml(text) {
        let written = recipe.to_toml().expect("a recipe that was read can be written");
        assert_eq!(Recipe::from_toml(&written).expect("a recipe that was written can be read"), recipe);
    }
});
