//! Public keys: reading, writing and checking signatures with them, outside any token.
