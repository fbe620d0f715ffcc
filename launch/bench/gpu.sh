#!/usr/bin/env bash
# Measures Skald on a machine with one NVIDIA GPU, beside Hugging Face on PyTorch where that is installed. No network.
#   bash launch/bench/gpu.sh [FOLDER]
# FOLDER (gpu-figures) gets results.jsonl, summary.txt and log.txt. Every step has its time; one that fails or runs out
# of it is reported, and the next goes on. Exit status 0: the start-up proof of the attention kernel passed.
#   SKALD_PYTHON       the interpreter (.venv/bin/python, else python3)
#   SKALD_WHEELS       a folder of wheels to put beside what is installed, for this run alone
#   SKALD_GPU_SECONDS  for everything (355)
#   SKALD_GPU_TRY=1    the same steps with small shapes on whatever is here, to try the script itself
set -euo pipefail

out=$(realpath -m "${1:-gpu-figures}")
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
mkdir -p "$out"
: >"$out/results.jsonl"
: >"$out/log.txt"
total=${SKALD_GPU_SECONDS:-355}
reading=  # the process that reads the peer's libraries
deadline=0  # of the current step, in seconds from the start: what one step leaves, the next ones have
python=${SKALD_PYTHON:-.venv/bin/python}
if ! command -v "$python" >/dev/null; then python=python3; fi
export PYTHONUNBUFFERED=1 TOKENIZERS_PARALLELISM=false

say() { echo "gpu: $*" | tee -a "$out/log.txt" >&2; }

outcome() {  # $1: exit status, $2: seconds that there were
  case $1 in
    0) echo "done" ;;
    124 | 137) echo "out of time after $2 s" ;;
    *) echo "failed with status $1: $(tail -n 1 "$out/log.txt" | cut -c 1-300)" ;;
  esac
}

step() {  # $1: name, $2: its seconds of 355, the rest: a command that prints JSON lines
  local name=$1 began=$SECONDS status=124 left said
  deadline=$((deadline + $2 * total / 355))
  left=$((deadline > SECONDS ? deadline - SECONDS : 0))
  shift 2
  echo "== $name: $*" >>"$out/log.txt"
  : >"$out/printed"
  if [ "$left" -gt 0 ]; then
    status=0
    timeout --kill-after=5 "$left" "$@" >"$out/printed" 2>>"$out/log.txt" || status=$?
  fi
  said=$(outcome "$status" "$left")
  "$python" -m launch.bench.figures add "$out/results.jsonl" "$name" "$said" $((SECONDS - began)) <"$out/printed"
  say "$name: $said ($((SECONDS - began)) s)"
  return "$status"
}

# shellcheck disable=SC2329  # trap calls it
finish() {
  if [ -n "$reading" ]; then kill "$reading" 2>/dev/null || true; fi
  "$python" -m launch.bench.figures summary "$out/results.jsonl" | tee "$out/summary.txt"
  rm -rf "$out/printed" "$out/packages"
}

machine() { grep -q "\"what\": \"machine\".*$1" "$out/results.jsonl"; }  # whether the first step found this

# What is measured, in sizes that fit 140 GB of memory with the peer beside us. Rows are one text in bytes; dropout is
# off, as in the peer, since cuDNN's kernel drops no weights.
text=(--set data.source.path=embedded:shakespeare --set data.tokenizer.kind=bytes --set data.tokenizer.path=)
gpt2=(gpt2:small "${text[@]}" --set model.dropout=0 --set model.layers.0.pattern.0.dropout=0
  --set model.layers.0.pattern.0.mixer.dropout=0 --set microbatches=1 --set batch_size=32)
llama=(llama:1b "${text[@]}" --set data.length=2048 --set batch_size=8)
decoder=(gpt2:small) kernels=(cudnn auto) kernel=cudnn runs=3
if [ -n "${SKALD_GPU_TRY:-}" ]; then
  block=model.layers.0.pattern.0
  small=(--set model.layers.0.repeats=2 --set model.vocab_size=512 --set model.width=64
    --set "$block.mixer.heads=4" --set "$block.mixer.kv_heads=4" --set "$block.mixer.head_width=16"
    --set "$block.feed_forward.width=128")
  gpt2+=("${small[@]}" --set data.length=64 --set batch_size=2)
  llama+=("${small[@]}" --set data.length=64 --set batch_size=2)
  decoder+=("${small[@]}") kernels=(blocks auto) kernel=auto runs=1
fi

trap finish EXIT
if [ -n "${SKALD_WHEELS:-}" ]; then
  wheels=("$SKALD_WHEELS"/*.whl)
  step wheels 25 "$python" -m pip install --quiet --no-index --no-deps --target "$out/packages" "${wheels[@]}" || true
  export PYTHONPATH=$out/packages${PYTHONPATH:+:$PYTHONPATH}
else
  deadline=$((25 * total / 355))
fi
step machine 15 "$python" -m launch.bench.surroundings || true
if ! machine '"backend": "gpu"' && [ -z "${SKALD_GPU_TRY:-}" ]; then
  say "JAX sees no GPU with $python; install the extra cuda of pyproject.toml there, or name a folder with its wheels" \
    "in SKALD_WHEELS (an interpreter that has it: SKALD_PYTHON)"
  exit 1
fi
against=()
if machine '"peer": true'; then
  against=(--against hf)
  export XLA_PYTHON_CLIENT_MEM_FRACTION=.45  # the peer is on the same GPU
  timeout 60 "$python" -c 'import torch, transformers' >/dev/null 2>&1 &  # reads them from disk during the proof
  reading=$!
else
  say "torch and transformers are not both there: nothing to compare with"
fi
bench=("$python" -m launch.cli bench)
options=("${against[@]}" --runs "$runs" --json)

proven=0
step proof 40 "$python" -m launch.bench.proof "${kernels[@]}" || proven=$?
if [ "$proven" != 0 ]; then
  say "the kernel $kernel is not proven: training is measured with the reference"
  kernel=reference
  gpt2+=(--set execution.remat=full)  # its scores [B, N, T, T] of all layers would not fit
  llama+=(--set execution.remat=full)
fi
gpt2+=(--set "execution.kernel=$kernel")
llama+=(--set "execution.kernel=$kernel")
step "decode batch 1" 40 "${bench[@]}" decode "${decoder[@]}" --batch 1 "${options[@]}" || true
step "train gpt2" 70 "${bench[@]}" train "${gpt2[@]}" "${options[@]}" || true
step "train llama" 80 "${bench[@]}" train "${llama[@]}" "${options[@]}" || true
step "decode batch 64" 30 "${bench[@]}" decode "${decoder[@]}" --batch 64 "${options[@]}" || true
step "decode batch 8" 30 "${bench[@]}" decode "${decoder[@]}" --batch 8 "${options[@]}" || true
for bits in int8 int4; do  # beside what "decode batch 1" has
  step "decode $bits" 15 "${bench[@]}" decode "${decoder[@]}" --batch 1 --set "execution.quantize=$bits" --runs "$runs" \
    --json || true
done
exit "$proven"
