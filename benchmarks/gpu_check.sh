#!/usr/bin/env bash
# Everything that wants a GPU to be checked on: whether lanes are right there, what they bring, and
# a search from its space to the winner's replay. Runs all its parts; fails if one of them did.
#
#     benchmarks/gpu_check.sh [--rehearse] [--rounds N] [--parts "LIST"] [DATA_DIR [RESULTS_DIR]]
#
# DATA_DIR     where the data is; by default TFDS's place (TFDS_DATA_DIR, ~/tensorflow_datasets)
# RESULTS_DIR  gets <date>-gpu.log and <date>-gpu.json; by default benchmarks/results, and then the
#              tables for GPUs in benchmarks/README.md are written too
# --rounds N   of the benchmarks; 3 by default
# --parts      some of: tests lanes lanes-search searches
# --rehearse   on a CPU, with sizes that take a minute or two; its figures mean nothing, and its
#              files are <date>-rehearsal.*
#
# It needs no network, but it needs to find there:
# * Python, as PYTHON or in .venv/bin, with mnist-tune, its dependencies and the group dev (pytest,
#   hypothesis, beartype), and mnist-tune's command beside it:
#       .venv/bin/uv sync --locked --extra cuda
#   The group benchmarks isn't needed.
# * MNIST, prepared. Where there's a network: mnist-tune data prepare --data-dir DATA_DIR; elsewhere
#   a copy of such a DATA_DIR, or mnist-tune data import DIR, of the four original files.
# * An NVIDIA GPU that nobody else uses, and its driver.
set -uo pipefail

usage() {
  sed -n '5p' "$0" | sed 's/^# *//' >&2
  exit 2
}

rehearse='' rounds=3 parts='tests lanes lanes-search searches'
while [[ ${1:-} == --* ]]; do
  case $1 in
  --rehearse) rehearse=yes ;;
  --rounds) rounds=${2:?} && shift ;;
  --parts) parts=${2:?} && shift ;;
  *) usage ;;
  esac
  shift
done
(($# <= 2)) || usage
for part in $parts; do
  [[ " tests lanes lanes-search searches " == *" $part "* ]] || usage
done

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
data=(--data-dir "$(realpath -m "${1:-${TFDS_DATA_DIR:-$HOME/tensorflow_datasets}}")")
given=${2:+$(realpath -m "$2")}
results=${given:-$root/benchmarks/results}
python=$(command -v "${PYTHON:-$root/.venv/bin/python}") || {
  echo "no Python: make .venv, or set PYTHON" >&2
  exit 2
}
[[ $python == /* ]] || python=$PWD/$python
cd "$root" || exit 2
export PYTHONPATH=$root${PYTHONPATH:+:$PYTHONPATH}
kind=${rehearse:+rehearsal}
log=$results/$(date +%F)-${kind:-gpu}.log
mkdir -p "$results" || exit 2

describe() { # versions and devices; fails if JAX has no GPU and there should be one
  "$python" - <<'PYTHON'
import json
from benchmarks.machine import machine, versions

print(json.dumps({**machine(), **versions()}, indent=1))
PYTHON
  if type -P nvidia-smi >/dev/null; then nvidia-smi; else echo 'no nvidia-smi'; fi
  "$python" - "$rehearse" <<'PYTHON'
import sys
import jax

devices = jax.devices()
print("JAX's devices:", *(f"{each.platform} {each.device_kind}" for each in devices))
if devices[0].platform == "cpu" and not sys.argv[1]:
    sys.exit("JAX sees no GPU")
PYTHON
}

tests() {
  local platform=cuda only=()
  # On a CPU all of them run with the project's tests.
  [[ -z $rehearse ]] || platform=cpu only=(-k 'sizes or different_epochs')
  # Without it products are in TF32 on a GPU, and lanes and single trials round differently.
  MNIST_TUNE_TEST_PLATFORM=$platform JAX_DEFAULT_MATMUL_PRECISION=highest \
    "$python" -m pytest -q tests/test_lanes.py ${only[@]+"${only[@]}"}
}

benchmark() { # one by its name
  local options=(--rounds "$rounds" ${given:+--results "$given"})
  [[ -z $rehearse ]] || options=(--quick)
  "$python" -m benchmarks "$1" "${data[@]}" "${options[@]}"
}

searches() {
  "$python" -m benchmarks.gpu_searches "${data[@]}" --results "$results" ${rehearse:+--rehearse}
}

check() {
  local failed=() part
  describe || return 1
  for part in $parts; do
    printf '\n== %s\n' "$part"
    case $part in
    tests) tests ;;
    searches) searches ;;
    *) benchmark "$part" ;;
    esac || failed+=("$part")
  done
  printf '\n== failed: %s\n' "${failed[*]:-none}"
  ((${#failed[@]} == 0))
}

[[ -z $rehearse ]] || export JAX_PLATFORMS=cpu
check 2>&1 | tee "$log"
exit "${PIPESTATUS[0]}"
