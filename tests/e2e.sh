#!/usr/bin/env bash
# Records a real Cosmos SDK node afresh, delivers the recording through five processes with
# kill -9 on the way, and verifies what arrives. Needs Go.
set -euo pipefail
cd "$(dirname "$0")/.."
if ! command -v go >/dev/null; then
  echo "e2e: skipped: Go is not installed" >&2
  exit 0
fi
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
(cd tests/cosmos-node && go test ./... && go run . record --out "$work/recording" --blocks 240 --seed 2)
(cd tests/cosmos-node && go run . inspect "$work/recording")
cargo build --release --locked -p sluice
"${CARGO_TARGET_DIR:-target}/release/sluice" demo --recording "$work/recording" --dir "$work/demo"
