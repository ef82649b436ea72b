#!/bin/sh
# Install what the test of the page needs: Playwright into the environment of PYTHON ($1), and Debian's chromium where this
# is root on Debian. Where something cannot be had, the test is skipped and says so; hence it always succeeds.
python=$1
"$python" -c 'import playwright' 2>/dev/null ||
  timeout 60 "$python" -m pip install --quiet --constraint constraints.txt playwright
if ! command -v chromium >/dev/null && ! command -v chromium-headless-shell >/dev/null &&
  [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  # only the downloads may take too long: an installation that is cut off would leave packages half configured
  timeout 90 sh -c 'apt-get -qq update && apt-get -qq install --no-install-recommends --download-only \
    chromium-headless-shell' >/dev/null &&
    DEBIAN_FRONTEND=noninteractive apt-get -qq install --no-install-recommends chromium-headless-shell >/dev/null
fi
exit 0
