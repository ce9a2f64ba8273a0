//! Certificate chains and CRLs at a given time.
