//! Reconcilers, run by the replica that holds the lease.
