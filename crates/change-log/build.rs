//! Makes a new migration rebuild this crate, which embeds them.

fn main() {
    println!("cargo:rerun-if-changed=../../migrations");
}
