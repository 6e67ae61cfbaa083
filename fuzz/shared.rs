//! What the targets have in common: the functions of `tests/fuzz`.

#[path = "../tests/fuzz/targets.rs"]
pub mod targets;
#[allow(dead_code)]
#[path = "../tests/gateway/world.rs"]
pub mod world;

/// Runs a target by name.
pub fn run(name: &str, data: &[u8]) {
    let (_, target) = targets::ALL.iter().find(|(known, _)| *known == name).expect("a target of this name");
    target(data);
}
