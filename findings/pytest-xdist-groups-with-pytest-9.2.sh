#!/usr/bin/env bash
# pytest-xdist 3.8.0 (newest) with pytest 9.2.0, CPython 3.11. `--dist=loadgroup` keeps the tests of one
# @pytest.mark.xdist_group on one worker: with pytest 8.4.2 it does. With 9.2.0, which pytest-xdist's own bounds allow,
# the marks do nothing, and nothing is said: the tests are spread over all workers. (It appends the group to an
# attribute of each test that this pytest does not read any more.) Tests that must not run at the same time (a port, a
# device, two sets of collectives on the same cores) then do.
# Seen: pytest 8.4.2: workers of the group: gw0 (or gw1). pytest 9.2.0: workers of the group: gw0 gw1.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cat >"$folder/test_group.py" <<'end'
import time

import pytest


@pytest.mark.xdist_group("one")
@pytest.mark.parametrize("number", range(12))
def test_it(number):
    time.sleep(0.2)
end
cd "$folder"
for version in 8.4.2 9.2.0; do
  python3.11 -m venv "venv-$version"
  "venv-$version/bin/pip" install --quiet --disable-pip-version-check "pytest==$version" pytest-xdist==3.8.0
  timeout 120 "venv-$version/bin/python" -m pytest -p no:cacheprovider -v -n 2 --dist=loadgroup test_group.py >log
  grep -q "12 passed" log
  found=$(grep -oE '^\[gw[01]\]' log | tr -d '[]' | sort -u | paste -sd' ')
  echo "pytest $version: workers of the group: $found"
  case "$version $found" in
    "8.4.2 gw0" | "8.4.2 gw1" | "9.2.0 gw0 gw1") ;;
    *) echo "this has changed"; exit 1 ;;
  esac
done
