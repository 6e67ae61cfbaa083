//! How much memory a token-host takes. A library that leaks would else be ended with everything beside it, by the system,
//! which says nothing and lets nobody finish.

use std::sync::LazyLock;

/// Most resident memory of one token-host: half of what the container may have (cgroup v2), if that is limited.
pub(super) static MOST: LazyLock<Option<u64>> = LazyLock::new(|| {
    limit(&std::fs::read_to_string("/sys/fs/cgroup/memory.max").ok()?).map(|limit| limit / 2)
});

fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok()
}

/// Resident memory of a process, in bytes; `None` once it is gone.
pub(super) fn resident(pid: u32) -> Option<u64> {
    pages(&std::fs::read_to_string(format!("/proc/{pid}/statm")).ok()?)?
        .checked_mul(u64::try_from(rustix::param::page_size()).ok()?)
}

/// The second of the numbers of `statm`; see `proc_pid_statm(5)`.
fn pages(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_systems_words_are_understood() {
        assert_eq!((limit("536870912\n"), limit("max\n")), (Some(512 << 20), None));
        assert_eq!((pages("5000 1200 900 1 0 2 0\n"), pages("")), (Some(1200), None));
        assert!(resident(std::process::id()).is_some_and(|bytes| bytes > 1 << 20));
    }
}
