#!/usr/bin/env bash
# Fuzzes each target for SECONDS, one after the other, or only the named ones:  tools/fuzz.sh SECONDS [TARGET…]
#
# It starts from tests/fuzz/corpus, which the tests replay, and adds what reaches new code to fuzz/corpus, which stays on this
# machine. An input that crashes, hangs or takes too much memory ends up in fuzz/artifacts/TARGET: exit status 1. Mend the
# fault and put the input into tests/fuzz/corpus/TARGET.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

seconds=${1:?seconds for each target}
shift
targets=("$@")
if [ ${#targets[@]} = 0 ]; then mapfile -t targets < <(ls tests/fuzz/corpus); fi

cp Cargo.lock fuzz/Cargo.lock # the versions that are shipped
# Flags for some crates alone are not stable. A folder of its own, because the variable makes cargo compile all anew.
RUSTC_BOOTSTRAP=1 cargo build --release --manifest-path fuzz/Cargo.toml --target-dir fuzz/target

failed=()
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    # No sanitizer: our code is safe Rust but for calls of libtorch and FFmpeg, which are not built with one.
    ACDIT_FUZZ_TARGET=$target nice -n 10 "${FUZZ_TARGET:-fuzz/target/release/fuzz-target}" \
        "fuzz/corpus/$target" "tests/fuzz/corpus/$target" -artifact_prefix="fuzz/artifacts/$target/" \
        -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1 \
        >"fuzz/$target.log" 2>&1 || failed+=("$target")
    stat() { sed --quiet "s/^stat::$1: *//p" "fuzz/$target.log"; }
    echo "$target: $(stat number_of_executed_units) inputs in $seconds s, $(stat new_units_added) of them kept," \
        "$(stat peak_rss_mb) MB at most"
done
[ ${#failed[@]} = 0 ] || { echo "failed: ${failed[*]}; see fuzz/TARGET.log and fuzz/artifacts"; exit 1; }
