//! The sidecar: plain HTTP on loopback, TLS to the gateways.
