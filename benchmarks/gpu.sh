#!/usr/bin/env bash
# Everything that needs an NVIDIA GPU, in one go: tests, scan, attention, training.
#
#     bash benchmarks/gpu.sh [OUT [PART...]]     OUT: folder of the figures, default results;
#                                                PART: tests training layer scan attention
#
# Needs: one card of Ampere or later (24 GB for 125m, 80 GB for 1p5b), Linux, Python 3.11 or
# newer, torch 2.11 or newer for CUDA, and of this project's packages lightning, numpy, pandas,
# pydantic, ruamel.yaml, rich, safetensors, filelock, psutil, tokenizers, pytest, hypothesis.
# triton comes with torch. mamba-ssm is compared where it imports. No network, no data. COMMIT
# names the commit of a copy that has no repository. Not run as a whole yet: on an H200 the parts
# took a quarter of an hour and more, most of it compiling whole blocks.
# Writes OUT/gpu-<card>.md: tests passed, times of the scan beside the memory's limit and mamba-ssm,
# of windowed attention beside the mask, of a layer's other operations beside torch's, tokens/s, MFU
# and peak memory of the 125M, 350M and 1.5B shapes at 2048 tokens in bf16 beside the estimate of
# `inspect` (also without our operations, without a CUDA graph, and with whole blocks compiled, each
# in a process of its own), with commit and card; profiles beside it.
set -euo pipefail
cd "$(dirname "$0")/.."
out=${1:-results}
parts=${*:2}
python=${PYTHON:-python3}
[ -x .venv/bin/python ] && python=${PYTHON:-.venv/bin/python}
if ! "$python" -c 'import sys, torch; sys.exit(not torch.cuda.is_available())'; then
  echo "benchmarks/gpu.sh: torch finds no CUDA device here. Nothing was run or written." >&2
  sed -n '2,17s/^# \{0,1\}//p' "$0" >&2
  exit 3
fi
mkdir -p "$out"
export PYTHONPATH=$PWD${PYTHONPATH:+:$PYTHONPATH}
missing=$("$python" -c 'import importlib.util as u
print(*(n for n in ("triton", "lightning", "ruamel.yaml", "pydantic", "pytest", "hypothesis", "psutil")
        if u.find_spec(n.split(".")[0]) is None))')
[ -z "$missing" ] || { echo "benchmarks/gpu.sh: install first: $missing" >&2; exit 3; }
# only the files that hold such tests: others import packages that need not be here; and what torch
# of another version says of its own parts is no fault of theirs
tests="not run"
if [ -z "$parts" ] || [[ " $parts " == *" tests "* ]]; then
  tests=$("$python" -m pytest -q -m gpu -W ignore::DeprecationWarning -p no:cacheprovider \
    $(grep -l "mark.gpu" tests/test_*.py) 2>&1 | tail -1) || true
  [ "$parts" != tests ] || { echo "tests marked gpu: $tests"; exit; }
  parts=${parts/tests/}
fi
# shellcheck disable=SC2086
"$python" benchmarks/gpu.py --out "$out" --tests "$tests" ${COMMIT:+--commit "$COMMIT"} $parts
