#!/usr/bin/env bash
# What costs too much for every change: end-to-end tests whose other side takes
# long to build. `make e2e-full` calls it; CI does not.
#
#   e2e/full/run.sh [go test flags]      such as: e2e/full/run.sh -run '^TestCTFE' -v
#
# It prepares the other sides; e2e/run.sh, whose variables count here too,
# prepares the clients and runs the tests.
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
cache=$PWD/.cache
mkdir -p "$cache/bin"

stage() { printf '\n[%4d s] %s\n' "$SECONDS" "$*"; }

# shellcheck source=kubernetes/install.sh
source full/kubernetes/install.sh

# shellcheck source=ctfe/install.sh
source full/ctfe/install.sh

./run.sh -tags full -run '^Test(Kubernetes|CTFE)' "$@"

if [ -e "$E2E_RATES_TABLE" ]; then
  stage "how fast the logs are on this machine"
  cat "$E2E_RATES_TABLE"
fi
