// Command make has the PKI secrets engine of OpenBao sign ca.csr. It is built
// inside OpenBao's own tree, since the engine is an internal package; see make.sh.
package main

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/hashicorp/go-hclog"

	"github.com/openbao/openbao/sdk/v2/logical"

	"github.com/openbao/openbao/v2/internal/builtin/logical/pki"
)

func main() {
	if err := run(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(csrFile, chainFile string) error {
	csr, err := os.ReadFile(csrFile)
	if err != nil {
		return err
	}
	ctx, storage := context.Background(), &logical.InmemStorage{}
	config := &logical.BackendConfig{
		StorageView: storage, Logger: hclog.NewNullLogger(), BackendUUID: "mayfly",
		System: &logical.StaticSystemView{DefaultLeaseTTLVal: 24 * time.Hour, MaxLeaseTTLVal: 262800 * time.Hour},
	}
	backend, err := pki.Factory(ctx, config)
	if err != nil {
		return err
	}
	if err := backend.Initialize(ctx, &logical.InitializationRequest{Storage: storage}); err != nil {
		return err
	}
	write := func(path string, data map[string]any) (map[string]any, error) {
		r, err := backend.HandleRequest(ctx, &logical.Request{
			Operation: logical.UpdateOperation, Path: path, Data: data, Storage: storage, MountPoint: "pki/",
		})
		if err != nil {
			return nil, fmt.Errorf("%s: %w: %v", path, err, r)
		}
		if r.IsError() {
			return nil, fmt.Errorf("%s: %w", path, r.Error())
		}
		return r.Data, nil
	}
	root, err := write("root/generate/internal", map[string]any{
		"common_name": "Example Corp Root CA", "organization": "Example Corp", "key_type": "ec", "key_bits": 384,
		"not_after": "2046-01-01T00:00:00Z", "exclude_cn_from_sans": true,
	})
	if err != nil {
		return err
	}
	signed, err := write("root/sign-intermediate", map[string]any{
		"csr": string(csr), "use_csr_values": true, "max_path_length": 0, "not_after": "2036-01-01T00:00:00Z",
	})
	if err != nil {
		return err
	}
	return os.WriteFile(chainFile, []byte(fmt.Sprintf("%s\n%s\n", signed["certificate"], root["certificate"])), 0o644)
}
