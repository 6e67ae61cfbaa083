//! What is generated is what would be generated now: `make generate` writes it.

use std::{path::Path, process::Command};

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn read(path: &Path) -> String {
    std::fs::read_to_string(path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
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
