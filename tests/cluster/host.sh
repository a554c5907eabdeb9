#!/usr/bin/env bash
# A host's first process, in namespaces of its own: hides the machine's files that a host must not
# share, runs sshd, and collects orphans. Its end is the host's.
#
#   host.sh NAME DIRECTORY SHARED VISIBLE...
#     DIRECTORY  holds this host's root/, tmp/ and etc/
#     SHARED     is /mnt/shared here and in all other hosts, as NFS would be
#     VISIBLE    directories that stay where they are, though they may be below /root or /tmp
set -euo pipefail
name=$1 own=$2 shared=$3
shift 3

hostname "$name"
for path in "$@"; do
  for hidden in /root /tmp; do
    case $path/ in
      "$hidden"/*)
        mkdir -p "$own$path"
        mount --bind "$path" "$own$path"
        ;;
    esac
  done
done
mount -t tmpfs -o size=1m tmpfs /mnt
mkdir /mnt/shared
mount --bind "$shared" /mnt/shared
mount --bind "$own/etc/hosts" /etc/hosts
mount --bind "$own/etc/resolv.conf" /etc/resolv.conf
mount -t tmpfs -o size=16m,mode=755 tmpfs /run
mkdir /run/sshd
mount -t tmpfs -o size=1g,mode=1777 tmpfs /dev/shm
mount --rbind "$own/root" /root
mount --rbind "$own/tmp" /tmp
cd /root
/usr/sbin/sshd -D -e -f /root/sshd/config 2>/root/sshd/log &
while :; do wait -n 2>/dev/null || sleep 1; done
