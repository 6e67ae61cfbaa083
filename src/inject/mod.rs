//! Putting the sidecar into a pod: a pure function over manifests.
