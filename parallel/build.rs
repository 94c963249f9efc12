//! Compiles `src/shim.cpp` against the libtorch that torch-sys found.

use std::env;
use std::path::PathBuf;

fn main() {
    println!("cargo::rerun-if-changed=src/shim.cpp");
    println!("cargo::rerun-if-env-changed=LIBTORCH_INCLUDE");
    // include/ lies beside lib/ in a libtorch and in a Python package alike; torch-sys heeds the same variable
    let root = env::var_os("LIBTORCH_INCLUDE").map(PathBuf::from).unwrap_or_else(|| {
        let libraries =
            env::var_os("DEP_TCH_LIBTORCH_LIB").expect("torch-sys says where libtorch's libraries are");
        PathBuf::from(libraries).join("..")
    });
    let include = root.join("include");
    let mut build = cc::Build::new();
    build.cpp(true).std("c++17").extra_warnings(true).define("USE_C10D_GLOO", None).file("src/shim.cpp");
    for folder in [include.join("torch/csrc/api/include"), include] {
        build.flag("-isystem").flag(folder); // so that nothing in them is warned of
    }
    build.compile("acdit_parallel_shim");
}
