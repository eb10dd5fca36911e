//! What the fuzz target of recipes began from, and everything it ever found.

use std::fs;
use std::path::Path;

use wrn_sam_train::Recipe;

#[test]
fn recipe() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/corpus");
    let mut valid = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read(&path).unwrap();
        if let Ok(recipe) = Recipe::from_toml(&String::from_utf8_lossy(&text)) {
            assert_eq!(Recipe::from_toml(&recipe.to_toml().unwrap()).unwrap(), recipe, "{}", path.display());
            valid.push(path.file_name().unwrap().to_string_lossy().into_owned());
        }
    }
    valid.sort();
    assert_eq!(valid, ["data.toml", "small.toml"]);
}
