# Sourced by full/run.sh, whose stage and cache it uses. Builds a real etcd and
# kube-apiserver through the module beside it, which pins both and, in go.sum,
# every line that goes into them.
# shellcheck shell=bash

KUBERNETES=v1.36.3

# kubernetes_programs DIRECTORY: ten minutes on two cores from a cold cache. The
# directory is renamed into place when it is whole.
#
# go install refuses k8s.io/kubernetes, whose go.mod has replacements; as tools
# of a module of ours they build. Without its version, clients refuse the server.
kubernetes_programs() {
  local dir=$1 part
  if [ ! -d "$dir" ]; then
    stage "building etcd and kube-apiserver $KUBERNETES (ten minutes, the first time)"
    part=$(mktemp -d "$cache/kubernetes-XXXXXX")
    (cd full/kubernetes && GOFLAGS=-mod=readonly GOWORK=off CGO_ENABLED=0 nice -n 5 "$go" build -trimpath -o "$part/" \
      -ldflags "-s -w -X k8s.io/component-base/version.gitVersion=$KUBERNETES" \
      go.etcd.io/etcd/server/v3 k8s.io/kubernetes/cmd/kube-apiserver)
    mv "$part/server" "$part/etcd"
    mv "$part" "$dir"
  fi
  export E2E_ETCD=$dir/etcd E2E_KUBE_APISERVER=$dir/kube-apiserver
}

kubernetes_programs "$cache/kubernetes-$KUBERNETES"
