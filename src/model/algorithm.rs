//! Key algorithms of the REST contract (its section 2.1), as one table.

use super::vocabulary::vocabulary;

vocabulary! {
    /// Algorithm of a key, by the name that is sent when one is made.
    KeyAlgorithm {
        Ec = "EC",
        Ed = "ED",
        Rsa = "RSA",
        Dsa = "DSA",
        Iss = "ISS",
        Bls = "BLS",
        Aes = "AES",
        ChaCha20 = "ChaCha20",
        Camellia = "Camellia",
        Tdea = "TDEA",
        HmacSha256 = "HMACSHA256",
        MlKem512 = "ML-KEM-512",
        MlKem768 = "ML-KEM-768",
        MlKem1024 = "ML-KEM-1024",
        MlDsa44 = "ML-DSA-44",
        MlDsa65 = "ML-DSA-65",
        MlDsa87 = "ML-DSA-87",
        SlhDsaSha2128s = "SLH-DSA-SHA2-128s",
        SlhDsaSha2128f = "SLH-DSA-SHA2-128f",
        SlhDsaSha2192s = "SLH-DSA-SHA2-192s",
        SlhDsaSha2192f = "SLH-DSA-SHA2-192f",
        SlhDsaSha2256s = "SLH-DSA-SHA2-256s",
        SlhDsaSha2256f = "SLH-DSA-SHA2-256f",
        SlhDsaShake128s = "SLH-DSA-SHAKE-128s",
        SlhDsaShake128f = "SLH-DSA-SHAKE-128f",
        SlhDsaShake192s = "SLH-DSA-SHAKE-192s",
        SlhDsaShake192f = "SLH-DSA-SHAKE-192f",
        SlhDsaShake256s = "SLH-DSA-SHAKE-256s",
        SlhDsaShake256f = "SLH-DSA-SHAKE-256f",
        Lms = "LMS",
        XmssSha2 = "XMSS-SHA256_10_256",
        XmssShake = "XMSS-SHAKE256_10_256",
    }
}

/// What a key of an algorithm is told apart by, beside its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parameter {
    /// Nothing.
    None,
    /// `keySize` in bits, one of these.
    Size(&'static [u32]),
    /// `keySize` in bits within bounds, a multiple of `step`.
    SizeRange {
        /// Smallest size.
        min: u32,
        /// Largest size.
        max: u32,
        /// Sizes are multiples of this.
        step: u32,
    },
    /// `curveOid`, a curve over a prime field.
    Curve,
    /// `curveOid`, Ed25519 or Ed448; Ed25519 where it is left out.
    Edwards,
}

/// One key algorithm.
#[derive(Debug)]
pub struct KeyAlgorithmRow {
    /// The algorithm.
    pub algorithm: KeyAlgorithm,
    /// Name under which the contract echoes it.
    pub echo: &'static str,
    /// Identifier; where the contract prints none, a string that says so, because clients need one.
    pub oid: &'static str,
    /// What else describes a key.
    pub parameter: Parameter,
    /// Two halves, or one secret.
    pub asymmetric: bool,
}

impl KeyAlgorithm {
    /// The algorithm's row of the table.
    #[must_use]
    pub fn row(self) -> &'static KeyAlgorithmRow {
        ROWS.iter().find(|row| row.algorithm == self).expect("a test proves that every algorithm has its row")
    }

    /// Identifier of the algorithm of a key, as `algorithmOid`: keys of type ED have that of their curve (RFC 8410).
    #[must_use]
    pub fn oid(self, curve_oid: Option<&str>) -> &'static str {
        match curve_oid {
            Some(super::curve::ED448_OID) if self == Self::Ed => super::curve::ED448_OID,
            _ => self.row().oid,
        }
    }

    /// Whether each signature uses up a part of the key, of which the token keeps count: signed with one part twice, as a
    /// copy of the key would, two signatures tell enough to forge others.
    #[must_use]
    pub const fn is_stateful(self) -> bool {
        matches!(self, Self::Lms | Self::XmssSha2 | Self::XmssShake)
    }

    /// The one algorithm that has this identifier, if there is one: `ED` by that of either curve, and neither of the two
    /// that share theirs.
    #[must_use]
    pub fn by_oid(oid: &str) -> Option<Self> {
        if oid == super::curve::ED448_OID {
            return Some(Self::Ed);
        }
        let mut named = ROWS.iter().filter(|row| row.oid == oid && oid != UNKNOWN_OID);
        let row = named.next()?;
        named.next().is_none().then_some(row.algorithm)
    }

    /// Checks the parameters that describe a key of this algorithm.
    ///
    /// # Errors
    /// A sentence that names the parameter and what would be accepted.
    pub fn check(self, key_size: Option<u32>, curve_oid: Option<&str>) -> Result<(), InvalidParameter> {
        use InvalidParameter as Bad;
        match self.row().parameter {
            Parameter::None => Ok(()),
            Parameter::Size(sizes) => match key_size {
                Some(size) if sizes.contains(&size) => Ok(()),
                given => Err(Bad::Size { algorithm: self, given, allowed: list(sizes) }),
            },
            Parameter::SizeRange { min, max, step } => match key_size {
                Some(size) if (min..=max).contains(&size) && size.is_multiple_of(step) => Ok(()),
                given => Err(Bad::Size {
                    algorithm: self,
                    given,
                    allowed: format!("{min} to {max} in steps of {step}"),
                }),
            },
            Parameter::Curve => match curve_oid {
                None => Err(Bad::CurveMissing(self)),
                Some(oid) => match super::curve::by_oid(oid) {
                    Some(curve) if curve.weierstrass.is_some() => Ok(()),
                    _ => Err(Bad::Curve(oid.chars().take(64).collect())),
                },
            },
            Parameter::Edwards => match curve_oid {
                None | Some(super::curve::ED25519_OID | super::curve::ED448_OID) => Ok(()),
                Some(oid) => Err(Bad::Curve(oid.chars().take(64).collect())),
            },
        }
    }
}

