//! Elliptic curves of the contract, with the domain parameters that checking a signature needs.
//!
//! Parameters: SEC 2 v2, RFC 5639, FIPS 186-5.

/// One curve.
#[derive(Debug, PartialEq, Eq)]
pub struct CurveRow {
    /// Short name for people.
    pub name: &'static str,
    /// Object identifier, as keys are written with.
    pub oid: &'static str,
    /// Another identifier that requests have for this curve: the contract's misprint, or one of an old client. In a key it
    /// stands for whatever it really is.
    pub alias: Option<&'static str>,
    /// Bits of the group order: half the width of a raw signature.
    pub order_bits: u32,
    /// Domain parameters; `None` for Edwards curves, and where checking is left to a library alone.
    pub weierstrass: Option<Weierstrass>,
}

/// Domain parameters of `y² = x³ + ax + b` over `GF(p)`, in lower-case hexadecimal.
#[derive(Debug, PartialEq, Eq)]
pub struct Weierstrass {
    /// Prime of the field.
    pub p: &'static str,
    /// Coefficient a.
    pub a: &'static str,
    /// Coefficient b.
    pub b: &'static str,
    /// x of the generator.
    pub gx: &'static str,
    /// y of the generator.
    pub gy: &'static str,
    /// Order of the generator.
    pub n: &'static str,
}

/// Identifier of Ed25519 (RFC 8410), which the contract writes in `curveOid` too.
pub const ED25519_OID: &str = "1.3.101.112";
/// Identifier of Ed448 (RFC 8410). The contract does not name it; keys of type ED have it where their `curveOid` says so.
pub const ED448_OID: &str = "1.3.101.113";

/// A curve of [`CURVES`].
pub type Curve = &'static CurveRow;

impl CurveRow {
    /// Bytes of one coordinate-sized scalar: half of a raw signature.
    #[must_use]
    pub const fn scalar_len(&self) -> usize {
        self.order_bits.div_ceil(8) as usize
    }
}

/// Finds a curve by its identifier.
#[must_use]
pub fn by_oid(oid: &str) -> Option<Curve> {
    CURVES.iter().find(|row| row.oid == oid)
}

/// The identifier of the curve that a request means by `oid`; one that means none stays as it is.
#[must_use]
pub fn meant(oid: &str) -> &str {
    CURVES.iter().find(|row| row.alias == Some(oid)).map_or(oid, |row| row.oid)
}

