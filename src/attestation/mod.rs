//! Attestations: what is said of a key, how it is signed and how anyone checks it. Sans-IO.
