//! A module imports from its own layer or from a lower one, as the table in src/README.md says. An edge imports no other edge.
//! The table names the modules of the tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The rows of the table, lowest first: the text that each first cell begins with.
const LAYERS: [&str; 7] = ["words", "wire", "core", "edges", "source", "pump", "command line"];
const EDGES: usize = 3;

fn source() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src")
}

/// The layer of each top-level module: the names between backticks in the second cell.
fn layers() -> BTreeMap<String, usize> {
    let readme = fs::read_to_string(source().join("README.md")).expect("src/README.md");
    let mut layers = BTreeMap::new();
    for (layer, name) in LAYERS.iter().enumerate() {
        let row =
            readme.lines().find(|line| line.starts_with(&format!("| {name}"))).unwrap_or_else(|| panic!("{name}"));
        let cell = row.split('|').nth(2).expect("a second cell");
        for path in cell.split('`').skip(1).step_by(2) {
            let module = path.split('/').next().unwrap_or_default().to_owned();
            let known = layers.insert(module.clone(), layer);
            assert!(known.is_none_or(|known| known == layer), "{module} is in two layers");
        }
    }
    layers
}

/// Every Rust file in `directory` and its subdirectories.
fn files(directory: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).expect("a directory") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            found.extend(files(&path));
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
    found
}

/// The top-level module that a file belongs to.
fn module_of(file: &Path) -> String {
    let path = file.strip_prefix(source()).expect("a file of src");
    let first = path.iter().next().expect("a name").to_str().expect("UTF-8");
    first.trim_end_matches(".rs").to_owned()
}

/// How many modules a file is below the root of the crate.
fn depth_of(file: &Path) -> usize {
    let path = file.strip_prefix(source()).expect("a file of src");
    path.iter().count() - usize::from(path.ends_with("mod.rs"))
}

/// The first name of each path in a use tree, or of the one path: `a`, `a::b`, `{a, b::{c, d}}`.
fn first_names(tree: &str) -> Vec<String> {
    let name = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    let Some(group) = tree.strip_prefix('{') else { return vec![name(tree)] };
    let (mut names, mut nesting, mut item) = (Vec::new(), 0, String::new());
    for c in group.chars() {
        match c {
            '}' if nesting == 0 => break,
            ',' if nesting == 0 => names.push(name(std::mem::take(&mut item).trim())),
            _ => {
                nesting += i32::from(c == '{') - i32::from(c == '}');
                item.push(c);
            }
        }
    }
    names.push(name(item.trim()));
    names
}

/// The top-level modules that a text names with `crate::`, or with as many `super::` as lead to the root, outside comments.
fn imported(text: &str, depth: usize) -> Vec<String> {
    let lines = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let code = lines.collect::<Vec<_>>().join("\n");
    // In a module of tests `super` is the file.
    let own = code.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let root = "super::".repeat(depth);
    let paths = code.split("crate::").skip(1).chain(own.split(root.as_str()).skip(1));
    paths.flat_map(first_names).filter(|name| !name.is_empty() && name != "super").collect()
}

#[test]
fn a_module_imports_its_own_layer_or_a_lower_one() {
    let layers = layers();
    let mut edges_seen = 0;
    for file in files(&source()) {
        let module = module_of(&file);
        if ["lib", "main"].contains(&module.as_str()) {
            continue;
        }
        let own = *layers.get(&module).unwrap_or_else(|| panic!("{module} is in no row of src/README.md"));
        let text = fs::read_to_string(&file).expect("a source file");
        for import in imported(&text, depth_of(&file)) {
            let other = *layers.get(&import).unwrap_or_else(|| panic!("{}: unknown module {import}", file.display()));
            assert!(
                other <= own,
                "{}: {module} ({}) imports {import} ({})",
                file.display(),
                LAYERS[own],
                LAYERS[other]
            );
            let is_sideways = own == EDGES && other == EDGES && import != module;
            assert!(!is_sideways, "{}: the edge {module} imports the edge {import}", file.display());
            edges_seen += usize::from(own > other);
        }
    }
    assert!(edges_seen > 200, "only {edges_seen} imports found: the test reads the wrong lines");
}

#[test]
fn each_module_of_the_table_exists() {
    let there: Vec<String> = files(&source()).iter().map(|file| module_of(file)).collect();
    for module in layers().keys() {
        assert!(there.contains(module), "src/README.md names {module}, which does not exist");
    }
}

#[test]
fn imports_are_found_in_every_form() {
    for (text, depth, expected) in [
        ("use crate::lsn::Lsn;\n// use crate::pump;", 1, vec!["lsn"]),
        ("use crate::{pg, sink};", 1, vec!["pg", "sink"]),
        ("    let x: crate::clock::T = crate::lsn::y();", 1, vec!["clock", "lsn"]),
        ("use crate::{\n    pg::{self, Server},\n    // pump,\n    sink,\n};", 2, vec!["pg", "sink"]),
        ("use crate::pump::{\n    Error,\n};", 2, vec!["pump"]),
        ("use super::super::pump::Error;\nuse super::open;", 2, vec!["pump"]),
        ("use super::pump::Error;", 1, vec!["pump"]),
        ("fn f() {}\n#[cfg(test)]\nmod tests {\n    use super::super::open;\n}", 2, vec![]),
    ] {
        assert_eq!(imported(text, depth), expected, "{text}");
    }
}
