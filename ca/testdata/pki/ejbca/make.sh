#!/bin/sh
# Imitates what EJBCA makes of ../ca.csr with its fixed SUBCA certificate
# profile, extension by extension; see ../README.md. No EJBCA was asked.
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
default_md = sha256
policy = any
copy_extensions = none
unique_subject = no
[any]
countryName = optional
organizationName = optional
commonName = supplied
[root]
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
authorityKeyIdentifier = keyid:always
keyUsage = critical, digitalSignature, keyCertSign, cRLSign
[subca]
basicConstraints = critical, CA:TRUE
authorityKeyIdentifier = keyid:always
authorityInfoAccess = caIssuers;URI:http://ejbca.corp.example/ejbca/publicweb/certificates/search.cgi?sKIDHash=abc, OCSP;URI:http://ejbca.corp.example/ejbca/publicweb/status/ocsp
crlDistributionPoints = URI:http://ejbca.corp.example/ejbca/publicweb/crls/search.cgi?iHash=abc
subjectKeyIdentifier = hash
keyUsage = critical, digitalSignature, keyCertSign, cRLSign
EOF
: > index.txt
openssl req -new -newkey rsa:4096 -nodes -keyout root.key -out root.csr -subj "/C=DE/O=Example Corp/CN=ManagementRootCA" 2>/dev/null
openssl ca -batch -notext -config ca.cnf -selfsign -keyfile root.key -in root.csr -extensions root -startdate 20260101000000Z -enddate 20460101000000Z -out root.pem 2>/dev/null
openssl ca -batch -notext -config ca.cnf -cert root.pem -keyfile root.key -in "$here/../ca.csr" -extensions subca -startdate 20260101000000Z -enddate 20360101000000Z -out issued.pem 2>/dev/null
# RA Web's "Download PEM full chain" puts a line of text before each certificate.
{ echo "Subject: C=DE,O=Example Corp,CN=Mayfly Issuing CA 1"; cat issued.pem; echo "Subject: C=DE,O=Example Corp,CN=ManagementRootCA"; cat root.pem; } > "$here/fullchain.pem"
cat issued.pem root.pem > "$here/chain.pem"
