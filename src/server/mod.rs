//! Listeners: TLS with reload, admin port, limits, graceful shutdown. Knows nothing of the domain.
