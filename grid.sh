# One repair for each combination of the lists in a settings block; sourced by baseline.sh and repair.sh.
set -eu
. ./setup.sh

if [ -z "$FE" ]; then
    FE=mocov3
    [ "$DATASET" != digits ] || FE=model2test
fi

kept() { # path below check_point/, or below checkpoint/ of the published code
    [ -f "check_point/$DATASET/$1" ] || [ -f "checkpoint/$DATASET/$1" ]
}

# told before a training of hours: these solutions read features
case " $SOLUTION " in *" hybrid "* | *" TTA "* | *" typiclust "* | *" coreset "*)
    [ "$FE" != mocov3 ] || kept ckpt_pretrained_mocov3/checkpoint.pth.tar ||
        fail "there is no feature extractor for $DATASET; train one with DATASET=$DATASET PRETRAIN_FE=1 sh train.sh, or use \
the features of the model under repair by FE=model2test" ;;
esac

given=  # whether the flags that are passed on name the model under repair
for flag; do
    case $flag in --model2test_path | --model2test_path=*) given=1 ;; esac
done

train() { # model, number: unless there is a checkpoint
    [ -n "$given" ] || kept "ckpt_bias/${1}_${2}_b.t7" || env -u RANDOM_SEED -u PRETRAIN_FE \
        DATASET="$DATASET" DATA_ROOT="$DATA_ROOT" MODEL="$1" MODEL_NOS="$2" sh train.sh
}

tau() { # flags for a value of tao
    case $1 in
        auto) echo --auto_tao ;;
        avg) echo --avg_tao ;;
        *) echo "--tao $1" ;;
    esac
}

for model in $MODEL; do for number in $MODEL_NO; do
for solution in $SOLUTION; do for budget in $p_budget; do for seed in $RANDOM_SEED; do
for size in $avg_clustersize; do for samples in $min_samples; do for distance in $eps; do
for trust in $exp; do for threshold in $tao; do for weight in $lam; do
for rate in $lr; do for decay in $weight_decay; do for n_epochs in $epochs; do
    train "$model" "$number"
    # shellcheck disable=SC2046  # a flag, and perhaps its value
    "$PYTHON" repair.py --dataset "$DATASET" --data_path "$DATA_ROOT" --model2test_arch "$model" --model_number "$number" \
        --solution "$solution" --p_budget "$budget" --manualSeed "$seed" --sel_l_data --sel_u_data --u_weight \
        --fe "$FE" --cluster "$CLUSTER" --avg_clustersize "$size" --min_samples "$samples" --eps "$distance" \
        --exp "$trust" $(tau "$threshold") --lam_ul "$weight" \
        --retrain_lr "$rate" --retrain_weightdecay "$decay" --retrain_epoch "$n_epochs" "$@"
done; done; done
done; done; done
done; done; done
done; done; done
done; done
