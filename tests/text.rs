//! The words of the project: American spelling, plain phrases, and links that lead somewhere.

use std::path::{Path, PathBuf};
use std::process::Command;

/// Beginnings of words in British spelling, each with its American form. This file is the only one that may contain them.
const BRITISH: [(&str, &str); 30] = [
    ("analyse", "analyze"),
    ("artefact", "artifact"),
    ("behaviour", "behavior"),
    ("cancelled", "canceled"),
    ("catalogue", "catalog"),
    ("centre", "center"),
    ("colour", "color"),
    ("favour", "favor"),
    ("generalis", "generaliz"),
    ("grey", "gray"),
    ("honour", "honor"),
    ("initialis", "initializ"),
    ("judgement", "judgment"),
    ("labelled", "labeled"),
    ("licence", "license"),
    ("maximis", "maximiz"),
    ("minimise", "minimize"),
    ("modelled", "modeled"),
    ("neighbour", "neighbor"),
    ("normalis", "normaliz"),
    ("optimise", "optimize"),
    ("optimising", "optimizing"),
    ("organis", "organiz"),
    ("quantis", "quantiz"),
    ("randomis", "randomiz"),
    ("recognis", "recogniz"),
    ("serialis", "serializ"),
    ("specialis", "specializ"),
    ("summaris", "summariz"),
    ("utilis", "use"),
];

/// Phrases that are hard to read, each with a plain one.
const IDIOMS: [(&str, &str); 7] = [
    (" alone. ", " only, before what it limits"),
    (" alone; ", " only, before what it limits"),
    (" alone) ", " only, before what it limits"),
    ("gone on with", "resumed"),
    ("of one's own", "your own"),
    ("on the quiet", "silently"),
    ("never so", "false"),
];

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// The tracked files that are text of this project, by their path; none, and a printed reason, outside a repository.
fn texts() -> Vec<(PathBuf, String)> {
    let git = Command::new("git").args(["ls-files", "-z"]).current_dir(root()).output();
    let Some(listed) = git.ok().filter(|output| output.status.success()) else {
        println!("skipped: not in a git repository");
        return Vec::new();
    };
    let listed = String::from_utf8(listed.stdout).expect("paths are UTF-8");
    let foreign = ["LICENSE", "Cargo.lock", "corpus", "text.rs", ".gitignore"];
    let ours = |path: &&str| {
        !path.is_empty() && !path.split('/').any(|part| foreign.iter().any(|f| part.starts_with(f)))
    };
    let read = |path: &str| Some((PathBuf::from(path), std::fs::read_to_string(root().join(path)).ok()?));
    let texts: Vec<_> = listed.split('\0').filter(ours).filter_map(read).collect();
    assert!(texts.len() > 100, "only {} texts", texts.len());
    texts
}

/// Fails with every line of `texts` that `wrong` names something in.
#[track_caller]
fn no_line_is(texts: &[(PathBuf, String)], wrong: impl Fn(&Path, &str) -> Option<String>) {
    let lines = texts
        .iter()
        .flat_map(|(path, text)| text.lines().enumerate().map(move |(i, line)| (path, i + 1, line)));
    let found: Vec<String> = lines
        .filter_map(|(path, number, line)| {
            Some(format!("{}:{number}: {}", path.display(), wrong(path, line)?))
        })
        .collect();
    assert!(found.is_empty(), "{} lines:\n{}", found.len(), found.join("\n"));
}

#[test]
fn spelling_is_american() {
    no_line_is(&texts(), |_, line| {
        let line = line.to_lowercase();
        let mut words = line.split(|c: char| !c.is_alphabetic());
        words.find_map(|word| {
            let (british, american) = BRITISH.iter().find(|(british, _)| word.starts_with(british))?;
            Some(format!("\"{british}\": write \"{american}\""))
        })
    });
}

#[test]
fn english_is_plain() {
    no_line_is(&texts(), |_, line| {
        let line = format!("{line} ");
        let (idiom, plain) = IDIOMS.iter().find(|(idiom, _)| line.contains(idiom))?;
        Some(format!("\"{idiom}\": write \"{plain}\""))
    });
}

/// The file that a link of a page leads to; none for a link to elsewhere.
fn linked_file(page: &Path, target: &str) -> Option<PathBuf> {
    let file = target.split('#').next().filter(|file| !file.is_empty())?;
    let online =
        ["blob/main/", "tree/main/"].map(|tree| format!("https://github.com/wrn-sam/wrn-sam/{tree}"));
    if let Some(path) = online.iter().find_map(|prefix| file.strip_prefix(prefix.as_str())) {
        return Some(root().join(path));
    }
    (!file.contains("://")).then(|| root().join(page).with_file_name(file))
}

#[test]
fn links_lead_somewhere() {
    let mut texts = texts();
    texts.retain(|(path, _)| path.extension().is_some_and(|extension| extension == "md"));
    no_line_is(&texts, |page, line| {
        // [text](target), and {{#include target:lines}}, which mdBook reads.
        let links = line.split("](").skip(1).filter_map(|rest| rest.split_once(')'));
        let includes = line.split("{{#include ").skip(1).filter_map(|rest| rest.split_once([':', '}']));
        let mut targets = links.chain(includes).map(|(target, _)| target);
        let target = targets.find(|target| linked_file(page, target).is_some_and(|file| !file.exists()))?;
        Some(format!("there is no {target}"))
    });
}
