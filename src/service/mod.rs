//! What can be done with keys: the one path for REST and reconcilers.
