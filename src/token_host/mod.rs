//! The child process that alone loads a PKCS#11 module.
