#!/bin/sh
# Measures the whole of HybridRepair on a GPU, in slices: a call that runs into LIMIT ends, and the next one goes on.
#
#   sh benchmarks/gpu.sh                              until it says "all done"; results in results/benchmarks/
#   DEVICE=cpu QUICK=1 DATASET=digits sh benchmarks/gpu.sh     small sizes, to see that every step runs
#   PRECISION=bfloat16 sh benchmarks/gpu.sh           the same in mixed precision
#
# DATASET must be in DATA_ROOT already, or be one that can be downloaded.
cd "$(dirname "$0")/.." || exit
set -eu
DATASET=${DATASET:-cifar10}
DATA_ROOT=${DATA_ROOT:-dataset}
DEVICE=${DEVICE:-cuda}
PRECISION=${PRECISION:-float32}
LIMIT=${LIMIT:-540}                       # seconds of a call
QUICK=${QUICK:-}                          # small sizes
OUT=${OUT:-results/benchmarks/gpu_$PRECISION}   # a log for each step
MODELS=${MODELS:-check_point/$DATASET/ckpt_bias_$PRECISION}
. ./setup.sh

mkdir -p "$OUT"
begin=$(date +%s)
machine="--device $DEVICE --precision $PRECISION"
if [ -n "$QUICK" ]; then
    n_epochs=2 retrain=1 scale=0.01 sizes="1000 2000 --solution coreset hybrid"
else
    n_epochs=200 retrain=10 scale=1 sizes="35000 100000 350000 1000000"
fi

# step NAME COMMAND...: unless it is done. A command that is stopped at the limit goes on, or begins again, at the next call.
step() {
    name=$1
    shift
    [ ! -e "$OUT/$name.done" ] || return 0
    left=$((begin + LIMIT - $(date +%s)))
    [ "$left" -gt 5 ] || { echo "time is up before $name: call again"; exit 0; }
    echo "$name: $*"
    start=$(date +%s.%N)
    status=0
    timeout -s INT "$left" "$@" >>"$OUT/$name.log" 2>&1 || status=$?
    echo "$start $(date +%s.%N)" | awk '{printf "%.1f\n", $2 - $1}' >>"$OUT/$name.seconds"
    tail -n 1 "$OUT/$name.log"
    case $status in
        0) touch "$OUT/$name.done" ;;
        124 | 130) echo "time is up in $name: call again"; exit 0 ;;
        *) echo "error: $name failed; see $OUT/$name.log" >&2; exit "$status" ;;
    esac
}

# shellcheck disable=SC2086  # $machine, $sizes and $common are lists of words
{
    step floor "$PYTHON" benchmarks/floor.py $machine --scale "$scale" --output "$OUT"
    [ "$DEVICE" = cpu ] ||
        step floor_compiled "$PYTHON" benchmarks/floor.py $machine --scale "$scale" --output "$OUT" --compile
    step growth "$PYTHON" benchmarks/growth.py --device "$DEVICE" --sizes $sizes --output "$OUT"
    step scaling "$PYTHON" benchmarks/scaling.py $machine --scale "$scale" --output "$OUT"
    step train "$PYTHON" train_classifier.py --dataset "$DATASET" --data_root "$DATA_ROOT" $machine \
        --n_epochs "$n_epochs" --checkpoint_path "$MODELS" --save_path "$OUT" --save_every 10
    common="--dataset $DATASET --data_path $DATA_ROOT $machine --model2test_path $MODELS --retrain_epoch $retrain
        --save_path $OUT/save"
    # the first one also fine-tunes the model on its own train set; the second measures a repair alone
    step before "$PYTHON" repair.py $common --solution random
    step mcp "$PYTHON" repair.py $common --solution mcp
    step hybrid "$PYTHON" repair.py $common --solution hybrid --fe model2test --u_weight --auto_tao
}

echo "all done:"
for file in "$OUT"/*.seconds; do
    # a step that was stopped began again or went on: its parts add up
    awk -v name="$(basename "$file" .seconds)" '{total += $1} END {printf "%-16s %8.1f s\n", name, total}' "$file"
done
