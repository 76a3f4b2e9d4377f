#!/bin/sh
# Imitates what AD CS makes of ../ca.csr with its SubCA template, extension by
# extension; see ../README.md for what each is taken from. No Windows was asked.
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
domainComponent = optional
countryName = optional
organizationName = optional
commonName = supplied
[root]
keyUsage = digitalSignature, keyCertSign, cRLSign
basicConstraints = critical, CA:TRUE
subjectKeyIdentifier = hash
# CAVersion: certificate index 0, key index 0
1.3.6.1.4.1.311.21.1 = ASN1:INTEGER:0
[subca]
subjectKeyIdentifier = hash
# the name of a version 1 template
1.3.6.1.4.1.311.20.2 = ASN1:BMPSTRING:SubCA
keyUsage = digitalSignature, keyCertSign, cRLSign
basicConstraints = critical, CA:TRUE
authorityKeyIdentifier = keyid:always
crlDistributionPoints = cdp
authorityInfoAccess = @aia
[cdp]
fullname = @cdp_names
[cdp_names]
URI.1 = ldap:///CN=Corp-Root-CA,CN=PKI1,CN=CDP,CN=Public%20Key%20Services,CN=Services,CN=Configuration,DC=corp,DC=example?certificateRevocationList?base?objectClass=cRLDistributionPoint
URI.2 = http://pki.corp.example/CertEnroll/Corp-Root-CA.crl
[aia]
caIssuers;URI.1 = ldap:///CN=Corp-Root-CA,CN=AIA,CN=Public%20Key%20Services,CN=Services,CN=Configuration,DC=corp,DC=example?cACertificate?base?objectClass=certificationAuthority
caIssuers;URI.2 = http://pki.corp.example/CertEnroll/PKI1.corp.example_Corp-Root-CA.crt
EOF
: > index.txt
openssl req -new -newkey rsa:4096 -nodes -keyout root.key -out root.csr -subj "/DC=example/DC=corp/CN=Corp-Root-CA" 2>/dev/null
openssl ca -batch -notext -preserveDN -config ca.cnf -selfsign -keyfile root.key -in root.csr -extensions root -startdate 20260101000000Z -enddate 20460101000000Z -out root.pem 2>/dev/null
openssl ca -batch -notext -preserveDN -config ca.cnf -cert root.pem -keyfile root.key -in "$here/../ca.csr" -extensions subca -startdate 20260101000000Z -enddate 20360101000000Z -out issued.pem 2>/dev/null
cat issued.pem root.pem > "$here/chain.pem"
openssl x509 -in issued.pem -outform DER -out "$here/issued.cer"
# certsrv's "Download certificate chain": root first
cat root.pem issued.pem > both.pem
openssl crl2pkcs7 -nocrl -certfile both.pem -outform DER -out "$here/certnew.p7b"
