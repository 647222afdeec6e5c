#!/usr/bin/env bash
# The GPU evidence of the benchmark suite in one command, in less than six minutes: docs/benchmarks.md, "On a GPU".
#
#   benchmarks/cuda.sh --wheels [DIR]     where there is a network: gather what the GPU machine lacks, in build/wheels
#   benchmarks/cuda.sh [--out DIR]        where there is a CUDA device, without a network; results in benchmarks/results
#   benchmarks/cuda.sh --device cpu       the same steps on CPU tensors, smaller; results in runs/cuda-on-cpu
#
# --python NAME: the interpreter, python3 by default. --wheels-from DIR: where gathered wheels lie.
# A step that reaches its time limit keeps what it has measured. The exit code is 0 if every step ended well.
set -u
cd "$(dirname "$0")/.." || exit 1

PYTHON=python3 DEVICE=cuda OUT="" GATHER="" WHEELS=build/wheels
while [ $# -gt 0 ]; do
    case "$1" in
        --device) DEVICE=$2; shift 2 ;;
        --out) OUT=$2; shift 2 ;;
        --python) PYTHON=$2; shift 2 ;;
        --wheels-from) WHEELS=$2; shift 2 ;;
        --wheels) GATHER=yes; shift; if [ $# -gt 0 ]; then WHEELS=$1; shift; fi ;;
        *) echo "$1: expected --device cuda|cpu, --out DIR, --python NAME, --wheels[-from] DIR" >&2; exit 2 ;;
    esac
done
if [ "$DEVICE" != cuda ] && [ "$DEVICE" != cpu ]; then
    echo "--device: expected cuda or cpu, got $DEVICE" >&2
    exit 2
fi

# What a machine with torch, numba, pandas, scikit-learn, safetensors, click and rich still lacks, in the versions of
# constraints.txt, for Python 3.12 on x86-64: about 11 MB.
if [ -n "$GATHER" ]; then
    exec "$PYTHON" -m pip download --quiet --no-deps --only-binary=:all: --implementation cp --python-version 3.12 \
        --platform manylinux_2_28_x86_64 --platform manylinux_2_27_x86_64 --platform manylinux_2_17_x86_64 \
        --platform manylinux2014_x86_64 --dest "$WHEELS" \
        $(grep -E '^(tenseal|opacus|cryptography|cffi|pycparser|blake3)==' constraints.txt)
fi

# --no-deps: setup.cfg asks for a newer torch than such a machine has, and nothing else is missing.
export PYTHONPATH="$PWD"
if ls "$WHEELS"/*.whl >/dev/null 2>&1; then
    SITE=$(mktemp -d) && trap 'rm -rf "$SITE"' EXIT
    "$PYTHON" -m pip install --quiet --no-index --no-deps --no-compile --target "$SITE" "$WHEELS"/*.whl || exit 1
    export PYTHONPATH="$PWD:$SITE"
fi

NAME=$("$PYTHON" - "$DEVICE" <<'PROBE'
import re, sys, time
import torch
if sys.argv[1] == "cuda" and not torch.cuda.is_available():
    sys.exit("no CUDA device: use --device cpu to try the script")
what = torch.cuda.get_device_name() if sys.argv[1] == "cuda" else "cpu"
print(re.sub("[^a-z0-9]+", "-", what.lower()).strip("-") + time.strftime("-%Y%m%d", time.gmtime()))
PROBE
) || exit 1
OWN=$("$PYTHON" -c 'from benchmarks.cases.registry import default_case; print(default_case())') || exit 1

# Seconds each step may take; sizes in values. Together less than six minutes on a GPU.
if [ "$DEVICE" = cuda ]; then
    OUT=${OUT:-benchmarks/results} SLOWER=1
    HEADLINE=1000000 SUMMED=11689512 CLIENTS=4 LARGE=11689512,100000000 SUMMING=32
    STACKS="x1 x2 x4 x8 x16 x32 torch-x8 torch-x32" MODEL=resnet18 MODEL_SIZE=11689512 CYCLES=3 ADDED_THERE=$OWN-sums-cuda
else
    OUT=${OUT:-runs/cuda-on-cpu} SLOWER=5
    HEADLINE=100000 SUMMED=1000000 CLIENTS=3 LARGE=300000,1000000 SUMMING=8
    STACKS="x1 x2 x4 x8" MODEL=mlp MODEL_SIZE=3137 CYCLES=1 ADDED_THERE=
fi
mkdir -p "$OUT"
START=$SECONDS STATUS=0

step() { # name, seconds, command...
    local name=$1 limit=$(($2 * SLOWER))
    shift 2
    echo "== $name, at most $limit s ($((SECONDS - START)) s so far)"
    timeout --kill-after=10 "$limit" "$@"
    local code=$?
    if [ $code -eq 0 ]; then return; fi
    echo "== $name: exit code $code$([ $code -eq 124 ] && echo ', its time was over')" >&2
    STATUS=1
}

measure() { # name, seconds, arguments of `run`, and the cases
    local name=$1 limit=$2
    shift 2
    local arguments=()
    while [ "$1" != -- ]; do arguments+=("$1"); shift; done
    shift
    for each in "$@"; do arguments+=(--case "$each"); done
    arguments+=(--device "$DEVICE" --json "$OUT/$NAME-$name.json")
    step "$name" "$limit" "$PYTHON" -m benchmarks run "${arguments[@]}"
}

PARALLEL=$("$PYTHON" -c 'import xdist' 2>/dev/null && echo "-n $(($(nproc) < 8 ? $(nproc) : 8))")
# shellcheck disable=SC2086  # no argument, or two
step "tests" 45 "$PYTHON" -m pytest -q -p no:cacheprovider $PARALLEL tests/fl/secure/test_device_ring.py \
    tests/fl/secure/test_device_packing.py tests/fl/secure/test_device_rounds.py tests/fl/secure/test_device_sum.py
measure headline 50 --sizes $HEADLINE --clients 8 --cycles $CYCLES -- plain-numpy "plain-torch-$DEVICE" "$OWN" \
    "${OWN%-masked}-unmasked" $ADDED_THERE "secagg-on-$DEVICE-masked" "secagg-on-$DEVICE-unmasked"
measure sums 60 --sizes $SUMMED --clients $SUMMING --cycles $((CYCLES > 1 ? 2 : 1)) -- \
    "plain-torch-$DEVICE" $(for each in $STACKS; do echo "ciphertext-sum-$DEVICE-$each"; done)
measure rounds 90 --sizes $MODEL_SIZE --clients $CLIENTS --cycles $((CYCLES > 1 ? 2 : 1)) -- \
    "round-$MODEL-plain-$DEVICE" "round-$MODEL-encrypted-$DEVICE" "round-$MODEL-on-$DEVICE"
measure updates 110 --sizes $LARGE --clients 3 --once -- "plain-torch-$DEVICE" "$OWN" "secagg-on-$DEVICE-masked"
"$PYTHON" -m benchmarks report "$OUT/$NAME"-{headline,sums,rounds,updates}.json --markdown >"$OUT/$NAME.md" || STATUS=1
cat "$OUT/$NAME.md"
echo "== $((SECONDS - START)) s; results in $OUT/$NAME-*.json, tables in $OUT/$NAME.md"
exit $STATUS
