//! The acdit-world command.
fn main() {}
