//! Reads policy files.
