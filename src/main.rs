//! The command `walcat`.

fn main() {}
