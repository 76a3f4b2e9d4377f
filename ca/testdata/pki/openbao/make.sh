#!/bin/sh
# Has OpenBao's PKI engine sign ../ca.csr. Give a checkout of OpenBao at commit
# df6ce2ceba (August 2026); its go.mod may need a lower go line for the Go that is
# at hand. The parameters are those of docs/pki/openbao.md.
set -eu
tree=$1
here=$(cd "$(dirname "$0")" && pwd)
mkdir -p "$tree/internal/builtin/logical/pki/cmd/mayfly"
cp "$here/make.go" "$tree/internal/builtin/logical/pki/cmd/mayfly/main.go"
cd "$tree"
go run ./internal/builtin/logical/pki/cmd/mayfly "$here/../ca.csr" "$here/chain.pem"
