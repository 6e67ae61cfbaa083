//! Return values of vendors' own. A number means something with that vendor's module alone.

use cryptoki_sys::CK_RV;

use super::Row;
use crate::hsm::protocol::Kind;

/// A vendor with return values of its own.
pub struct Vendor {
    /// As people call it.
    pub name: &'static str,
    /// Part of the manufacturer's name that its module or tokens give, in lower case.
    pub manufacturer: &'static str,
    /// Part of the library's file name, in lower case, for a module that does not start and so does not say who made it.
    pub library: &'static str,
    /// Its return values. Where a single value and a range have one, the single value comes first.
    pub rows: &'static [Row],
}

macro_rules! rows {
    ($($first:literal $(..= $last:literal)? $kind:ident $cause:literal $next:literal,)+) => {
        &[$(Row {
            first: $first,
            last: last($first, &[$($last)?]),
            name: "",
            kind: Kind::$kind,
            cause: $cause,
            next: $next,
        },)+]
    };
}

const fn last(first: CK_RV, last: &[CK_RV]) -> CK_RV {
    match last {
        [last, ..] => *last,
        [] => first,
    }
}

/// Every vendor that is known.
pub static VENDORS: &[Vendor] =
    &[Vendor { name: "Securosys Primus", manufacturer: "securosys", library: "primus", rows: PRIMUS }];

#[rustfmt::skip]
static PRIMUS: &[Row] = rows! {
    0x8000_0002 Device "the answer is larger than expected" "report it: the module's answer does not fit",
    0x8000_0003 Ambiguous "the partition has such an object already" "destroy one of the two, or choose another label",
    0x8000_0008 Unsupported "the HSM does not have the cipher" "use another algorithm, or have it enabled on the HSM",
    0x8000_0009 Unsupported "the HSM does not have the mechanism" "use another algorithm, or have it enabled on the HSM",
    0x8000_000a Lost "the HSM does not find the object" "it is looked for again",
    0x8000_000b PinRejected "the HSM refused the PIN" "put the right one into the Secret",
    0x8000_000c Lost "the login is gone" "it is logged in again",
    0x8000_000d TokenNotFound "the HSM does not know the user" "correct the partition's user in the module's configuration",
    0x8000_000e Forbidden "the key's own password is wrong" "give the password that the key was made with",
    0x8000_0012 Lost "the HSM does not find the key" "it is looked for again",
    0x8000_0018 Full "the HSM allows no further connection" "lower sessions or tokenHosts, or raise the HSM's limit",
    0x8000_002a Forbidden "the partition allows no import" "make the key on the HSM, or have import allowed",
    0x8000_0037 PinRejected "the password has expired" "set a new one on the HSM and put it into the Secret",
    0x8000_003b Lost "the HSM could not be connected to in time" "it is tried again; if it stays, look at the network to the HSM",
    0x8000_0058 Unsupported "the HSM does not have this curve" "ask for another curve",
    0x8000_005f Unsupported "the partition allows no session objects" "none: keys are token objects",
    0x8000_0069 TokenNotFound "access to the partition is disabled" "have it enabled on the HSM",
    0x8000_5003 LibraryNotLoaded "a file of the module's configuration is missing" "mount the configuration and the secrets file into controller and gateways",
    0x8000_5004 LibraryNotLoaded "a file of the module's configuration is missing" "mount the configuration and the secrets file into controller and gateways",
    0x8000_5015 Lost "the HSM cannot be reached" "a new session is opened; if it stays, look at the network to the HSM",
    0x8000_5017 PinRejected "the HSM refused the setup password" "fetch the partition's secret again with the right one, then change the PIN's Secret in any way",
    0x8000_5018 PinRejected "the setup password has expired" "fetch the partition's secret with a new one, then change the PIN's Secret in any way",
    0x8000_5019 TokenNotFound "the partition is disabled" "have it enabled on the HSM",
    0x8000_5001..=0x8000_5019 Device "the module's configuration, its secrets or its connection are not in order" "look at the module's configuration and the network to the HSM; the vendor's manual has the number",
    0xc000_0000..=0xffff_ffff Device "the HSM reports an error of its own" "it is tried again; if it stays, look at the HSM's log",
};
