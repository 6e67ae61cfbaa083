//! The REST data plane.
