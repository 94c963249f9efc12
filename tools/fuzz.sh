#!/usr/bin/env bash
# Fuzzes each target for SECONDS, one after the other, or only the named ones:  tools/fuzz.sh SECONDS [TARGET…]
#
# It starts from tests/fuzz/corpus, which the tests replay, and adds what reaches new code to fuzz/corpus, which stays on this
# machine. An input that crashes, hangs or takes too much memory ends up in fuzz/artifacts/TARGET: exit status 1. Mend the
# fault and put the input into tests/fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/acdit-world
seconds=${1:?seconds for each target}
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then mapfile -t targets < <(ls tests/fuzz/corpus); fi

# What .cargo/config.toml says, which cargo-fuzz's own flags replace.
LIBTORCH=$(sed --quiet 's/^LIBTORCH = "\(.*\)"/\1/p' .cargo/config.toml)
export LIBTORCH RUSTFLAGS="-C link-arg=-Wl,-rpath,$LIBTORCH/lib"
# Coverage is counted by options that stable Rust has but does not admit to.
export RUSTC_BOOTSTRAP=1
cp Cargo.lock fuzz/Cargo.lock # the versions that are shipped
# No sanitizer: our own code is safe Rust, and libtorch and FFmpeg are not built with one.
PATH=$CACHE/cargo-fuzz-0.13.1/bin:$PATH cargo fuzz build --release --sanitizer none target

failed=()
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    echo "== $target"
    ACDIT_FUZZ_TARGET=$target nice -n 10 "fuzz/target/$(rustc --print host-tuple)/release/target" \
        "fuzz/corpus/$target" "tests/fuzz/corpus/$target" -artifact_prefix="fuzz/artifacts/$target/" \
        -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 2>"fuzz/$target.log" ||
        failed+=("$target")
    grep --extended-regexp 'number_of_executed_units|average_exec|peak_rss|new_units_added|SUMMARY|panicked' "fuzz/$target.log" || true
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}; see fuzz/TARGET.log and fuzz/artifacts"; exit 1; }
