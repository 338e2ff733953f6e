#!/bin/sh
# Runs the cells of the table of results on a CPU, those that tell most first, and goes on where it was stopped.
#   sh results/grid.sh                                  until all cells are done: days
#   MINUTES=120 MODEL=resnet18 epoch=100 sh results/grid.sh --precision bfloat16
# After each cell the rows go to results/<dataset>/<NAME>.csv, beside those that are there. Flags are passed on to the trainings and the repairs.
cd "$(dirname "$0")/.." || exit
set -eu
REQUIREMENTS="requirements.txt extras/models.txt"
. ./setup.sh
MINUTES=${MINUTES:-1000000}                              # after which no cell goes on; its state is kept
PARTS=${PARTS:-cifar10:0 cifar10:1 gtsrb:0 gtsrb:1}      # datasets and Models
MODEL=${MODEL:-MobileNet}                                # of all cells
FE=${FE:-examples/efficientnet_lite0.py:build}           # features of regions
NAME=${NAME:-$MODEL}                                     # of the tables of the rows
export MODEL epoch="${epoch:-}"                          # epochs of the models under repair; empty: as published
unset RANDOM_SEED PRETRAIN_FE
case $MINUTES in *[!0-9]* | 0?*) fail "MINUTES is $MINUTES; give whole minutes" ;; esac
end=$(($(date +%s) + MINUTES * 60))

stop() {
    echo "$MINUTES minutes are over; the same command goes on"
    exit 0
}

asked= running=
end() { # with a status, after the cell that runs: timeout gives it a group that Ctrl-C does not reach, and in the background it ignores INT
    asked=$1
    [ -n "$running" ] || exit "$asked"
    kill -s TERM "$running" || :
}
trap 'end 129' HUP
trap 'end 130' INT
trap 'end 143' TERM

cell() { # dataset:number, solution, seed; flags
    dataset=${1%:*} number=${1#*:} solution=$2 seed=$3 status=0
    shift 3
    left=$((end - $(date +%s)))
    [ "$left" -gt 0 ] || stop
    script=baseline.sh features=model2test
    case $solution in hybrid*) script=repair.sh features=$FE ;; esac
    # what a training of hours would be in vain for is told before it
    [ -f "check_point/$dataset/ckpt_bias/${MODEL}_${number}_b.t7" ] ||
        DATASET=$dataset SOLUTION=$solution FE=$features MODEL_NO=$number RANDOM_SEED=$seed sh "$script" "$@" --check
    # a training and a repair, under one limit; the trap lets the shell wait for the training, which saves its state
    DATASET=$dataset SOLUTION=$solution FE=$features timeout --kill-after=300 "$left" sh -c '
        set -e; trap "exit 143" TERM; number=$1 seed=$2 script=$3; shift 3
        MODEL_NOS=$number sh train.sh --if_missing "$@"
        MODEL_NO=$number RANDOM_SEED=$seed exec sh "$script" "$@"' - "$number" "$seed" "$script" "$@" &
    running=$!
    while wait "$running" || status=$?; [ -n "$asked" ] && kill -0 "$running" 2>/dev/null; do status=0; done  # a signal ends a wait
    running=
    [ -z "$asked" ] || exit "$asked"
    [ "$status" != 124 ] || stop
    [ "$status" = 0 ] || exit "$status"
    rows=save/${dataset}_$MODEL/results.csv
    [ -f "$rows" ] || return 0  # none yet: another process is at the first
    "$PYTHON" results/rows.py "results/$dataset/$NAME.csv" "$rows"
}

for part in $PARTS; do
    for seed in 10 20 30; do
        for solution in hybrid+ mcp random hybrid coreset typiclust; do cell "$part" "$solution" "$seed" "$@"; done
    done
    for solution in margin entropy gini badge SSLRandom SSLConsistency SSLConsistency-Imp; do cell "$part" "$solution" 10 "$@"; done
done
