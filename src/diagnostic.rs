//! Messages about a place in a file: what is wrong, where, and what was perhaps meant.
