//! Keys behind PKCS#11 as gateway and controller see them.