/// Every curve of the contract.
#[rustfmt::skip]
pub static CURVES: &[CurveRow] = &[
    CurveRow {
        name: "secp224k1",
        oid: "1.3.132.0.32",
        alias: None,
        order_bits: 225,
        weierstrass: Some(Weierstrass {
            p: "fffffffffffffffffffffffffffffffffffffffffffffffeffffe56d",
            a: "00000000000000000000000000000000000000000000000000000000",
            b: "00000000000000000000000000000000000000000000000000000005",
            gx: "a1455b334df099df30fc28a169a467e9e47075a90f7e650eb6b7a45c",
            gy: "7e089fed7fba344282cafbd6f7e319f7c0b0bd59e2ca4bdb556d61a5",
            n: "010000000000000000000000000001dce8d2ec6184caf0a971769fb1f7",
        }),
    },
    CurveRow {
        name: "P-224",
        oid: "1.3.132.0.33",
        alias: None,
        order_bits: 224,
        weierstrass: Some(Weierstrass {
            p: "ffffffffffffffffffffffffffffffff000000000000000000000001",
            a: "fffffffffffffffffffffffffffffffefffffffffffffffffffffffe",
            b: "b4050a850c04b3abf54132565044b0b7d7bfd8ba270b39432355ffb4",
            gx: "b70e0cbd6bb4bf7f321390b94a03c1d356c21122343280d6115c1d21",
            gy: "bd376388b5f723fb4c22dfe6cd4375a05a07476444d5819985007e34",
            n: "ffffffffffffffffffffffffffff16a2e0b8f03e13dd29455c5c2a3d",
        }),
    },
    CurveRow {
        name: "secp256k1",
        oid: "1.3.132.0.10",
        alias: None,
        order_bits: 256,
        weierstrass: Some(Weierstrass {
            p: "fffffffffffffffffffffffffffffffffffffffffffffffffffffffefffffc2f",
            a: "0000000000000000000000000000000000000000000000000000000000000000",
            b: "0000000000000000000000000000000000000000000000000000000000000007",
            gx: "79be667ef9dcbbac55a06295ce870b07029bfcdb2dce28d959f2815b16f81798",
            gy: "483ada7726a3c4655da4fbfc0e1108a8fd17b448a68554199c47d08ffb10d4b8",
            n: "fffffffffffffffffffffffffffffffebaaedce6af48a03bbfd25e8cd0364141",
        }),
    },
    CurveRow {
        name: "P-256",
        oid: "1.2.840.10045.3.1.7",
        alias: None,
        order_bits: 256,
        weierstrass: Some(Weierstrass {
            p: "ffffffff00000001000000000000000000000000ffffffffffffffffffffffff",
            a: "ffffffff00000001000000000000000000000000fffffffffffffffffffffffc",
            b: "5ac635d8aa3a93e7b3ebbd55769886bc651d06b0cc53b0f63bce3c3e27d2604b",
            gx: "6b17d1f2e12c4247f8bce6e563a440f277037d812deb33a0f4a13945d898c296",
            gy: "4fe342e2fe1a7f9b8ee7eb4a7c0f9e162bce33576b315ececbb6406837bf51f5",
            n: "ffffffff00000000ffffffffffffffffbce6faada7179e84f3b9cac2fc632551",
        }),
    },
    CurveRow {
        name: "P-384",
        oid: "1.3.132.0.34",
        alias: None,
        order_bits: 384,
        weierstrass: Some(Weierstrass {
            p: "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000ffffffff",
            a: "fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffeffffffff0000000000000000fffffffc",
            b: "b3312fa7e23ee7e4988e056be3f82d19181d9c6efe8141120314088f5013875ac656398d8a2ed19d2a85c8edd3ec2aef",
            gx: "aa87ca22be8b05378eb1c71ef320ad746e1d3b628ba79b9859f741e082542a385502f25dbf55296c3a545e3872760ab7",
            gy: "3617de4a96262c6f5d9e98bf9292dc29f8f41dbd289a147ce9da3113b5f0b8c00a60b1ce1d7e819d7a431d7c90ea0e5f",
            n: "ffffffffffffffffffffffffffffffffffffffffffffffffc7634d81f4372ddf581a0db248b0a77aecec196accc52973",
        }),
    },
    CurveRow {
        name: "P-521",
        oid: "1.3.132.0.35",
        alias: None,
        order_bits: 521,
        weierstrass: Some(Weierstrass {
            p: "01ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff",
            a: "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffc",
            b: "0051953eb9618e1c9a1f929a21a0b68540eea2da725b99b315f3b8b489918ef109e156193951ec7e937b1652c0bd3bb1bf073573df883d2c34f1ef451fd46b503f00",
            gx: "00c6858e06b70404e9cd9e3ecb662395b4429c648139053fb521f828af606b4d3dbaa14b5e77efe75928fe1dc127a2ffa8de3348b3c1856a429bf97e7e31c2e5bd66",
            gy: "011839296a789a3bc0045c8a5fb42c7d1bd998f54449579b446817afbd17273e662c97ee72995ef42640c550b9013fad0761353c7086a272c24088be94769fd16650",
            n: "01fffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffa51868783bf2f966b7fcc0148f709a5d03bb5c9b8899c47aebb6fb71e91386409",
        }),
    },
    CurveRow {
        name: "brainpool224r1",
        oid: "1.3.36.3.3.2.8.1.1.5",
        alias: Some("1.3.36.3.3.2.8.1.1.1"),
        order_bits: 224,
        weierstrass: Some(Weierstrass {
            p: "d7c134aa264366862a18302575d1d787b09f075797da89f57ec8c0ff",
            a: "68a5e62ca9ce6c1c299803a6c1530b514e182ad8b0042a59cad29f43",
            b: "2580f63ccfe44138870713b1a92369e33e2135d266dbb372386c400b",
            gx: "0d9029ad2c7e5cf4340823b2a87dc68c9e4ce3174c1e6efdee12c07d",
            gy: "58aa56f772c0726f24c6b89e4ecdac24354b9e99caa3f6d3761402cd",
            n: "d7c134aa264366862a18302575d0fb98d116bc4b6ddebca3a5a7939f",
        }),
    },
    CurveRow {
        name: "brainpool256r1",
        oid: "1.3.36.3.3.2.8.1.1.7",
        alias: None,
        order_bits: 256,
        weierstrass: Some(Weierstrass {
            p: "a9fb57dba1eea9bc3e660a909d838d726e3bf623d52620282013481d1f6e5377",
            a: "7d5a0975fc2c3057eef67530417affe7fb8055c126dc5c6ce94a4b44f330b5d9",
            b: "26dc5c6ce94a4b44f330b5d9bbd77cbf958416295cf7e1ce6bccdc18ff8c07b6",
            gx: "8bd2aeb9cb7e57cb2c4b482ffc81b7afb9de27e1e3bd23c23a4453bd9ace3262",
            gy: "547ef835c3dac4fd97f8461a14611dc9c27745132ded8e545c1d54c72f046997",
            n: "a9fb57dba1eea9bc3e660a909d838d718c397aa3b561a6f7901e0e82974856a7",
        }),
    },
    CurveRow {
        name: "brainpool320r1",
        oid: "1.3.36.3.3.2.8.1.1.9",
        alias: None,
        order_bits: 320,
        weierstrass: Some(Weierstrass {
            p: "d35e472036bc4fb7e13c785ed201e065f98fcfa6f6f40def4f92b9ec7893ec28fcd412b1f1b32e27",
            a: "3ee30b568fbab0f883ccebd46d3f3bb8a2a73513f5eb79da66190eb085ffa9f492f375a97d860eb4",
            b: "520883949dfdbc42d3ad198640688a6fe13f41349554b49acc31dccd884539816f5eb4ac8fb1f1a6",
            gx: "43bd7e9afb53d8b85289bcc48ee5bfe6f20137d10a087eb6e7871e2a10a599c710af8d0d39e20611",
            gy: "14fdd05545ec1cc8ab4093247f77275e0743ffed117182eaa9c77877aaac6ac7d35245d1692e8ee1",
            n: "d35e472036bc4fb7e13c785ed201e065f98fcfa5b68f12a32d482ec7ee8658e98691555b44c59311",
        }),
    },
    CurveRow {
        name: "brainpool384r1",
        oid: "1.3.36.3.3.2.8.1.1.11",
        alias: None,
        order_bits: 384,
        weierstrass: Some(Weierstrass {
            p: "8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b412b1da197fb71123acd3a729901d1a71874700133107ec53",
            a: "7bc382c63d8c150c3c72080ace05afa0c2bea28e4fb22787139165efba91f90f8aa5814a503ad4eb04a8c7dd22ce2826",
            b: "04a8c7dd22ce28268b39b55416f0447c2fb77de107dcd2a62e880ea53eeb62d57cb4390295dbc9943ab78696fa504c11",
            gx: "1d1c64f068cf45ffa2a63a81b7c13f6b8847a3e77ef14fe3db7fcafe0cbd10e8e826e03436d646aaef87b2e247d4af1e",
            gy: "8abe1d7520f9c2a45cb1eb8e95cfd55262b70b29feec5864e19c054ff99129280e4646217791811142820341263c5315",
            n: "8cb91e82a3386d280f5d6f7e50e641df152f7109ed5456b31f166e6cac0425a7cf3ab6af6b7fc3103b883202e9046565",
        }),
    },
    CurveRow {
        name: "brainpool512r1",
        oid: "1.3.36.3.3.2.8.1.1.13",
        alias: None,
        order_bits: 512,
        weierstrass: Some(Weierstrass {
            p: "aadd9db8dbe9c48b3fd4e6ae33c9fc07cb308db3b3c9d20ed6639cca703308717d4d9b009bc66842aecda12ae6a380e62881ff2f2d82c68528aa6056583a48f3",
            a: "7830a3318b603b89e2327145ac234cc594cbdd8d3df91610a83441caea9863bc2ded5d5aa8253aa10a2ef1c98b9ac8b57f1117a72bf2c7b9e7c1ac4d77fc94ca",
            b: "3df91610a83441caea9863bc2ded5d5aa8253aa10a2ef1c98b9ac8b57f1117a72bf2c7b9e7c1ac4d77fc94cadc083e67984050b75ebae5dd2809bd638016f723",
            gx: "81aee4bdd82ed9645a21322e9c4c6a9385ed9f70b5d916c1b43b62eef4d0098eff3b1f78e2d0d48d50d1687b93b97d5f7c6d5047406a5e688b352209bcb9f822",
            gy: "7dde385d566332ecc0eabfa9cf7822fdf209f70024a57b1aa000c55b881f8111b2dcde494a5f485e5bca4bd88a2763aed1ca2b2fa8f0540678cd1e0f3ad80892",
            n: "aadd9db8dbe9c48b3fd4e6ae33c9fc07cb308db3b3c9d20ed6639cca70330870553e5c414ca92619418661197fac10471db1d381085ddaddb58796829ca90069",
        }),
    },
    CurveRow {
        name: "prime239v1",
        oid: "1.2.840.10045.3.1.4",
        alias: Some("1.2.840.10045.3.1.1"),
        order_bits: 239,
        weierstrass: Some(Weierstrass {
            p: "7fffffffffffffffffffffff7fffffffffff8000000000007fffffffffff",
            a: "7fffffffffffffffffffffff7fffffffffff8000000000007ffffffffffc",
            b: "6b016c3bdcf18941d0d654921475ca71a9db2fb27d1d37796185c2942c0a",
            gx: "0ffa963cdca8816ccc33b8642bedf905c3d358573d3f27fbbd3b3cb9aaaf",
            gy: "7debe8e4e90a5dae6e4054ca530ba04654b36818ce226b39fccb7b02f1ae",
            n: "7fffffffffffffffffffffff7fffff9e5e9a9f5d9071fbd1522688909d0b",
        }),
    },
    CurveRow {
        name: "prime239v2",
        oid: "1.2.840.10045.3.1.5",
        alias: Some("1.2.840.10045.3.1.2"),
        order_bits: 239,
        weierstrass: Some(Weierstrass {
            p: "7fffffffffffffffffffffff7fffffffffff8000000000007fffffffffff",
            a: "7fffffffffffffffffffffff7fffffffffff8000000000007ffffffffffc",
            b: "617fab6832576cbbfed50d99f0249c3fee58b94ba0038c7ae84c8c832f2c",
            gx: "38af09d98727705120c921bb5e9e26296a3cdcf2f35757a0eafd87b830e7",
            gy: "5b0125e4dbea0ec7206da0fc01d9b081329fb555de6ef460237dff8be4ba",
            n: "7fffffffffffffffffffffff800000cfa7e8594377d414c03821bc582063",
        }),
    },
    CurveRow {
        name: "prime239v3",
        oid: "1.2.840.10045.3.1.6",
        alias: Some("1.2.840.10045.3.1.3"),
        order_bits: 239,
        weierstrass: Some(Weierstrass {
            p: "7fffffffffffffffffffffff7fffffffffff8000000000007fffffffffff",
            a: "7fffffffffffffffffffffff7fffffffffff8000000000007ffffffffffc",
            b: "255705fa2a306654b1f4cb03d6a750a30c250102d4988717d9ba15ab6d3e",
            gx: "6768ae8e18bb92cfcf005c949aa2c6d94853d0e660bbf854b1c9505fe95a",
            gy: "1607e6898f390c06bc1d552bad226f3b6fcfe48b6e818499af18e3ed6cf3",
            n: "7fffffffffffffffffffffff7fffff975deb41b3a6057c3c432146526551",
        }),
    },
    CurveRow { name: "Ed25519", oid: ED25519_OID, alias: Some("1.3.6.1.4.1.11591.15.1"), order_bits: 253, weierstrass: None },
    CurveRow { name: "Ed448", oid: ED448_OID, alias: None, order_bits: 446, weierstrass: None },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_printed_identifier_finds_the_standard_curve() {
        assert_eq!(meant("1.3.36.3.3.2.8.1.1.1"), "1.3.36.3.3.2.8.1.1.5");
        assert_eq!(meant("1.3.6.1.4.1.11591.15.1"), ED25519_OID);
        assert_eq!(meant("1.2.3"), "1.2.3");
    }

    /// In a key, the identifiers that the contract prints for others are those of brainpoolP160r1 and prime192v1.
    #[test]
    fn a_key_is_on_the_curve_that_it_names() {
        assert_eq!(by_oid("1.3.36.3.3.2.8.1.1.1"), None);
        assert_eq!(by_oid("1.2.840.10045.3.1.1"), None);
    }
}
