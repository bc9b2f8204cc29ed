#!/usr/bin/env bash
# Put Prometheus and promtool into the folder given: Debian's package, unpacked there and not installed, so that no
# service is started and no privilege needed. Always succeeds: what is in the way is left in FOLDER/missing.
set -uo pipefail
folder=$(realpath -m "${1:?usage: fetch_prometheus.sh FOLDER}")

missing() {
  mkdir -p "$folder"
  echo "$1" | tee "$folder/missing" >&2
  exit 0
}

rm -rf "$folder"
command -v prometheus >/dev/null && command -v promtool >/dev/null && exit 0
command -v apt-get >/dev/null && command -v dpkg-deb >/dev/null ||
  missing "no Prometheus: none is on PATH, and there is no apt-get to fetch Debian's prometheus with; install 2.42 or newer"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
chmod 755 "$work"
quick=(-o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20)
fetch() { (cd "$work" && timeout 300 apt-get "${quick[@]}" download --quiet prometheus >"$work/log" 2>&1); }

if ! fetch; then
  # The package lists are missing or old. Only root may renew them.
  [ "$(id -u)" = 0 ] && timeout 300 apt-get "${quick[@]}" update --quiet >"$work/log" 2>&1
  fetch || missing "no Prometheus: apt-get download prometheus failed ($(tail -n 1 "$work/log")); install 2.42 or newer"
fi
mkdir -p "$folder"
dpkg-deb --extract "$work"/prometheus_*.deb "$folder" && "$folder/usr/bin/promtool" --version >/dev/null 2>&1 ||
  missing "no Prometheus: Debian's package does not run here; install 2.42 or newer"
