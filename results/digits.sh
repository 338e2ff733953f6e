#!/bin/sh
# Repeats the README's first command: models under repair of several training seeds, each repaired with several seeds.
#   sh results/digits.sh                                  5 x 3 runs, of which those that save/ has are skipped
#   NAME=bfloat16 TRAIN_SEEDS=10 sh results/digits.sh --precision bfloat16
# Their rows go to results/digits/<NAME>.csv, beside those that are there. Flags are passed on to the trainings and the repairs.
cd "$(dirname "$0")/.." || exit
set -eu
. ./setup.sh
NAME=${NAME:-float32}                            # of the folder in results/digits/
TRAIN_SEEDS=${TRAIN_SEEDS:-10 20 30 40 50}       # of the models under repair
REPAIR_SEEDS=${REPAIR_SEEDS:-10 20 30}           # of the repairs of each
SOLUTIONS=${SOLUTIONS:-hybrid}

for train in $TRAIN_SEEDS; do
    models=check_point/digits/seed_${train}_$NAME
    "$PYTHON" train_classifier.py --dataset digits --manualSeed "$train" --checkpoint_path "$models" --save_path "$models/log" "$@"
    for solution in $SOLUTIONS; do for seed in $REPAIR_SEEDS; do
        "$PYTHON" repair.py --dataset digits --model2test_path "$models" --solution "$solution" --manualSeed "$seed" \
            --sel_l_data --sel_u_data --u_weight --auto_tao --save_path "save/digits_$NAME" "$@"
    done; done
done
"$PYTHON" results/rows.py "results/digits/$NAME.csv" "save/digits_$NAME/results.csv"
