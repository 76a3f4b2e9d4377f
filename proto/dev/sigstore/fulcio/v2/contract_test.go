package fulciov2_test

import (
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protodesc"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/descriptorpb"

	fulciov2 "github.com/mayfly-ca/mayfly/proto/dev/sigstore/fulcio/v2"
)

// contract is the schema as deployed clients know it: message, then number,
// name, JSON name, cardinality, type and oneof of each field.
var contract = map[string][]string{
	"CreateSigningCertificateRequest": {
		"1 credentials credentials optional message Credentials -",
		"2 public_key_request publicKeyRequest optional message PublicKeyRequest key",
		"3 certificate_signing_request certificateSigningRequest optional bytes - key",
	},
	"Credentials":      {"1 oidc_identity_token oidcIdentityToken optional string - credentials"},
	"PublicKeyRequest": {"1 public_key publicKey optional message PublicKey -", "2 proof_of_possession proofOfPossession optional bytes - -"},
	"PublicKey":        {"1 algorithm algorithm optional enum PublicKeyAlgorithm -", "2 content content optional string - -"},
	"SigningCertificate": {
		"1 signed_certificate_detached_sct signedCertificateDetachedSct optional message SigningCertificateDetachedSCT certificate",
		"2 signed_certificate_embedded_sct signedCertificateEmbeddedSct optional message SigningCertificateEmbeddedSCT certificate",
	},
	"SigningCertificateDetachedSCT": {
		"1 chain chain optional message CertificateChain -",
		"2 signed_certificate_timestamp signedCertificateTimestamp optional bytes - -",
	},
	"SigningCertificateEmbeddedSCT": {"1 chain chain optional message CertificateChain -"},
	"GetTrustBundleRequest":         nil,
	"TrustBundle":                   {"1 chains chains repeated message CertificateChain -"},
	"CertificateChain":              {"1 certificates certificates repeated string - -"},
	"GetConfigurationRequest":       nil,
	"Configuration":                 {"1 issuers issuers repeated message OIDCIssuer -"},
	"OIDCIssuer": {
		"1 issuer_url issuerUrl optional string - issuer",
		"2 wildcard_issuer_url wildcardIssuerUrl optional string - issuer",
		"3 audience audience optional string - -",
		"4 challenge_claim challengeClaim optional string - -",
		"5 spiffe_trust_domain spiffeTrustDomain optional string - -",
		"6 issuer_type issuerType optional string - -",
		"7 subject_domain subjectDomain optional string - -",
		"8 skip_email_verification skipEmailVerification optional bool - -",
	},
}

func describe(f protoreflect.FieldDescriptor) string {
	kind, oneof := "-", "-"
	switch f.Kind() {
	case protoreflect.MessageKind:
		kind = string(f.Message().Name())
	case protoreflect.EnumKind:
		kind = string(f.Enum().Name())
	}
	if o := f.ContainingOneof(); o != nil {
		oneof = string(o.Name())
	}
	return fmt.Sprintf("%d %s %s %s %s %s %s", f.Number(), f.Name(), f.JSONName(), f.Cardinality(), f.Kind(), kind, oneof)
}

func TestSchemaIsTheContract(t *testing.T) {
	file := fulciov2.File_dev_sigstore_fulcio_v2_fulcio_proto
	if got, want := string(file.Package()), "dev.sigstore.fulcio.v2"; got != want {
		t.Errorf("package: got %q, want %q", got, want)
	}
	got := make(map[string][]string)
	for i := range file.Messages().Len() {
		m := file.Messages().Get(i)
		var fields []string
		for j := range m.Fields().Len() {
			fields = append(fields, describe(m.Fields().Get(j)))
		}
		got[string(m.Name())] = fields
	}
	names := append(slices.Collect(maps.Keys(got)), slices.Collect(maps.Keys(contract))...)
	slices.Sort(names)
	for _, name := range slices.Compact(names) {
		if _, ok := contract[name]; !ok {
			t.Errorf("message %s: not part of the contract", name)
		}
		if !slices.Equal(got[name], contract[name]) {
			t.Errorf("message %s:\n got  %q\n want %q", name, got[name], contract[name])
		}
	}
}

func TestMethodsAreTheContract(t *testing.T) {
	want := []string{
		"/dev.sigstore.fulcio.v2.CA/CreateSigningCertificate CreateSigningCertificateRequest SigningCertificate",
		"/dev.sigstore.fulcio.v2.CA/GetTrustBundle GetTrustBundleRequest TrustBundle",
		"/dev.sigstore.fulcio.v2.CA/GetConfiguration GetConfigurationRequest Configuration",
	}
	services := fulciov2.File_dev_sigstore_fulcio_v2_fulcio_proto.Services()
	var got []string
	for i := range services.Len() {
		s := services.Get(i)
		for j := range s.Methods().Len() {
			m := s.Methods().Get(j)
			got = append(got, fmt.Sprintf("/%s/%s %s %s", s.FullName(), m.Name(), m.Input().Name(), m.Output().Name()))
			if m.IsStreamingClient() || m.IsStreamingServer() {
				t.Errorf("method %s: streaming, want unary", m.Name())
			}
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("methods:\n got  %q\n want %q", got, want)
	}
}

func TestAlgorithmsAreTheContract(t *testing.T) {
	want := map[int32]string{0: "PUBLIC_KEY_ALGORITHM_UNSPECIFIED", 1: "RSA_PSS", 2: "ECDSA", 3: "ED25519"}
	if got := fulciov2.PublicKeyAlgorithm_name; !maps.Equal(got, want) {
		t.Errorf("enum: got %v, want %v", got, want)
	}
}

// The baseline guards the wire only as long as it is the contract itself, and
// not, say, an image of a schema that had already drifted.
func TestBaselineIsTheContract(t *testing.T) {
	raw, err := os.ReadFile(filepath.Join("..", "..", "..", "..", "baseline.binpb"))
	if err != nil {
		t.Fatal(err)
	}
	var image descriptorpb.FileDescriptorSet
	if err := proto.Unmarshal(raw, &image); err != nil {
		t.Fatal(err)
	}
	if len(image.File) != 1 {
		t.Fatalf("baseline: got %d files, want 1", len(image.File))
	}
	base := image.File[0]
	base.ProtoReflect().SetUnknown(nil) // what buf adds about the module
	ours := protodesc.ToFileDescriptorProto(fulciov2.File_dev_sigstore_fulcio_v2_fulcio_proto)
	for _, m := range append(base.MessageType, ours.MessageType...) {
		for _, f := range m.Field {
			f.JsonName = nil // compared in TestSchemaIsTheContract
		}
	}
	if !proto.Equal(base, ours) {
		t.Errorf("baseline and generated schema differ:\n baseline %v\n ours     %v", base, ours)
	}
}
