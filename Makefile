# The same commands for people and for CI. Each first makes the machine ready (tools/setup.sh: a fifth of a second once it is).
# One profile, release, everywhere: what is tested is what runs, and every dependency compiles once.

# Cargo lets these replace the rpath in .cargo/config.toml, and nothing built would find libtorch.
unexport RUSTFLAGS CARGO_ENCODED_RUSTFLAGS

CACHE = $${XDG_CACHE_HOME:-$$HOME/.cache}/acdit-world

.PHONY: help serve build test check bench fuzz conformance soak soak-training soak-memory clean-cache setup setup-test setup-bench

help: ## this list
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' Makefile | expand -t 16

serve: setup ## the shipped world on http://127.0.0.1:8080; flags by ARGS="--port 9000"
	cargo run --release --bin acdit-world -- serve $(ARGS)

build: setup ## target/release/acdit-world
	cargo build --release

test: setup-test ## every test: real libtorch, FFmpeg, sockets and Chromium
	cargo test --release --workspace

check: setup ## format, lints, documentation, and the builds without FFmpeg or libtorch
	cargo fmt --all --check
	cargo clippy --release --workspace --all-targets -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --release --workspace --no-deps
	cargo check --release --no-default-features
	cargo check --release --package acdit-io

bench: setup-bench ## speed against PyTorch on this machine; flags by ARGS="--preset xl --device cuda"
	cargo build --release
	"$(CACHE)/pytorch-2.11.0/bin/python" benches/compare.py "$${CARGO_TARGET_DIR:-target}/release/acdit-world" $(ARGS)

fuzz: setup ## looks for inputs that crash: SECONDS_EACH=60 on every target, or on TARGET=clip alone
	tools/fuzz.sh "$${SECONDS_EACH:-60}" $(TARGET)

conformance: ## the Autobahn suite against our WebSocket; needs Python 2.7
	@tools/setup.sh conformance
	cargo build --release --package acdit-io --example echo
	tools/conformance.py "$${CARGO_TARGET_DIR:-target}/release/examples/echo" "$(CACHE)/autobahn/.python" "$(CACHE)/autobahn"

soak: setup-test ## MINUTES=10 of viewers, a stalled one, clips, forks and kills against the real server, and controls that must fail
	ACDIT_SOAK_MINUTES=$${MINUTES:-10} cargo test --release --workspace --test soak

soak-memory: setup-test ## BLOCKS=10000 of the shipped world: memory and time per block must stay flat
	ACDIT_SOAK_BLOCKS=$${BLOCKS:-10000} cargo test --release --workspace --test memory -- --nocapture

soak-training: setup-test ## kills a training KILLS=100 times at random moments; it must always go on to the same weights
	ACDIT_SOAK_KILLS=$${KILLS:-100} cargo test --release --test cli killed_at_any_moment -- --nocapture

clean-cache: ## removes what setup downloaded; target/ stays
	rm -rf "$(CACHE)" .cargo/config.toml tests/browser/node_modules

setup:
	@tools/setup.sh build
setup-test:
	@tools/setup.sh test
setup-bench:
	@tools/setup.sh bench
