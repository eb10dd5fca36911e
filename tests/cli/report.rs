//! report.html in a real browser.

use std::process::Command;

use crate::folder;
use crate::support::{Ended, tiny};

/// Chromium or Chrome, if there is one.
fn browser() -> Option<&'static str> {
    let starts =
        |program: &&str| Command::new(program).arg("--version").output().is_ok_and(|o| o.status.success());
    ["chromium", "chromium-browser", "google-chrome"].into_iter().find(starts)
}

#[test]
fn a_browser_shows_the_report() {
    let Some(browser) = browser() else {
        println!("skipped: there is no Chromium");
        return;
    };
    let folder = folder();
    let out = folder.path().join("run");
    Ended::of(tiny().arg("--out").arg(&out)).succeeds();
    let picture = folder.path().join("page.png");
    let mut command = Command::new(browser);
    command.args([
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--hide-scrollbars",
        "--window-size=1000,6000",
    ]);
    command.arg(format!("--user-data-dir={}", folder.path().join("profile").display()));
    command.arg(format!("--screenshot={}", picture.display()));
    let output = command.arg(format!("file://{}/report.html", out.display())).output().expect("a browser");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));

    let page = image::open(&picture).expect("a screenshot").to_rgb8();
    let has = |color: [u8; 3]| page.pixels().filter(|pixel| pixel.0 == color).count();
    // The curves' two colors, and the note on synthetic images.
    for (what, color) in
        [("training", [0x1f, 0x77, 0xb4]), ("test", [0xe8, 0x71, 0x0a]), ("note", [0xff, 0xf3, 0xcd])]
    {
        assert!(has(color) > 100, "{} pixels of the color of {what}", has(color));
    }
    // Pictures of the mistakes have colors that nothing else on the page has.
    let colors: std::collections::HashSet<_> = page.pixels().collect();
    assert!(colors.len() > 5000, "{} colors", colors.len());
}
