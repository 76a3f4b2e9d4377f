#!/bin/sh
# Signs ../ca.csr as docs/pki/openssl.md says, under a root whose key is thrown
# away. openssl ca, in place of x509 -req, sets the dates.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
work=$(mktemp -d)
cd "$work"
cat > ca.cnf <<'EOF'
[ca]
default_ca = organization
[organization]
new_certs_dir = .
database = index.txt
rand_serial = yes
default_md = sha384
policy = any
copy_extensions = none
unique_subject = no
[any]
countryName = optional
organizationName = optional
commonName = supplied
[root]
basicConstraints = critical, CA:TRUE
keyUsage = critical, keyCertSign, cRLSign
subjectKeyIdentifier = hash
[intermediate]
basicConstraints = critical, CA:TRUE, pathlen:0
keyUsage = critical, keyCertSign, cRLSign
extendedKeyUsage = codeSigning
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
EOF
: > index.txt
openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-384 -nodes -keyout root.key -out root.csr -subj "/C=DE/O=Example Corp/CN=Example Corp Root CA" 2>/dev/null
openssl ca -batch -notext -config ca.cnf -selfsign -keyfile root.key -in root.csr -extensions root -startdate 20260101000000Z -enddate 20460101000000Z -out root.pem 2>/dev/null
openssl ca -batch -notext -config ca.cnf -cert root.pem -keyfile root.key -in "$here/../ca.csr" -extensions intermediate -startdate 20260101000000Z -enddate 20360101000000Z -out issued.pem 2>/dev/null
cat issued.pem root.pem > "$here/chain.pem"
