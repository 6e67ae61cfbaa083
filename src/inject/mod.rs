//! Putting the sidecar into a pod: a pure function over manifests.

/// Where the gateways are unless told otherwise.
pub const DEFAULT_GATEWAY: &str = "https://hsm-operator-gateway.hsm-operator.svc:8443";
/// The sidecar's projected token, as mounted.
pub const TOKEN_FILE: &str = "/var/run/secrets/hsm-operator.io/token";
/// The gateways' CA, as mounted.
pub const CA_FILE: &str = "/var/run/secrets/hsm-operator.io/ca.crt";
