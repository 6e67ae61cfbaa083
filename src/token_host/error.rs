//! Return values of PKCS#11 in words: one table of what happened and what to do about it.

mod codes;
mod page;
mod vendors;

use std::sync::OnceLock;

use cryptoki_sys::*;

use self::{
    codes::CODES,
    vendors::{VENDORS, Vendor},
};
use super::raw::Failure;
use crate::hsm::protocol::{HsmError, Kind};

pub use page::page;

/// What one return value means, or each of a range.
struct Row {
    first: CK_RV,
    last: CK_RV,
    /// Its constant; empty where a vendor gives none.
    name: &'static str,
    kind: Kind,
    cause: &'static str,
    /// What to do, or what is done.
    next: &'static str,
}

/// Whose module this process has loaded; there is one at most.
static MODULE: OnceLock<&'static Vendor> = OnceLock::new();

/// Tells who made the module or its token, so that the vendor's own return values can be read.
pub fn made_by(manufacturer: &str) {
    know(|vendor| manufacturer.to_lowercase().contains(vendor.manufacturer));
}

/// The same of a module that cannot be asked because it did not start, by the name of its file.
pub fn loaded_from(library: &str) {
    let file = library.rsplit('/').next().unwrap_or(library).to_lowercase();
    know(|vendor| file.contains(vendor.library));
}

fn know(is: impl Fn(&Vendor) -> bool) {
    if let Some(vendor) = VENDORS.iter().find(|vendor| is(vendor)) {
        MODULE.get_or_init(|| vendor);
    }
}

/// A return value in words.
fn in_words(failure: Failure, vendor: Option<&Vendor>) -> HsmError {
    told(failure, vendor, |name, cause, next| format!("{name}: {cause}; {next} ({})", failure.function))
}

/// The same without what to do, for a call that is not made again: there, most of it is not true.
pub fn in_brief(failure: Failure) -> HsmError {
    told(failure, MODULE.get().copied(), |name, cause, _| format!("{name}: {cause} ({})", failure.function))
}

fn told(
    Failure { code, .. }: Failure,
    vendor: Option<&Vendor>,
    words: impl FnOnce(&str, &str, &str) -> String,
) -> HsmError {
    let of = |rows: &'static [Row]| rows.iter().find(|row| (row.first..=row.last).contains(&code));
    let number = format!("{code:#010x}");
    let (name, kind, cause, next) =
        match (of(CODES), vendor.and_then(|vendor| Some((vendor, of(vendor.rows)?)))) {
            (Some(row), _) => (row.name.to_owned(), row.kind, row.cause, row.next),
            (None, Some((vendor, row))) => {
                (format!("{number} of {}", vendor.name), row.kind, row.cause, row.next)
            }
            (None, None) => {
                (number, Kind::Device, "a return value of the vendor's own", "see the vendor's manual")
            }
        };
    HsmError { kind, code: Some(code), message: words(&name, cause, next) }
}

impl From<Failure> for HsmError {
    fn from(failure: Failure) -> Self {
        in_words(failure, MODULE.get().copied())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn primus(code: CK_RV) -> HsmError {
        in_words(Failure { code, function: "C_Login" }, Some(&VENDORS[0]))
    }

    #[test]
    fn a_refused_pin_says_what_to_do() {
        let error = HsmError::from(Failure { code: CKR_PIN_INCORRECT, function: "C_Login" });
        assert_eq!(error.kind, Kind::PinRejected);
        assert_eq!(
            error.message,
            "CKR_PIN_INCORRECT: the token refused the PIN; put the right one into the Secret (C_Login)"
        );
    }

    #[test]
    fn no_code_has_two_meanings_and_an_unknown_one_keeps_its_number() {
        for row in CODES {
            assert_eq!(CODES.iter().filter(|other| other.first == row.first).count(), 1, "{}", row.name);
        }
        let error = HsmError::from(Failure { code: 0x8000_1234, function: "C_Sign" });
        assert_eq!((error.kind, error.code), (Kind::Device, Some(0x8000_1234)));
        assert!(error.message.starts_with("0x80001234: "), "{}", error.message);
    }

    #[test]
    fn a_vendors_number_means_something_with_its_module_alone() {
        let ours = primus(0x8000_000b);
        assert_eq!(ours.kind, Kind::PinRejected);
        assert_eq!(
            ours.message,
            "0x8000000b of Securosys Primus: the HSM refused the PIN; put the right one into the Secret (C_Login)"
        );
        let others = in_words(Failure { code: 0x8000_000b, function: "C_Login" }, None);
        assert_eq!(others.kind, Kind::Device);
        assert!(others.message.contains("see the vendor's manual"), "{}", others.message);
    }

    #[test]
    fn a_single_value_of_a_vendor_comes_before_its_range() {
        assert_eq!(primus(0x8000_5017).kind, Kind::PinRejected);
        assert_eq!(primus(0x8000_5001).kind, Kind::Device);
        assert!(primus(0x8000_5010).message.contains("configuration"));
        assert!(primus(0xc000_0001).message.contains("HSM's log"));
        assert!(primus(0x8000_501a).message.contains("see the vendor's manual"));
        // The standard's own values stay what they are.
        assert_eq!(primus(CKR_PIN_LOCKED).kind, Kind::PinLocked);
    }

    #[test]
    fn every_value_says_what_happened_and_what_to_do() {
        let vendors = VENDORS.iter().flat_map(|vendor| vendor.rows);
        for row in CODES.iter().chain(vendors) {
            assert!(
                row.first <= row.last && !row.cause.is_empty() && !row.next.is_empty(),
                "{:#x}",
                row.first
            );
            // They stand in the cells of a table and in the middle of a sentence.
            for text in [row.cause, row.next] {
                assert!(!text.contains(['|', '\n']) && !text.ends_with('.'), "{text}");
            }
        }
    }
}
