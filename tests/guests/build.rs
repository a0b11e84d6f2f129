//! Links every guest with `guest.ld`, at 1 MiB and not position-independent.

fn main() {
    println!("cargo::rerun-if-changed=guest.ld");
    let root = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_default();
    if std::env::var("CARGO_CFG_TARGET_OS").is_ok_and(|os| os == "none") {
        println!("cargo::rustc-link-arg-bins=-T{root}/guest.ld");
        println!("cargo::rustc-link-arg-bins=--no-pie");
    }
}
