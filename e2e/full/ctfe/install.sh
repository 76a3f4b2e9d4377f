# Sourced by full/run.sh, whose stage and cache it uses. Builds Trillian and
# CTFE at their pinned versions, and finds or installs PostgreSQL.
# shellcheck shell=bash

CTFE=github.com/google/certificate-transparency-go/trillian/ctfe/ct_server@v1.4.0
TRILLIAN=v1.8.0

# ctfe_programs DIRECTORY: three minutes on two cores from a cold cache. The
# directory is renamed into place when it is whole. Each program is built outside
# of every module, so that its own dependencies and flags count.
ctfe_programs() {
  local dir=$1 part module
  if [ ! -d "$dir" ]; then
    stage "building CTFE ${CTFE##*@} and Trillian $TRILLIAN (three minutes, the first time)"
    part=$(mktemp -d "$cache/ctfe-XXXXXX")
    (
      cd "$part"
      export GOFLAGS='' GOWORK=off GOBIN=$part
      nice -n 5 "$go" install "$CTFE"
      nice -n 5 "$go" install github.com/google/trillian/cmd/{trillian_log_server,trillian_log_signer,createtree}@"$TRILLIAN"
    )
    module=$(cd "$part" && GOFLAGS='' GOWORK=off "$go" mod download -json "github.com/google/trillian@$TRILLIAN" |
      sed -n 's/^\t"Dir": "\(.*\)",*$/\1/p')
    cp "$module/storage/postgresql/schema/storage.sql" "$part/"
    chmod 755 "$part"
    mv "$part" "$dir"
  fi
  export E2E_CTFE=$dir
}

# postgresql_programs: the newest PostgreSQL of Debian. The tests make a cluster
# of their own in a temporary directory and leave any other alone.
postgresql_programs() {
  newest_postgresql && return
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    stage "installing postgresql"
    DEBIAN_FRONTEND=noninteractive apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql >/dev/null
    newest_postgresql && return
  fi
  echo "PostgreSQL is needed. Run:  sudo apt-get install -y --no-install-recommends postgresql" >&2
  exit 1
}

newest_postgresql() {
  local initdb
  initdb=$(find /usr/lib/postgresql -path '*/bin/initdb' 2>/dev/null | sort -V | tail -1)
  [ -n "$initdb" ] && export E2E_POSTGRESQL=${initdb%/initdb}
}

# The program that measures is ours, so it is built anew. It works on copies of
# its go.mod and go.sum, because the product's may have gone ahead meanwhile.
rates_program() {
  stage "building rates"
  cp full/ctfe/rates/go.mod "$cache/rates.mod"
  cp full/ctfe/rates/go.sum "$cache/rates.sum"
  (cd full/ctfe/rates && "$go" build -mod=mod -modfile="$cache/rates.mod" -o "$cache/bin/rates" .)
  export E2E_RATES=$cache/bin/rates E2E_RATES_TABLE=$cache/rates.txt
  rm -f "$E2E_RATES_TABLE"
}

ctfe_programs "$cache/ctfe-${CTFE##*@}-trillian-$TRILLIAN"
postgresql_programs
rates_program
