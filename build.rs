//! Stamps the git revision into `walcat --version`; a tree without git is stamped `unknown`.

use std::path::Path;
use std::process::Command;

fn main() {
    // Asked of git, since a linked work tree keeps them elsewhere. Cargo runs this script at every build when a file that
    // is named here does not exist.
    for name in ["HEAD", "refs/heads"] {
        if let Some(path) = git(&["rev-parse", "--git-path", name]).filter(|path| Path::new(path).exists()) {
            println!("cargo:rerun-if-changed={path}");
        }
    }
    println!("cargo:rerun-if-changed=build.rs");
    let revision = git(&["rev-parse", "--short=12", "HEAD"]).unwrap_or_else(|| "unknown".to_owned());
    println!("cargo:rustc-env=WALCAT_GIT_REVISION={revision}");
}

/// What git answers, trimmed; none where git or its repository is missing.
fn git(arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").args(arguments).output().ok()?;
    if !output.status.success() {
        return None;
    }
    Some(String::from_utf8(output.stdout).ok()?.trim().to_owned())
}
