# Sourced by run.sh, whose stage, need and cache it uses. Gets a real Keycloak
# from Maven Central with the ordinary client, makes it ready to start quickly,
# and gets the browser that logs in at it.
# shellcheck shell=bash

KEYCLOAK=26.7.0
KEYCLOAK_SHA256=f771df0aa1e4820f57d56f7d6d015beb6415487b43f8de7e5a6d48f8a7fe118a
MAVEN_COPY=org.apache.maven.plugins:maven-dependency-plugin:3.6.0:copy

# keycloak_dist VARIABLE: the distribution for a version in the cache, augmented
# for what the tests use. That takes half a minute, and each start less for it.
# It is renamed into place when it is whole.
keycloak_dist() {
  local variable=$1 home=$cache/keycloak-$KEYCLOAK archive part
  if [ ! -d "$home" ]; then
    archive=keycloak-quarkus-dist-$KEYCLOAK.tar.gz
    part=$(mktemp -d "$cache/keycloak-XXXXXX")
    stage "fetching Keycloak $KEYCLOAK (170 MB, the first time)"
    mvn -B -q "$MAVEN_COPY" "-Dartifact=org.keycloak:keycloak-quarkus-dist:$KEYCLOAK:tar.gz" "-DoutputDirectory=$part"
    (cd "$part" && echo "$KEYCLOAK_SHA256  $archive" | sha256sum --check --quiet && tar -xzf "$archive" && rm "$archive")
    stage "augmenting Keycloak"
    # Twice the heap of a start; nothing else runs at this time.
    JAVA_OPTS_KC_HEAP='-Xms64m -Xmx1g' "$part/keycloak-$KEYCLOAK/bin/kc.sh" build --db=dev-file --health-enabled=true >"$part/build.log" 2>&1 ||
      { cat "$part/build.log" >&2; return 1; }
    mv "$part/keycloak-$KEYCLOAK" "$home"
    rm -rf "$part"
  fi
  export "$variable=$home"
}

# keycloak_browser: Debian's Chromium and the library that drives it, which
# brings no browser of its own.
keycloak_browser() {
  need chromium chromium
  E2E_CHROMIUM=$(command -v chromium)
  export E2E_CHROMIUM E2E_BROWSER=$cache/browser
  mkdir -p "$E2E_BROWSER"
  cp keycloak/browser.mjs keycloak/package.json keycloak/.npmrc "$E2E_BROWSER/"
  if ! cmp -s keycloak/package-lock.json "$E2E_BROWSER/installed.json"; then
    stage "installing playwright-core"
    cp keycloak/package-lock.json "$E2E_BROWSER/"
    (cd "$E2E_BROWSER" && npm ci --loglevel=error)
    cp keycloak/package-lock.json "$E2E_BROWSER/installed.json"
  fi
}

# keycloak_directory: Samba as a domain controller. What Debian's packages would
# start by themselves is kept from it: the tests provision a domain of their own.
keycloak_directory() {
  local policy=/usr/sbin/policy-rc.d made='' rc=0
  command -v samba >/dev/null && command -v samba-tool >/dev/null && return
  if [ "$(id -u)" = 0 ] && [ ! -e "$policy" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$policy"
    chmod 755 "$policy"
    made=1
  fi
  (need samba samba-ad-dc samba-ad-provision samba-dsdb-modules samba-vfs-modules winbind) || rc=$?
  [ -z "$made" ] || rm -f "$policy"
  return "$rc"
}

stage "looking for Java, Maven and Chromium"
need java openjdk-17-jre-headless
need mvn maven
keycloak_dist E2E_KEYCLOAK
keycloak_browser
[ -z "${E2E_DIRECTORY:-}" ] || keycloak_directory
