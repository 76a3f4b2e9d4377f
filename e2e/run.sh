#!/usr/bin/env bash
# Real clients against the real service. Builds Mayfly and the pinned clients,
# then runs the tests of this module; `make e2e` calls it.
#
#   ./run.sh [go test flags]      such as: ./run.sh -run Crash -v
#
# With a real Active Directory, which needs root and the ports of a directory:
#
#   E2E_DIRECTORY=1 ./run.sh -tags directory -run ActiveDirectory
#
# E2E_COSIGN3, E2E_COSIGN2 and E2E_TIMESTAMP_SERVER may name programs of the
# pinned versions that are already built. MAYFLY_E2E_CRASH_ROUNDS (5) is how
# often the crash test kills the service.
set -euo pipefail
cd "$(dirname "$0")"

COSIGN3=github.com/sigstore/cosign/v3/cmd/cosign@v3.1.3
COSIGN2=github.com/sigstore/cosign/v2/cmd/cosign@v2.6.5
TIMESTAMP_SERVER=github.com/sigstore/timestamp-authority/v2/cmd/timestamp-server@v2.1.3

go=${GO:-go}
cache=$PWD/.cache
mkdir -p "$cache/bin" "$cache/npm"

stage() { printf '\n[%4d s] %s\n' "$SECONDS" "$*"; }

# need COMMAND PACKAGE...: finds the command, installs the Debian packages, or
# says in one line how to.
need() {
  local command=$1
  shift
  command -v "$command" >/dev/null && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    stage "installing $*"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
    command -v "$command" >/dev/null && return
  fi
  echo "$command is needed. Run:  sudo apt-get install -y --no-install-recommends $*" >&2
  exit 1
}

# client VARIABLE NAME PACKAGE@VERSION: builds a client once, outside of every
# module, so that its own dependencies and flags count. The version is in the
# file name, so that a new pin builds anew.
client() {
  local variable=$1 file=$cache/bin/$2-${3##*@} package=$3 dir
  if [ -n "${!variable:-}" ]; then
    echo "using $variable=${!variable}"
    export "${variable?}"
    return
  fi
  if [ ! -x "$file" ]; then
    stage "building $package (minutes, the first time)"
    dir=$(mktemp -d "$cache/install-XXXXXX")
    (cd "$dir" && GOFLAGS='' GOWORK=off GOBIN=$dir "$go" install "$package")
    mv "$(find "$dir" -maxdepth 1 -type f -perm -u+x)" "$file"
    rm -rf "$dir"
  fi
  export "$variable=$file"
}

stage "looking for openssl, curl and node"
need openssl openssl
need curl curl
need node nodejs npm
need npm npm
if [ "$(node -p 'process.versions.node.split(".")[0] >= 20')" != true ]; then
  echo "Node 20 or newer is needed (this is $(node --version)): see https://nodejs.org" >&2
  exit 1
fi

stage "looking for what validates certificates beside openssl"
need certtool gnutls-bin
need vfychain libnss3-tools
# The validator in Java is one source file, which only a JDK runs.
need javac openjdk-17-jdk-headless

stage "looking for go, a C compiler and SoftHSM"
../.ci/prerequisites softhsm2

stage "building mayfly"
(cd .. && "$go" build -o bin/mayfly ./cmd/mayfly)
E2E_MAYFLY=$(cd ../bin && pwd)/mayfly
export E2E_MAYFLY

client E2E_COSIGN3 cosign3 "$COSIGN3"
client E2E_COSIGN2 cosign2 "$COSIGN2"
client E2E_TIMESTAMP_SERVER timestamp-server "$TIMESTAMP_SERVER"

export E2E_NPM=$cache/npm
cp npm/client.mjs npm/package.json npm/.npmrc "$E2E_NPM/"
if ! cmp -s npm/package-lock.json "$E2E_NPM/installed.json"; then
  stage "installing npm's sigstore"
  cp npm/package-lock.json "$E2E_NPM/"
  (cd "$E2E_NPM" && npm ci --loglevel=error)
  # What was installed in full; an interrupted npm ci is run again.
  cp npm/package-lock.json "$E2E_NPM/installed.json"
fi

# shellcheck source=keycloak/install.sh
source keycloak/install.sh

stage "compiling the tests"
"$go" vet .

stage "running the tests"
"$go" test -race -count=1 -timeout=14m "$@" ./...

# Only in a whole run: flags are for picking tests.
if [ $# = 0 ]; then
  mkdir -p "$cache/path"
  ln -sf "$E2E_COSIGN3" "$cache/path/cosign"
  for guide in docs/getting-started.md docs/hsm.md; do
    stage "pasting $guide"
    PATH="$cache/path:$PATH" ../.ci/guide "$guide"
  done
fi

stage "done"
