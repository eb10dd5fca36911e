//! Folders that a run cannot begin or go on in.

use crate::support::{Ended, example, tiny};
use crate::{contents, folder, write};

#[test]
fn out_folders_that_cannot_be() {
    let folder = folder();
    let file = folder.path().join("file");
    write(&file, "mine");
    let before = contents(folder.path());
    Ended::of(tiny().arg("--out").arg(file.join("run"))).fails(1, &["cannot create the folder", "file/run"]);
    Ended::of(tiny().arg("--out").arg(&file)).fails(1, &["file"]);
    Ended::of(tiny().arg("--out").arg(folder.path()))
        .fails(2, &["not empty", "nothing in it is overwritten"]);
    assert!(contents(folder.path()) == before);
}

#[test]
fn folders_that_cannot_be_resumed() {
    let folder = folder();
    let out = folder.path().join("run");
    let resume =
        |arguments: &[&str]| Ended::of(example("cifar100").arg("--resume").arg(&out).args(arguments));
    resume(&[]).fails(1, &["holds no run to resume"]);
    assert_eq!(contents(folder.path()), []);

    Ended::of(tiny().arg("--out").arg(&out)).succeeds();
    let before = contents(&out);
    // Another recipe, said by flags or by a file.
    let parts = ["another recipe", "`depth` is 16 here but 10 there", "`rho` is 0.2 here but 0.1 there"];
    resume(&["--depth", "16", "--rho", "0.2"]).fails(2, &parts);
    resume(&["--recipe", "reference", "--data", "synthetic"])
        .fails(2, &["another recipe", "`epochs` is 200 here"]);
    assert!(contents(&out) == before, "a refused resume changed the run");

    // Every checkpoint cut short.
    let checkpoints: Vec<_> =
        before.iter().filter(|(path, _)| path.starts_with(out.join("checkpoints"))).collect();
    for (path, bytes) in checkpoints {
        if let Some(bytes) = bytes {
            write(path, &bytes[..bytes.len() / 2]);
        }
    }
    let before = contents(&out);
    resume(&[]).fails(1, &["no checkpoint", "can be used", "Nothing was changed"]);
    assert!(contents(&out) == before, "a refused resume changed the run");

    write(&out.join("recipe.toml"), "depth = 10\ncolor = 'red'\n");
    resume(&[]).fails(1, &["recipe.toml", "unknown field `color`"]);
}
