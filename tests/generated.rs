//! What is generated is what would be generated now: `make generate` writes it.

use std::{path::Path, process::Command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_page_of_token_errors_is_what_the_program_prints() {
    let printed = Command::new(env!("CARGO_BIN_EXE_hsm-operator")).arg("token-errors").output().unwrap();
    assert!(printed.status.success());
    let same = read(&root().join("docs/token-errors.md")).as_bytes() == printed.stdout;
    assert!(same, "docs/token-errors.md differs: run make generate");
}

/// The bindings are generated from the standard's header, so that they miss nothing.
#[test]
fn no_return_value_of_the_standard_is_missing_on_that_page() {
    let about = Command::new(env!("CARGO"))
        .args(["metadata", "--format-version", "1", "--offline", "--locked"])
        // What is for other platforms need not be here.
        .args(["--filter-platform", "x86_64-unknown-linux-gnu"])
        .current_dir(root())
        .output()
        .unwrap();
    let about: serde_json::Value = serde_json::from_slice(&about.stdout).unwrap();
    let packages = about["packages"].as_array().unwrap();
    let bindings = packages.iter().find(|package| package["name"] == "cryptoki-sys").unwrap();
    let manifest = Path::new(bindings["manifest_path"].as_str().unwrap());
    let source = read(&manifest.with_file_name("src").join("bindings/x86_64-unknown-linux-gnu.rs"));
    let codes = source.lines().filter_map(|line| line.strip_prefix("pub const CKR_")?.split_once(": CK_RV"));
    // One says that all is well, the other where the vendors' own begin.
    let codes: Vec<_> =
        codes.map(|(name, _)| name).filter(|name| !["OK", "VENDOR_DEFINED"].contains(name)).collect();
    assert!(codes.len() > 90, "{codes:?}");
    let page = read(&root().join("docs/token-errors.md"));
    let missing: Vec<_> = codes.iter().filter(|name| !page.contains(&format!("| `CKR_{name}` |"))).collect();
    assert!(missing.is_empty(), "{missing:?}");
}

#[test]
fn the_crds_and_the_charts_copies_are_what_the_program_prints() {
    let folder = tempfile::tempdir().unwrap();
    let status = Command::new(env!("CARGO_BIN_EXE_hsm-operator"))
        .args(["crd", "--output"])
        .arg(folder.path())
        .status()
        .unwrap();
    assert!(status.success());
    let names = |folder: &Path| {
        let files = std::fs::read_dir(folder).unwrap().map(|file| file.unwrap().file_name());
        let mut names: Vec<_> = files.filter(|name| name.to_str().unwrap().ends_with(".yaml")).collect();
        names.sort();
        names
    };
    let wanted = names(folder.path());
    assert_eq!(wanted.len(), 3);
    for copy in ["crds", "charts/hsm-operator/crds-generated"] {
        let copy = root().join(copy);
        assert_eq!(names(&copy), wanted, "{}: run make generate", copy.display());
        for name in &wanted {
            let same = read(&copy.join(name)) == read(&folder.path().join(name));
            assert!(same, "{} differs: run make generate", copy.join(name).display());
        }
    }
}
