//! Custom resources of the group `hsm-operator.io`.
