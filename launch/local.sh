#!/usr/bin/env bash
# skald on this machine: makes .venv where it is not there, then runs `skald ARGS…` in it. `test` runs the tests,
# `test ARGS…` those that pytest takes ARGS for.
#   bash launch/local.sh train shakespeare
# SKALD_EXTRA=cpu|cuda|tpu overrules what is detected; SKALD_PYTHON names the interpreter to build on.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
venv=$here/.venv
say() { echo "skald: $*" >&2; }

accelerator() {
  if [ -e /dev/accel0 ] || [ -e /dev/vfio/0 ] || [ -n "${TPU_NAME:-}" ]; then echo tpu
  elif [ -e /dev/nvidia0 ] || nvidia-smi -L >/dev/null 2>&1; then echo cuda
  else echo cpu; fi
}

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null; }

python() {  # the first supported interpreter
  local name
  for name in ${SKALD_PYTHON:-python3 python3.13 python3.12 python3.11 python}; do
    if command -v "$name" >/dev/null && supported "$name"; then command -v "$name"; return; fi
  done
  say "needs Python 3.11, 3.12 or 3.13 and found none; install one, or name it: SKALD_PYTHON=/path/to/python"
  return 1
}

uv_command() {  # uv, or one fetched with pip
  if command -v uv >/dev/null; then command -v uv; return; fi
  local own=$here/.venv-uv
  [ -x "$own/bin/uv" ] || "$1" -m pip install -qq --disable-pip-version-check --root-user-action ignore --target "$own" uv >&2
  echo "$own/bin/uv"
}

build() {  # $1: interpreter, $2: extras
  local uv
  say "setting up .venv with $("$1" --version) for $2 (once; a minute or a few)"
  uv=$(uv_command "$1")
  "$venv/bin/python" -c '' 2>/dev/null || "$uv" venv --quiet --clear --python "$1" "$venv"
  # Compiled here, once: a machine that writes no bytecode (PYTHONDONTWRITEBYTECODE) would compile JAX at every start.
  "$uv" pip install --quiet --compile-bytecode --python "$venv/bin/python" --constraints "$here/requirements.lock" \
    --editable "${here}[$2]"
}

recipe() {  # $1: extras; what .venv is built from
  echo "$1 $(cat "$here/pyproject.toml" "$here/requirements.lock" | cksum)"
}

built() { [ "$(cat "$venv/skald-built" 2>/dev/null)" = "$(recipe "$1")" ]; }

ready() {  # $1: extras; one process builds, others wait for it
  if built "$1"; then return; fi
  local interpreter
  interpreter=$(python)
  exec 9>"$here/.venv.lock"
  "$interpreter" -c 'import fcntl; fcntl.flock(9, fcntl.LOCK_EX)'  # held by this shell's descriptor; macOS has no flock
  if ! built "$1"; then
    build "$interpreter" "$1"
    recipe "$1" >"$venv/skald-built"
  fi
  exec 9>&-
}

extras=${SKALD_EXTRA:-$(accelerator)}
had=$(cut -d' ' -f1 "$venv/skald-built" 2>/dev/null || true)
case "${1:-} $had" in  # what the tests need, or plans for TPUs, stays once it is there
  test\ * | *dev*) extras=$extras,dev ;;
  plan\ * | *plan*) extras=$extras,plan ;;
esac
ready "$extras"
if [ "${1:-}" = test ]; then
  shift
  cd "$here"
  if [ $# = 0 ]; then exec "$venv/bin/python" tests/suite.py; fi
  exec "$venv/bin/python" -m pytest "$@"
fi
exec "$venv/bin/skald" "$@"
