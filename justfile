set positional-arguments


# List the recipes.
default:
    @{{ just_executable() }} --list

# A shop on private servers, in your browser; `--check` compares what arrives with what was sent, `--help` tells more.
demo *ARGS: build
    @{{ if ARGS =~ '--(check|help)|^(watch|help)' { "true" } else { just_executable() + " web" } }}
    cargo run --quiet --bin demo -- "$@"

# Print what a user of the running demo receives.
watch USER="42": build
    cargo run --quiet --bin demo -- watch --user "$1"

# griot on port 8000 for anybody on this machine, with a private Redis, for test suites of client libraries.
anonymous *ARGS: build
    cargo run --quiet --bin anonymous -- "$@"

# Faults at random for so many minutes, with official clients and an oracle; `--seed N` repeats, `--plant stale` plants one.
soak MINUTES="30" *ARGS: build official-clients
    cargo run --quiet --bin soak -- "$@"

# Every commit has its effects, whichever process is killed: `just storm [workers|redis|postgres|standby]`, `--seed N`.
storm *ARGS: build official-clients
    cargo run --quiet --bin storm -- "$@"

# What hostile clients cost the others: the p99 of well-behaved ones, quiet, quiet again and under attack.
hostile *ARGS:
    cargo build --release --bin subscriber-bridge --bin hostile
    target/release/hostile "$@"

# What the removal of a pattern costs others: the worker's sweep beside KEYS + DEL, 100,000 among a million keys.
sweep *ARGS:
    cargo build --release --bin publisher --bin subscriber-bridge --bin invalidation-worker --bin sweep
    target/release/sweep "$@"

# What capturing changes costs writers: pgbench without capture, with our trigger, with one that notifies, with two that do nothing.
capture *ARGS:
    cargo build --bin capture
    target/debug/capture "$@"

# From a commit until the cache key is gone, at 1,000 commits per second; and how many keys per second the worker sustains.
latency *ARGS:
    cargo build --release --bin publisher --bin subscriber-bridge --bin invalidation-worker --bin latency
    target/release/latency "$@"

# Fresh on push: pages that ask again when they are told of a commit, and how many of them are given an old value.
fresh COMMITS="10000": build
    cargo run --quiet --bin fresh -- "$@"

# What a delivery and a connection cost, beside the floor server and what users would pick instead: `just bench [ROW…]`, `--help` lists all.
bench *ARGS:
    cargo build --release --package griot-bench --package subscriber-bridge --package publisher --package invalidation-worker --bins
    target/release/bench "$@"

# A flame graph of the bridge while a row runs, into target/bench/ROW.svg: `just profile connect 15000`.
profile ROW SIZE="5000":
    RUSTFLAGS="-C force-frame-pointers=yes" cargo build --target-dir target/profile --release --package griot-bench --package subscriber-bridge --package publisher --package invalidation-worker --bins
    mkdir -p target/bench
    perf record --quiet --event cpu-clock --freq 999 --call-graph fp --all-cpus --output target/bench/perf.data -- target/profile/release/bench "$1" --sizes "$2" --subjects griot --rounds 1 --out target/profile/bench
    perf script --input target/bench/perf.data --cpu $(($(nproc) - 1)) --comms tokio-rt-worker,subscriber-brid | target/tools/bin/inferno-collapse-perf | target/tools/bin/inferno-flamegraph --title "subscriber-bridge: $1, $2 connections" > "target/bench/$1.svg"
    @echo "the flame graph is target/bench/$1.svg"

# What `just bench` compares with beyond the floor: the Node recipe and socket.io, into bench/baselines/node; `./dev bench-setup` installs nchan too.
bench-setup:
    npm --prefix bench/baselines/node ci --no-audit --no-fund

# What so many users need, from what was measured: `just calculator --users 100000000 --explain`.
calculator *ARGS:
    cargo run --quiet --package griot-bench --bin calculator -- "$@"

# RFC 6455: Autobahn's fuzzing client against our frames and handshake, where there is a `wstest` (Python 2.7).
autobahn WSTEST="wstest": build
    cargo run --quiet --bin autobahn -- "$1"

# Everything that CI runs.
test: lint build official-clients
    cargo test --workspace --doc
    cargo test --workspace --lib --bins --tests
    @{{ just_executable() }} node
    @{{ just_executable() }} python
    @{{ just_executable() }} browser

# Formatting, lints, licences, who may name which library, documentation.
lint:
    cargo fmt --all --check
    cargo clippy --workspace --all-targets -- -D warnings
    cargo deny --log-level error check bans licenses sources
    RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps

# Format the code.
fmt:
    cargo fmt --all

# The binaries that the demo and the tests start.
[private]
build:
    cargo build --workspace --bins

# The pages, into web/dist.
[private]
web:
    @test web/node_modules/.package-lock.json -nt web/package-lock.json || npm --prefix web ci --no-audit --no-fund
    npm --prefix web run build

# The storefront in a real browser, as two users.
[private]
browser: build web
    @test tests/browser/node_modules/.package-lock.json -nt tests/browser/package-lock.json || npm --prefix tests/browser ci --no-audit --no-fund
    npm --prefix tests/browser test

# What the guides and the compose file say, done.
[private]
node: build official-clients
    npm --prefix tests/node test

# The official JavaScript client and ioredis, into tests/node.
[private]
official-clients:
    @test tests/node/node_modules/.package-lock.json -nt tests/node/package-lock.json || npm --prefix tests/node ci --no-audit --no-fund

# The official Python client and pycent, against bridges and a publisher.
python: build
    @test target/python/.requirements -nt tests/python/requirements.txt || (python3 -m venv target/python && target/python/bin/pip install --quiet --requirement tests/python/requirements.txt && touch target/python/.requirements)
    cd tests/python && ../../target/python/bin/python -m unittest --verbose
