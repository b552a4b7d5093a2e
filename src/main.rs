//! The `postrider` binary: the command line of every part.
fn main() {}
