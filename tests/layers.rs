//! A module imports from its own layer or from a lower one, as the table in src/README.md says. An edge imports no other edge.
//! The table names the modules of the tree.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

/// The rows of the table, lowest first: the text that each first cell begins with.
const LAYERS: [&str; 6] = ["words", "wire", "core", "edges", "pump", "command line"];
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

/// The top-level modules that a text names with `crate::`, outside comments.
fn imported(text: &str) -> Vec<String> {
    let code = text.lines().filter(|line| !line.trim_start().starts_with("//"));
    let paths = code.flat_map(|line| line.split("crate::").skip(1).map(str::to_owned).collect::<Vec<_>>());
    let name = |text: &str| text.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect::<String>();
    paths
        .flat_map(|path| match path.strip_prefix('{') {
            Some(group) => group.split(',').map(|item| name(item.trim())).collect(),
            None => vec![name(&path)],
        })
        .filter(|name| !name.is_empty())
        .collect()
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
        for import in imported(&text) {
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
    assert_eq!(imported("use crate::lsn::Lsn;\n// use crate::pump;"), ["lsn"]);
    assert_eq!(imported("use crate::{pg, sink};"), ["pg", "sink"]);
    assert_eq!(imported("    let x: crate::clock::T = crate::lsn::y();"), ["clock", "lsn"]);
}
