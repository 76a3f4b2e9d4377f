#!/usr/bin/env bash
# What costs too much for every change: end-to-end tests whose other side takes
# long to build. `make e2e-full` calls it; CI does not.
#
#   e2e/full/run.sh [go test flags]      such as: e2e/full/run.sh -v
#
# The variables that e2e/run.sh knows count here too.
set -euo pipefail
cd "$(dirname "$0")/.."

go=${GO:-go}
cache=$PWD/.cache
mkdir -p "$cache"

stage() { printf '\n[%4d s] %s\n' "$SECONDS" "$*"; }

stage "looking for go and a C compiler"
../.ci/prerequisites

stage "building mayfly"
(cd .. && "$go" build -o bin/mayfly ./cmd/mayfly)
E2E_MAYFLY=$(cd ../bin && pwd)/mayfly
export E2E_MAYFLY

# shellcheck source=kubernetes/install.sh
source full/kubernetes/install.sh

# shellcheck source=ctfe/install.sh
source full/ctfe/install.sh

stage "compiling the tests"
"$go" vet -tags full .

stage "running the tests with Kubernetes"
"$go" test -race -count=1 -timeout=5m -tags full -run '^TestKubernetes' "$@" .

# These need the clients, which the other script prepares.
stage "running the tests with CTFE"
./run.sh -tags full -run '^TestCTFE' "$@"

stage "done"
