#!/bin/sh
# One round of annotation beside two of half the budget, and a repair without replay, for models of several training seeds on digits.
#   sh results/rounds.sh                                  5 x 4 runs, of which those that save/ has are skipped
# Their rows go to results/digits/rounds.csv, beside those that are there. Flags are passed on to the trainings and the repairs.
cd "$(dirname "$0")/.." || exit
set -eu
. ./setup.sh
TRAIN_SEEDS=${TRAIN_SEEDS:-10 20 30 40 50}       # of the models under repair
BUDGET=${BUDGET:-5}                              # percent of the pool, in one round
HALF=${HALF:-2.5}                                # in each of two
save=save/digits_rounds

hybrid() { # model under repair, folder of results; flags
    path=$1 folder=$2
    shift 2
    "$PYTHON" repair.py --dataset digits --model2test_path "$path" --sel_l_data --sel_u_data --u_weight --auto_tao \
        --save_path "$folder" "$@"
}

for train in $TRAIN_SEEDS; do
    models=check_point/digits/seed_${train}_float32
    "$PYTHON" train_classifier.py --dataset digits --manualSeed "$train" --checkpoint_path "$models" --save_path "$models/log" "$@"
    model=$models/MobileNet_2_b.t7
    hybrid "$model" $save/one --p_budget "$BUDGET" "$@"
    hybrid "$model" $save/one --p_budget "$BUDGET" --no_replay "$@"
    hybrid "$model" "$save/first_$train" --p_budget "$HALF" "$@"
    first=$(dirname "$save/first_$train"/*/manifest.json)
    [ -d "$first" ] || fail "$save/first_$train holds several runs; move those of other settings elsewhere"
    hybrid "$first/MobileNet_2_b_repaired.t7" "$save/second_$train" --p_budget "$HALF" --labelled "$first/selected.csv" "$@"
done
"$PYTHON" results/rows.py results/digits/rounds.csv --column rounds $save/*/results.csv
