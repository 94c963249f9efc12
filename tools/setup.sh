#!/usr/bin/env bash
# Makes a Debian machine ready for cargo. `make` runs it before every target; a second run touches no network.
#
#   tools/setup.sh build     system packages, libtorch, .cargo/config.toml           (the default)
#   tools/setup.sh test      build, and Chromium, playwright-core, NVRTC, nginx with its rtmp module, websockets for Python
#   tools/setup.sh bench     build, and a Python with PyTorch for benches/pytorch_baseline.py
#   tools/setup.sh conformance   build, and the Autobahn suite for Python 2.7
#   tools/setup.sh audit     hash every file in the cache again, and mend what differs
#
# Exit 2: something is missing that only you can supply; the message says what to type.
# What it downloads lives in ${XDG_CACHE_HOME:-~/.cache}/acdit-world, outside the checkout. Every download is checked against the
# SHA-256 in tools/*.txt, unpacked beside its place and renamed into it, so the cache never holds half of anything.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

readonly TORCH_VERSION=2.11.0 # tch =0.24.0 accepts no other
readonly CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/acdit-world
readonly NVRTC=$CACHE/nvrtc-13.0
readonly BUILD_PACKAGES=(
    ca-certificates ffmpeg g++ libavcodec-dev libavdevice-dev libavfilter-dev libavformat-dev libavutil-dev libclang-dev
    libgloo-dev libswresample-dev libswscale-dev make pkg-config)

say() { printf 'setup: %s\n' "$*" >&2; }
die() { say "$@"; exit 2; }

main() {
    local goal=${1:-build}
    case $goal in
        build | test | bench | conformance | audit) ;;
        *) die "no goal '$goal': build, test, bench, conformance or audit" ;;
    esac
    need_rust
    local packages=("${BUILD_PACKAGES[@]}")
    if [ "$goal" = test ]; then mapfile -t -O ${#packages[@]} packages < <(test_packages); fi
    need_packages "${packages[@]}"
    mkdir -p "$CACHE"
    exec {lock}>"$CACHE/.lock" # two makes at once: the second waits, and finds the work done
    flock "$lock"
    trap 'rm -rf "$CACHE"/*.part' EXIT
    rm -rf "$CACHE"/*.part # of a run that was killed
    if [ "$goal" = audit ]; then rm -f "$CACHE"/*/.stamp; fi
    find_libtorch
    write_cargo_config
    case $goal in
        test) prepare_tests ;;
        bench) prepare_benches ;;
        conformance) install_autobahn ;;
        audit) [ ! -e "$NVRTC" ] || find_nvrtc ;;
    esac
}

need_rust() {
    command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs and open a new shell"
}

# ---- system packages ----

