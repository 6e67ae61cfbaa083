//! What is known of tokens by their maker and model: only what cannot be found out without harm.

use crate::hsm::{
    probe::{LISTINGS, Quirk},
    protocol::TokenFacts,
};

struct Row {
    /// Part of `CK_TOKEN_INFO.manufacturerID`, in lower case.
    manufacturer: &'static str,
    /// Part of `CK_TOKEN_INFO.model`, in lower case.
    model: &'static str,
    name: &'static str,
    value: &'static str,
    odd: bool,
    means: &'static str,
}

/// Whether handles outlive a login.
const HANDLES: &str = "handles";
/// What threads do to each other.
const THREADS: &str = "threads";
/// Whether what others change is seen.
const CHANGES: &str = "changes";
/// Whether `C_Initialize` needs a text.
const INIT_ARGS: &str = "initArgs";

const FORGOTTEN: &str = "keys are looked for again after a login";

#[rustfmt::skip]
static ROWS: &[Row] = &[
    Row {
        manufacturer: "softhsm", model: "softhsm v2", name: HANDLES, value: "new after a login", odd: true,
        means: FORGOTTEN,
    },
    Row {
        manufacturer: "softhsm", model: "softhsm v2", name: THREADS, value: "wait for each other", odd: true,
        means: "two tokenHosts sign with elliptic curves almost twice as fast as one",
    },
    Row {
        manufacturer: "softhsm", model: "softhsm v2", name: CHANGES, value: "of others are overlooked", odd: true,
        means: "what is not found after a change of one's own is looked for once more, with the library started over",
    },
    Row {
        // See `super::index::of_token`.
        manufacturer: "softhsm", model: "softhsm v2", name: LISTINGS, value: "spoil keys in the making", odd: true,
        means: "tools that read every object, as pkcs11-tool --list-objects does, are for a copy of its folder, or for when nobody makes keys",
    },
    Row {
        manufacturer: "kryoptic", model: "", name: HANDLES, value: "outlive a login", odd: false,
        means: FORGOTTEN,
    },
    Row {
        manufacturer: "kryoptic", model: "", name: THREADS, value: "wait for each other", odd: true,
        means: "a key that is made holds up signatures of the same process; one session is faster than several",
    },
    Row {
        manufacturer: "mozilla", model: "nss", name: INIT_ARGS, value: "needed", odd: true,
        means: "pkcs11.initArgs names the database: configdir='sql:…' certPrefix='' keyPrefix='' secmod='secmod.db' flags=",
    },
];

fn rows(token: &TokenFacts) -> impl Iterator<Item = &'static Row> {
    let (manufacturer, model) = (token.manufacturer.to_lowercase(), token.model.to_lowercase());
    ROWS.iter().filter(move |row| manufacturer.contains(row.manufacturer) && model.contains(row.model))
}

/// Whether a process that changes such a token may overlook what others change there, see [`super::overlooked`].
pub fn overlooks(token: &TokenFacts) -> bool {
    rows(token).any(|row| row.name == CHANGES)
}

/// What is known of such a token.
pub fn known(token: &TokenFacts) -> Vec<Quirk> {
    let quirk = |row: &Row| {
        let quirk = Quirk::usual(row.name, row.value, row.means);
        Quirk { odd: row.odd, ..quirk }
    };
    let mut all: Vec<_> = rows(token).map(quirk).collect();
    if all.iter().all(|quirk| quirk.name != HANDLES) {
        let unknown = Quirk::not_probed(HANDLES, "a log-out would disturb others", FORGOTTEN);
        all.push(Quirk { odd: false, ..unknown });
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_maker_s_tokens_overlook_changes() {
        let overlooks = |manufacturer: &str, model: &str| {
            overlooks(&TokenFacts {
                manufacturer: manufacturer.into(),
                model: model.into(),
                ..Default::default()
            })
        };
        assert!(overlooks("SoftHSM project", "SoftHSM v2"));
        assert!(!overlooks("Kryoptic Project", "v1") && !overlooks("Somebody", "SoftHSM v2"));
    }

    #[test]
    fn a_token_of_another_maker_is_taken_for_a_forgetful_one() {
        let token = |manufacturer: &str, model: &str| {
            let facts =
                TokenFacts { manufacturer: manufacturer.into(), model: model.into(), ..Default::default() };
            known(&facts).into_iter().map(|quirk| (quirk.name, quirk.value)).collect::<Vec<_>>()
        };
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        assert_eq!(
            token("Somebody", "SoftHSM v2"),
            [pair(HANDLES, "not probed: a log-out would disturb others")]
        );
        assert_eq!(token("SoftHSM project", "SoftHSM v2")[0], pair(HANDLES, "new after a login"));
        assert_eq!(token("Mozilla Foundation", "NSS 3")[0], pair(INIT_ARGS, "needed"));
    }
}