impl KeyAlgorithm {
    /// The same for a key that exists already: what is left out is found out by looking at it.
    ///
    /// # Errors
    /// As [`Self::check`], of what is there.
    pub fn check_given(self, key_size: Option<u32>, curve_oid: Option<&str>) -> Result<(), InvalidParameter> {
        match self.row().parameter {
            Parameter::Size(_) | Parameter::SizeRange { .. } if key_size.is_none() => Ok(()),
            Parameter::Curve if curve_oid.is_none() => Ok(()),
            _ => self.check(key_size, curve_oid),
        }
    }
}

fn list(sizes: &[u32]) -> String {
    sizes.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Why the parameters of a key are refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidParameter {
    /// `keySize` missing or outside the row.
    #[error("keySize {} does not fit {algorithm}: allowed are {allowed}", .given.map_or("(none)".into(), |size| size.to_string()))]
    Size {
        /// Algorithm asked for.
        algorithm: KeyAlgorithm,
        /// Size given.
        given: Option<u32>,
        /// Sizes of the row.
        allowed: String,
    },
    /// `curveOid` missing.
    #[error("{0} needs a curveOid")]
    CurveMissing(KeyAlgorithm),
    /// `curveOid` unknown, or of another kind of curve.
    #[error("Unsupported Curve: '{0}'")]
    Curve(String),
}

/// Clients need a text where nobody printed an identifier.
const UNKNOWN_OID: &str = "unknown";

const fn row(
    algorithm: KeyAlgorithm,
    echo: &'static str,
    oid: &'static str,
    parameter: Parameter,
    asymmetric: bool,
) -> KeyAlgorithmRow {
    KeyAlgorithmRow { algorithm, echo, oid, parameter, asymmetric }
}

/// The table. Identifiers of the post-quantum signatures are NIST's; ML-KEM's follow the same registry.
#[rustfmt::skip]
static ROWS: &[KeyAlgorithmRow] = {
    use KeyAlgorithm as A;
    use Parameter as P;
    const BLOCK: Parameter = P::Size(&[128, 192, 256]);
    &[
        row(A::Ec, "EC", "1.2.840.10045.2.1", P::Curve, true),
        row(A::Ed, "ED", "1.3.101.112", P::Edwards, true),
        row(A::Rsa, "RSA", "1.2.840.113549.1.1.1", P::SizeRange { min: 2048, max: 8192, step: 256 }, true),
        row(A::Dsa, "DSA", "1.2.840.10040.4.1", P::Size(&[1024, 2048, 3072]), true),
        row(A::Iss, "ISS", UNKNOWN_OID, P::Size(&[1, 2, 3]), true),
        row(A::Bls, "BLS", "1.3.6.1.4.1.44668.5.3.1.1", P::None, true),
        row(A::Aes, "AES", "1.0.18033.3.2.1", BLOCK, false),
        row(A::ChaCha20, "ChaCha20", "1.2.840.113549.1.9.16.3.18", P::Size(&[256]), false),
        row(A::Camellia, "Camellia", "1.0.18033.3.2.2", BLOCK, false),
        row(A::Tdea, "TDEA", "1.0.18033.3.1.1", P::None, false),
        row(A::HmacSha256, "HMACSHA256", "1.2.840.113549.2.9", P::None, false),
        row(A::MlKem512, "ML-KEM-512", "2.16.840.1.101.3.4.4.1", P::None, true),
        row(A::MlKem768, "ML-KEM-768", "2.16.840.1.101.3.4.4.2", P::None, true),
        row(A::MlKem1024, "ML-KEM-1024", "2.16.840.1.101.3.4.4.3", P::None, true),
        row(A::MlDsa44, "ML-DSA-44", "2.16.840.1.101.3.4.3.17", P::None, true),
        row(A::MlDsa65, "ML-DSA-65", "2.16.840.1.101.3.4.3.18", P::None, true),
        row(A::MlDsa87, "ML-DSA-87", "2.16.840.1.101.3.4.3.19", P::None, true),
        row(A::SlhDsaSha2128s, "SLH-DSA-SHA2-128s", "2.16.840.1.101.3.4.3.20", P::None, true),
        row(A::SlhDsaSha2128f, "SLH-DSA-SHA2-128f", "2.16.840.1.101.3.4.3.21", P::None, true),
        row(A::SlhDsaSha2192s, "SLH-DSA-SHA2-192s", "2.16.840.1.101.3.4.3.22", P::None, true),
        row(A::SlhDsaSha2192f, "SLH-DSA-SHA2-192f", "2.16.840.1.101.3.4.3.23", P::None, true),
        row(A::SlhDsaSha2256s, "SLH-DSA-SHA2-256s", "2.16.840.1.101.3.4.3.24", P::None, true),
        row(A::SlhDsaSha2256f, "SLH-DSA-SHA2-256f", "2.16.840.1.101.3.4.3.25", P::None, true),
        row(A::SlhDsaShake128s, "SLH-DSA-SHAKE-128s", "2.16.840.1.101.3.4.3.26", P::None, true),
        row(A::SlhDsaShake128f, "SLH-DSA-SHAKE-128f", "2.16.840.1.101.3.4.3.27", P::None, true),
        row(A::SlhDsaShake192s, "SLH-DSA-SHAKE-192s", "2.16.840.1.101.3.4.3.28", P::None, true),
        row(A::SlhDsaShake192f, "SLH-DSA-SHAKE-192f", "2.16.840.1.101.3.4.3.29", P::None, true),
        row(A::SlhDsaShake256s, "SLH-DSA-SHAKE-256s", "2.16.840.1.101.3.4.3.30", P::None, true),
        row(A::SlhDsaShake256f, "SLH-DSA-SHAKE-256f", "2.16.840.1.101.3.4.3.31", P::None, true),
        row(A::Lms, "HSS-LMS", "1.2.840.113549.1.9.16.3.17", P::None, true),
        row(A::XmssSha2, "XMSS", "1.3.6.1.5.5.7.6.34", P::None, true),
        row(A::XmssShake, "XMSS", "1.3.6.1.5.5.7.6.34", P::None, true),
    ]
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_algorithm_has_exactly_one_row() {
        for algorithm in KeyAlgorithm::ALL {
            assert_eq!(ROWS.iter().filter(|row| row.algorithm == *algorithm).count(), 1, "{algorithm}");
        }
    }

    #[test]
    fn an_identifier_names_an_algorithm_only_where_it_is_its_own() {
        assert_eq!(KeyAlgorithm::by_oid("1.2.840.10045.2.1"), Some(KeyAlgorithm::Ec));
        assert_eq!(KeyAlgorithm::by_oid("1.3.101.112"), Some(KeyAlgorithm::Ed));
        assert_eq!(KeyAlgorithm::by_oid("1.3.101.113"), Some(KeyAlgorithm::Ed));
        for nobody in ["unknown", "1.3.6.1.5.5.7.6.34", "1.2.3"] {
            assert_eq!(KeyAlgorithm::by_oid(nobody), None, "{nobody}");
        }
    }

    #[test]
    fn parameters_are_checked_against_the_row() {
        assert!(KeyAlgorithm::Rsa.check(Some(3072), None).is_ok());
        assert_eq!(
            KeyAlgorithm::Rsa.check(Some(1024), None).unwrap_err().to_string(),
            "keySize 1024 does not fit RSA: allowed are 2048 to 8192 in steps of 256"
        );
        assert!(KeyAlgorithm::Ec.check(None, Some("1.3.132.0.10")).is_ok());
        assert!(KeyAlgorithm::Ec.check(None, Some("1.3.101.112")).is_err());
        assert!(KeyAlgorithm::Ec.check(None, None).is_err());
        assert!(KeyAlgorithm::Ed.check(None, None).is_ok());
        assert!(KeyAlgorithm::Ed.check(None, Some("1.3.101.113")).is_ok());
        assert!(KeyAlgorithm::Ed.check(None, Some("1.3.101.110")).is_err());
        assert!(KeyAlgorithm::Aes.check(Some(512), None).is_err());
        assert!(KeyAlgorithm::Aes.check_given(None, None).is_ok());
        assert!(KeyAlgorithm::Aes.check_given(Some(512), None).is_err());
        assert!(KeyAlgorithm::Ec.check_given(None, None).is_ok());
        assert!(KeyAlgorithm::Ec.check_given(None, Some("1.3.101.112")).is_err());
    }
}
