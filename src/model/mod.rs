//! Words shared by CRD specs and REST bodies; no I/O, no Kubernetes, no PKCS#11.
