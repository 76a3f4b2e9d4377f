package e2e

import (
	"crypto/x509"
	"encoding/base64"
	"path/filepath"
	"testing"
)

// cosign3 is cosign v3: bundles, the signing configuration, the second API.
func cosign3() bundleClient {
	return bundleClient{
		name: "cosign-v3",
		sign: func(t *testing.T, w *world, blob, bundle string) {
			t.Helper()
			w.client3().must(t, program(t, "E2E_COSIGN3"), "sign-blob", "--yes", "--identity-token", w.tokenFile(t),
				"--signing-config", w.save(t, "/trust/signing_config.json", "signing_config.json"),
				"--trusted-root", w.save(t, "/trust/trusted_root.json", "trusted_root.json"),
				"--bundle", bundle, blob)
		},
		verify: func(t *testing.T, w *world, blob, bundle, email, issuer string) error {
			t.Helper()
			_, err := w.client3().run(t, program(t, "E2E_COSIGN3"), "verify-blob",
				"--trusted-root", w.save(t, "/trust/trusted_root.json", "trusted_root.json"), "--bundle", bundle,
				"--use-signed-timestamps", "--insecure-ignore-tlog",
				"--certificate-identity", email, "--certificate-oidc-issuer", issuer, blob)
			return err
		},
		wrongIdentity: []string{"expected SAN value"},
		wrongIssuer:   []string{"expected issuer value"},
		tampered:      []string{"invalid signature"},
		noTimestamp:   []string{"timestamp"},
	}
}

func (w *world) client3() command { return command{dir: w.dir, env: w.offline()} }

// classicSigning is what cosign v2 writes without bundles.
type classicSigning struct {
	certificate, signature, timestamp string
	leaf                              *x509.Certificate
}

// client2 is cosign v2, which has no trust file in its classic mode: roots and
// the log's key are given in variables.
func (w *world) client2(t testing.TB) command {
	t.Helper()
	return command{dir: w.dir, env: append(w.offline(),
		"SIGSTORE_ROOT_FILE="+w.save(t, "/api/v1/rootCert", "fulcio.pem"),
		"SIGSTORE_CT_LOG_PUBLIC_KEY_FILE="+w.logKey)}
}

// signClassic signs through the first API. cosign v2 checks the SCT of the
// certificate before it goes on.
func signClassic(t *testing.T, w *world, blob string) classicSigning {
	t.Helper()
	s := classicSigning{
		certificate: filepath.Join(w.dir, "classic.crt"), signature: filepath.Join(w.dir, "classic.sig"),
		timestamp: filepath.Join(w.dir, "classic.tsr"),
	}
	w.client2(t).must(t, program(t, "E2E_COSIGN2"), "sign-blob", "--yes", "--identity-token", w.tokenFile(t),
		"--fulcio-url", w.url, "--tlog-upload=false", "--timestamp-server-url", w.tsaURL,
		"--rfc3161-timestamp", s.timestamp, "--output-certificate", s.certificate, "--output-signature", s.signature, blob)
	// cosign v2 writes the certificate as base64 of PEM.
	text, err := base64.StdEncoding.DecodeString(string(readFile(t, s.certificate)))
	if err != nil {
		text = readFile(t, s.certificate)
	}
	if s.leaf, err = parsePEM(text); err != nil {
		t.Fatal(err)
	}
	return s
}

func verifyClassic(t *testing.T, w *world, s classicSigning, blob string) {
	t.Helper()
	verify := func(file, email string, stamp bool) error {
		args := []string{"verify-blob", "--certificate", s.certificate, "--signature", s.signature,
			"--insecure-ignore-tlog", "--certificate-identity", email, "--certificate-oidc-issuer", w.issuer.url}
		if stamp {
			args = append(args, "--use-signed-timestamps", "--rfc3161-timestamp", s.timestamp, "--timestamp-certificate-chain", w.pki.file(tsaChainFile))
		}
		_, err := w.client2(t).run(t, program(t, "E2E_COSIGN2"), append(args, file)...)
		return err
	}
	if err := verify(blob, alice, true); err != nil {
		t.Errorf("verifying after the certificate has expired: %v", err)
	}
	changed := writeFile(t, filepath.Join(t.TempDir(), "changed"), "what is released!\n")
	refuses(t, "another identity", []string{"none of the expected identities matched"}, verify(blob, mallory, true))
	refuses(t, "a changed file", []string{"invalid signature"}, verify(changed, alice, true))
	refuses(t, "an expired certificate without a timestamp", []string{"expired"}, verify(blob, alice, false))
}
