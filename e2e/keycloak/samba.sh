#!/bin/sh
# A real Active Directory domain controller: provisions a domain into DIR and
# serves it on loopback, over TLS alone. It runs in a mount namespace of its own
# (unshare --mount --uts), so that the machine's Samba is neither read nor written.
#
#   samba.sh DIR CERTIFICATE KEY ROOT PASSWORD
#
# There are two people in it, and a group that one of them is in. All have the
# administrator's password.
set -eu
dir=$1 certificate=$2 key=$3 root=$4 password=$5

hostname dc1
for own in /var/lib/samba /var/cache/samba /var/log/samba /run/samba /etc/samba; do
  mkdir -p "$own" "$dir$own"
  mount --bind "$dir$own" "$own"
done
mkdir -p /var/lib/samba/private/tls
cp "$certificate" /var/lib/samba/private/tls/dc.crt
cp "$root" /var/lib/samba/private/tls/root.crt
(umask 077 && cp "$key" /var/lib/samba/private/tls/dc.key)

samba-tool domain provision --realm=AD.EXAMPLE --domain=AD --host-name=dc1 --host-ip=127.0.0.1 \
  --server-role=dc --dns-backend=NONE --adminpass="$password" \
  --option='interfaces=lo' --option='bind interfaces only=yes' --option='server services=ldap' \
  --option="tls certfile=/var/lib/samba/private/tls/dc.crt" \
  --option="tls keyfile=/var/lib/samba/private/tls/dc.key" \
  --option="tls cafile=/var/lib/samba/private/tls/root.crt"
for user in carol dave; do
  samba-tool user create "$user" "$password" --mail-address="$user@ad.example" --given-name="$user" --surname=Directory
done
samba-tool group add code-signers
samba-tool group addmembers code-signers carol
exec samba --foreground --model=single --debug-stdout --no-process-group