# Installs the named Debian packages that are missing; asks apt nothing when none is.
need_packages() {
    if ! command -v dpkg-query >/dev/null; then
        say "this is no Debian system: your own packages must stand in for $*"
        return
    fi
    local missing=() package
    for package; do installed "$package" || missing+=("$package"); done
    [ ${#missing[@]} -gt 0 ] || return 0

    local install=(apt-get install --yes --no-install-recommends "${missing[@]}") sudo=()
    local by_hand="As root, type
    apt-get update && ${install[*]}"
    if [ "$(id -u)" != 0 ]; then
        command -v sudo >/dev/null || die "Debian packages are missing, and there is no sudo. $by_hand"
        sudo=(sudo)
    fi
    say "installing ${missing[*]}"
    "${sudo[@]}" apt-get update --quiet=2 </dev/null >&2 || die "apt failed. $by_hand"
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive "${install[@]}" --quiet=2 </dev/null >&2 || die "apt failed. $by_hand"
}

installed() { [ "$(dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null)" = installed ]; }

# ---- the cache ----

# Sizes and times of all files: some milliseconds. Only where they differ from the stamp is everything hashed.
whole() {
    local folder=$1
    [ -e "$folder/SHA256SUMS" ] || return 1
    [ "$(stamp "$folder")" != "$(cat "$folder/.stamp" 2>/dev/null)" ] || return 0
    say "checking $folder"
    (cd "$folder" && sha256sum --check --quiet SHA256SUMS >&2) || return 1
    stamp "$folder" >"$folder/.stamp"
}

stamp() { find "$1" -type f ! -name .stamp -printf '%P %s %T@\n' | LC_ALL=C sort | sha256sum; }

# unpack FOLDER REQUIREMENTS FROM=TO…: puts the chosen members of the wheels in REQUIREMENTS into FOLDER.part/tree.
unpack() {
    local folder=$1 requirements=$2 part=$1.part python
    shift 2
    [ ! -e "$folder" ] || say "$folder is damaged or not from here: fetching it again"
    mkdir -p "$part/wheels" "$part/tmp" "$part/tree"
    python=$(python_with_pip) || { need_packages python3-pip && python=/usr/bin/python3; }
    download "$python" "$requirements" "$part"
    say "unpacking into $folder"
    "$python" tools/unpack_wheels.py "$part/wheels" "$part/tree" "$@" || die "the wheels of $requirements could not be unpacked"
}

# The first Python that has pip: a python3 early on PATH may lack it.
python_with_pip() {
    local python
    for python in python3 /usr/bin/python3; do
        if "$python" -m pip --version >/dev/null 2>&1; then
            echo "$python"
            return
        fi
    done
    return 1
}

# The version and platforms are those of the wheels, not of this machine's Python: any Python with pip can fetch them.
# TMPDIR, because pip keeps half a gigabyte there and /tmp may be smaller.
download() {
    local python=$1 requirements=$2 part=$3
    say "downloading $(grep --only-matching '^[^ #]\+' "$requirements" | paste --serial --delimiters=' ')"
    TMPDIR=$part/tmp "$python" -m pip download --requirement "$requirements" --require-hashes --no-deps --dest "$part/wheels" \
        --only-binary :all: --implementation cp --python-version 3.11 --abi cp311 --platform manylinux_2_28_x86_64 \
        --platform manylinux_2_25_x86_64 --platform manylinux2014_x86_64 --platform manylinux2010_x86_64 \
        --no-cache-dir --disable-pip-version-check --retries 5 </dev/null >&2 ||
        die "the download failed, for the reason above. Nothing half is left: run the same command again"
}

# Records the hashes of what was unpacked for FOLDER and moves it into its place.
seal() {
    local folder=$1 tree=$1.part/tree
    (cd "$tree" && find . -type f -print0 | LC_ALL=C sort --zero-terminated | xargs --null sha256sum >"$folder.part/SHA256SUMS")
    mv "$folder.part/SHA256SUMS" "$tree"
    stamp "$tree" >"$tree/.stamp"
    rm -rf "$folder"
    mv "$tree" "$folder"
    rm -rf "$folder.part"
}

# ---- libtorch ----

# Sets LIBTORCH_HOME, the folder with include/ and lib/: yours if the environment names one, else the cached one.
find_libtorch() {
    local version
    if [ -n "${LIBTORCH_USE_PYTORCH+set}" ]; then
        local python=python3 found
        [ -z "${VIRTUAL_ENV:-}" ] || python=python # as torch-sys chooses
        found=$("$python" -c 'import os, torch; print(torch.__version__, os.path.dirname(torch.__file__))') ||
            die "LIBTORCH_USE_PYTORCH is set, but $python cannot import torch"
        version=${found%% *} LIBTORCH_HOME=${found#* }
    elif [ -n "${LIBTORCH:-}" ]; then
        LIBTORCH_HOME=$LIBTORCH
        [[ $LIBTORCH = /* ]] || die "LIBTORCH=$LIBTORCH must be an absolute path"
        [ -e "$LIBTORCH/lib/libtorch_cpu.so" ] || die "LIBTORCH=$LIBTORCH holds no lib/libtorch_cpu.so"
        version=$(libtorch_version "$LIBTORCH")
    else
        LIBTORCH_HOME=$CACHE/libtorch-$TORCH_VERSION version=$TORCH_VERSION
        whole "$LIBTORCH_HOME" || fetch_libtorch "$LIBTORCH_HOME"
    fi
    [ "${version%%+*}" = "$TORCH_VERSION" ] || die "$LIBTORCH_HOME is PyTorch ${version:-of unknown version}, not $TORCH_VERSION"
}

# The libtorch archives say their version in build-version, the Python package in version.py.
libtorch_version() {
    if [ -e "$1/build-version" ]; then
        cat "$1/build-version"
    elif [ -e "$1/version.py" ]; then
        sed --quiet "s/^__version__ = '\(.*\)'/\1/p" "$1/version.py"
    fi
}

# A libtorch of 500 MB instead of the wheel's 1.6 GB: no CUDA kernels, which the binary loads at run time where there are any.
fetch_libtorch() {
    local folder=$1 tree=$1.part/tree library rules=(torch/include/=include/)
    [ "$(uname -m)" = x86_64 ] || die "no libtorch to fetch for $(uname -m): set LIBTORCH to the folder of your own $TORCH_VERSION"
    for library in libtorch_cpu.so libc10.so libgomp.so.1 libshm.so; do rules+=("torch/lib/$library=lib/$library"); done
    for library in libcudart.so.13 libcupti.so.13; do rules+=("nvidia/cu13/lib/$library=lib/$library"); done
    unpack "$folder" tools/libtorch.txt "${rules[@]}"
    echo 'INPUT(-ltorch_cpu)' >"$tree/lib/libtorch.so" # the linker asks for it; nothing in it would be used
    echo "$TORCH_VERSION" >"$tree/build-version"
    seal "$folder"
}

# Tells cargo where libtorch is, so that a plain `cargo build` works and what it builds runs from any folder.
# Written only when it changes: a new rpath makes cargo build everything again.
write_cargo_config() {
    local flags='["-C", "link-arg=-Wl,-rpath,'$LIBTORCH_HOME'/lib"]' config
    config="# Written by tools/setup.sh, which overwrites it. Settings of your own belong in ~/.cargo/config.toml.
[env]
LIBTORCH = \"$LIBTORCH_HOME\"
GOMP_SPINCOUNT = \"20000\" # threads that spin longer at barriers take the cores that tests share
[target.$(uname -m)-unknown-linux-gnu]
rustflags = $flags
rustdocflags = $flags"
    if [ "$(cat .cargo/config.toml 2>/dev/null)" != "$config" ]; then
        mkdir -p .cargo
        echo "$config" >.cargo/config.toml.part
        mv .cargo/config.toml.part .cargo/config.toml
    fi
}

# ---- tests ----

# Node and npm often come from elsewhere than Debian.
test_packages() {
    echo chromium
    command -v node >/dev/null || echo nodejs
    command -v npm >/dev/null || echo npm
}

prepare_tests() {
    if [ "$(uname -m)" = x86_64 ]; then find_nvrtc; fi
    find_nginx
    find_websockets
    install_node_modules tests/browser
}

# A server to publish to. Unpacked, not installed: Debian's package would start a web server on port 80.
find_nginx() {
    local folder=$CACHE/nginx-rtmp
    ! whole "$folder" || return 0
    command -v dpkg-deb >/dev/null || return 0 # no Debian: the test says that it skips
    mkdir -p "$folder.part/debs" "$folder.part/tree"
    say "downloading nginx libnginx-mod-rtmp"
    download_debs "$folder.part/debs" nginx libnginx-mod-rtmp
    local deb
    for deb in "$folder.part/debs"/*.deb; do dpkg-deb --extract "$deb" "$folder.part/tree"; done
    seal "$folder"
}

# Only files: the test puts the folder on Python's path.
find_websockets() {
    local folder=$CACHE/websockets-17.4
    ! whole "$folder" || return 0
    unpack "$folder" tools/websockets.txt websockets/=websockets/
    seal "$folder"
}

# apt checks what it fetches against the signed lists, which a fresh machine does not have yet.
download_debs() {
    local folder=$1 sudo=() again=
    shift
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    until (cd "$folder" && apt-get download --quiet=2 -o APT::Sandbox::User=root "$@" </dev/null >&2); do
        [ -z "$again" ] && "${sudo[@]}" apt-get update --quiet=2 </dev/null >&2 || die "apt failed. As root, type apt-get update"
        again=yes
    done
}

# The runtime looks for it in this place.
find_nvrtc() {
    ! whole "$NVRTC" || return 0
    unpack "$NVRTC" tools/nvrtc.txt nvidia/cu13/lib/libnvrtc.so=lib/libnvrtc.so \
        nvidia/cu13/lib/libnvrtc-builtins.so=lib/libnvrtc-builtins.so
    seal "$NVRTC"
}

# npm ci empties node_modules first, so the copy of the lock file, made last, says that all of it arrived.
install_node_modules() {
    local folder=$1
    local lock=$folder/package-lock.json done=$folder/node_modules/.installed-lock.json
    cmp --silent "$lock" "$done" && return
    say "npm ci in $folder"
    npm ci --prefix "$folder" --ignore-scripts --no-audit --no-fund --loglevel=error </dev/null >&2 ||
        die "npm ci failed, for the reason above: run the same command again"
    cp "$lock" "$done"
}

# ---- benches ----

prepare_benches() {
    local venv=$CACHE/pytorch-$TORCH_VERSION
    cmp --silent tools/bench.txt "$venv/.installed.txt" && return
    python3 -c 'import ensurepip' 2>/dev/null || need_packages python3-venv
    say "installing PyTorch for Python into $venv"
    rm -rf "$venv"
    python3 -m venv "$venv"
    mkdir "$venv/tmp"
    TMPDIR=$venv/tmp "$venv/bin/python" -m pip install --requirement tools/bench.txt --only-binary :all: \
        --no-cache-dir --disable-pip-version-check --quiet </dev/null >&2 ||
        die "pip failed, for the reason above: run the same command again"
    cp tools/bench.txt "$venv/.installed.txt" # last, so that it stands for all of it
}

# ---- WebSocket conformance ----

# The suite is for Python 2.7, which Debian no longer has: its path is written beside the suite for whoever runs it.
install_autobahn() {
    local folder=$CACHE/autobahn python
    python=$(python27) || die "the Autobahn suite needs Python 2.7 with pip: install one, for example by
    pyenv install 2.7.18"
    if ! cmp --silent tools/conformance.txt "$folder/.installed.txt"; then
        say "installing the Autobahn suite into $folder"
        rm -rf "$folder"
        "$python" -m pip install --requirement tools/conformance.txt --no-deps --target "$folder" --no-cache-dir \
            --disable-pip-version-check --quiet </dev/null >&2 ||
            die "pip failed, for the reason above: run the same command again"
        touch "$folder/zope/__init__.py" # two packages share this folder, and --target forgets to say so
        cp tools/conformance.txt "$folder/.installed.txt"
    fi
    ln -sfn "$python" "$folder/.python"
}

python27() {
    local python path
    for python in python2.7 "${PYENV_ROOT:-$HOME/.pyenv}"/versions/2.7.*/bin/python2.7; do
        # what is run, where a version manager stands in between
        path=$("$python" -c 'import pip, sys; print(sys.executable)' 2>/dev/null) || continue
        echo "$path"
        return
    done
    return 1
}

main "$@"
