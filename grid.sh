# One repair for each combination of the lists in a settings block; sourced by baseline.sh and repair.sh.
set -euf  # f: a * in a list is no pattern of files
. ./setup.sh >&2  # the list of cells stands alone on stdout

[ -n "$FE" ] || [ "$DATASET" = digits ] || FE=mocov3

given= checked=  # whether the flags that are passed on name the model under repair; whether they ask for a check alone
training=$(shared_flags "$@")  # those that a missing model is trained with too
for flag; do
    case ${flag%%=*} in
        -h | --help)
            "$PYTHON" repair.py --help
            exit
            ;;
        --model2test_path) given=1 ;;
        --check) checked=1 ;;
        --dataset) fail "give the variable DATASET in place of the flag ${flag%%=*}" ;;
        --data_path) fail "give the variable DATA_ROOT in place of the flag ${flag%%=*}" ;;
        --model2test_arch) fail "give the variable MODEL in place of the flag ${flag%%=*}" ;;
        --model_number) fail "give the variable MODEL_NO in place of the flag ${flag%%=*}" ;;
        --fe) fail "give the variable FE in place of the flag ${flag%%=*}" ;;
        --tao | --auto_tao | --avg_tao) fail "give the variable tao in place of the flag ${flag%%=*}" ;;
        --sel_l_data | --sel_u_data) fail "${0##*/} gives --sel_l_data and --sel_u_data; call repair.py for one of them alone" ;;
    esac
done

case $CELL in
    '' | list) ;;
    *[!0-9]* | 0?*) fail "CELL is $CELL; give the number of a line of CELL=list sh ${0##*/}, counted from 0" ;;
    *)
        cells=$(CELL=list sh "${0##*/}")
        cell=$(echo "$cells" | sed -n "$((CELL + 1))p")
        [ -n "$cell" ] || fail "there is no cell $CELL; CELL=list sh ${0##*/} has $(echo "$cells" | wc -l), counted from 0"
        echo "cell $CELL: $cell"
        for setting in $cell; do eval "${setting%%=*}=\${setting#*=}"; done
        ;;
esac

tau() { # flags for a value of tao
    case $1 in
        auto) echo --auto_tao ;;
        avg) echo --avg_tao ;;
        *) echo "--tao $1" ;;
    esac
}

each_cell() { # a command and its flags: called for each combination of the lists, with that in variables
    for model in $MODEL; do for number in ${MODEL_NO:-default}; do
    for solution in $SOLUTION; do for budget in ${p_budget:-default}; do for seed in $RANDOM_SEED; do
    for size in $avg_clustersize; do for samples in $min_samples; do for distance in $eps; do
    for trust in $exp; do for threshold in $tao; do for weight in $lam; do
    for rate in ${lr:-default}; do for decay in $weight_decay; do for n_epochs in ${epochs:-default}; do
        any=1
        "$@"
    done; done; done
    done; done; done
    done; done; done
    done; done; done
    done; done
}

settings() {
    echo "MODEL=$model MODEL_NO=$number SOLUTION=$solution p_budget=$budget RANDOM_SEED=$seed avg_clustersize=$size" \
        "min_samples=$samples eps=$distance exp=$trust tao=$threshold lam=$weight lr=$rate weight_decay=$decay epochs=$n_epochs"
}

repair() { # flags
    # shellcheck disable=SC2046  # flags and their values
    launch repair.py --dataset "$DATASET" --data_path "$DATA_ROOT" --model2test_arch "$model" --solution "$solution" \
        --manualSeed "$seed" --sel_l_data --sel_u_data --u_weight --cluster "$CLUSTER" --avg_clustersize "$size" \
        --min_samples "$samples" --eps "$distance" --exp "$trust" $(tau "$threshold") --lam_ul "$weight" \
        --retrain_weightdecay "$decay" $(flag --model_number "$number") $(flag --p_budget "$budget") \
        $(flag --retrain_lr "$rate") $(flag --retrain_epoch "$n_epochs") "$@"
}

seen=
check() { # flags; of cells without a value that is new nothing is to be learnt
    new=
    for setting in $(settings); do
        case " $seen " in *" $setting "*) ;; *) seen="$seen $setting" new=1 ;; esac
    done
    [ -z "$new" ] || (PROCESSES=1; repair "$@")
}

last=
train_and_repair() { # flags
    if [ -z "$given" ] && [ "$last" != "$model $number" ]; then
        # shellcheck disable=SC2086  # flags and their values
        env -u RANDOM_SEED -u PRETRAIN_FE DATASET="$DATASET" DATA_ROOT="$DATA_ROOT" MODEL="$model" MODEL_NOS="$number" \
            sh train.sh --if_missing $training
        last="$model $number"
    fi
    repair "$@"
}

missing=
note_missing() { # sets it where the model of a cell is not there, or one of another source is to be looked for
    [ "$number" != default ] || case $DATASET in digits) number=2 ;; *) number=0 ;; esac
    for place in check_point checkpoint; do
        [ ! -f "$place/$DATASET/ckpt_bias/${model}_${number}_b.t7" ] || return 0
    done
    [ -n "$given" ] || missing=1
}

any=
each_cell :
[ -n "$any" ] || fail "one of the lists in ${0##*/} is blank, so that there is nothing to run"
[ -z "$FE" ] || set -- --fe "$FE" "$@"
if [ "$CELL" = list ]; then
    each_cell settings
elif [ -n "$checked" ]; then
    each_cell check "$@"
else
    each_cell note_missing
    # what a training of hours would be in vain for is told before it
    [ -z "$missing" ] || each_cell check "$@" --check >/dev/null
    each_cell train_and_repair "$@"
fi
