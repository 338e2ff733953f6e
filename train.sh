#!/bin/sh
# Trains what a repair starts from: Model A, B, C, and, with PRETRAIN_FE=1, the MoCo v3 feature extractor.
#   sh train.sh
#   DATASET=gtsrb MODEL="MobileNet resnet18" MODEL_NOS=0 sh train.sh
# An interrupted training goes on where it stopped; a finished one is left alone. Flags are passed on: sh train.sh --force
# The feature extractor takes --force and those on images, machine and saved states too, and all of them where MODEL_NOS is empty.
cd "$(dirname "$0")" || exit

DATASET=${DATASET:-cifar10}        # cifar10 svhn gtsrb stl10 digits, or a folder's name in DATA_ROOT
MODEL=${MODEL:-MobileNet}          # MobileNet resnet18 ShuffleNetG2, one or several
MODEL_NOS=${MODEL_NOS-0 1 2}       # 0 1 2: Model A, B, C; empty: none (in repair.sh: MODEL_NO)
epoch=${epoch:-}                   # epochs of the model under repair; empty: 200 (digits: 100); those of a repair are epochs in repair.sh
RANDOM_SEED=${RANDOM_SEED:-10}     # of weights, order and augmentation
DATA_ROOT=${DATA_ROOT:-dataset}    # folder of all datasets
PRETRAIN_FE=${PRETRAIN_FE:-0}      # 1: train the feature extractor too
FE_FLAGS=${FE_FLAGS:-}             # flags of pretrain_moco.py, such as --arch resnet18 --n_epochs 50

set -euf
. ./setup.sh
case $PRETRAIN_FE in 0 | 1) ;; *) fail "PRETRAIN_FE is $PRETRAIN_FE; give 1 to train the feature extractor too, else 0" ;; esac
case $RANDOM_SEED in *' '*) fail "RANDOM_SEED is $RANDOM_SEED; train.sh takes one seed" ;; esac
for flag; do
    case $flag in
        -h | --help)
            "$PYTHON" train_classifier.py --help
            exit
            ;;
    esac
done
for model in $MODEL; do
    for number in $MODEL_NOS; do
        # shellcheck disable=SC2046  # a flag and its value, or nothing
        launch train_classifier.py --dataset "$DATASET" --data_root "$DATA_ROOT" --model "$model" --manualSeed "$RANDOM_SEED" \
            $(flag --class_weight "$number") $(flag --n_epochs "$epoch") "$@"
    done
done
if [ "$PRETRAIN_FE" = 1 ]; then
    if [ -n "$MODEL_NOS" ]; then
        case " $* " in *" --force "*) force=--force ;; *) force= ;; esac
        # shellcheck disable=SC2046  # flags and their values
        set -- $force $(shared_flags "$@")
    fi
    # shellcheck disable=SC2086  # FE_FLAGS is a list
    launch pretrain_moco.py --dataset "$DATASET" --data_root "$DATA_ROOT" --manualSeed "$RANDOM_SEED" $FE_FLAGS "$@"
fi
