#!/usr/bin/env bash
# Install Debian's Chromium for the tests of the dashboard. It has too many libraries to be unpacked by hand, so only
# root can do this. Always succeeds: what is in the way is left in FOLDER/missing for the tests to show.
set -uo pipefail
folder=$(realpath -m "${1:?usage: fetch_chromium.sh FOLDER}")

missing() {
  mkdir -p "$folder"
  echo "$1" | tee "$folder/missing" >&2
  exit 0
}

rm -rf "$folder"
for name in chromium chromium-browser google-chrome; do command -v "$name" >/dev/null && exit 0; done
[ "$(id -u)" = 0 ] && command -v apt-get >/dev/null ||
  missing "no Chromium: none is on PATH, and only root can install Debian's; install chromium"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
export DEBIAN_FRONTEND=noninteractive
quick=(-o Acquire::Retries=1 -o Acquire::http::Timeout=20 -o Acquire::https::Timeout=20)
install() { timeout 900 apt-get "${quick[@]}" install --yes --quiet --no-install-recommends chromium fonts-dejavu-core >"$log" 2>&1; }
if ! install; then
  timeout 300 apt-get "${quick[@]}" update --quiet >"$log" 2>&1
  install || missing "no Chromium: apt-get install chromium failed ($(tail -n 1 "$log")); install chromium"
fi
