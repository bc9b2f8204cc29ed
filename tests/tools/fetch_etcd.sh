#!/usr/bin/env bash
# Put an etcd into the folder given: Debian's package, unpacked there and not installed, so that no service is started
# and no privilege needed. Always succeeds: what is in the way is said, and left in FOLDER/missing for the tests to show.
set -uo pipefail
folder=$(realpath -m "${1:?usage: fetch_etcd.sh FOLDER}")

missing() {
  mkdir -p "$folder"
  echo "$1" | tee "$folder/missing" >&2
  exit 0
}

rm -rf "$folder"
command -v etcd >/dev/null && exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
  missing "no etcd: none is on PATH, and there is no apt-get to fetch Debian's etcd-server with; install etcd 3.4 or newer"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
quick=(-o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20)
fetch() { (cd "$work" && timeout 300 apt-get "${quick[@]}" download --quiet etcd-server >"$work/log" 2>&1); }

if ! fetch; then
  # The package lists are missing or old. Only root may renew them.
  [ "$(id -u)" = 0 ] && timeout 300 apt-get "${quick[@]}" update --quiet >"$work/log" 2>&1
  fetch || missing "no etcd: apt-get download etcd-server failed ($(tail -n 1 "$work/log")); install etcd 3.4 or newer"
fi
mkdir -p "$folder"
dpkg-deb --extract "$work"/etcd-server_*.deb "$folder" && "$folder/usr/bin/etcd" --version >/dev/null ||
  missing "no etcd: Debian's etcd-server does not run here; install etcd 3.4 or newer"
