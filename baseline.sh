#!/bin/sh
# Repairs models by the baselines. The variables from MODEL to epochs may be lists, separated by spaces: all combinations run.
#   DATASET=digits sh baseline.sh
#   SOLUTION="random gini coreset" p_budget="1 5 10" RANDOM_SEED="10 20 30" sh baseline.sh
# Runs that are in results.csv already are skipped. Flags are passed on to repair.py: sh baseline.sh --force
cd "$(dirname "$0")" || exit

DATASET=${DATASET:-cifar10}            # cifar10 svhn gtsrb stl10 digits, or a folder's name in DATA_ROOT
DATA_ROOT=${DATA_ROOT:-dataset}        # folder of all datasets
FE=${FE:-model2test}                   # features of coreset and typiclust: model2test, mocov3, a path, timm:NAME or FILE.py:FUNCTION
CLUSTER=${CLUSTER:-hybrid}             # clustering that makes regions: hybrid dbscan hdbscan kmeans
MODEL=${MODEL:-MobileNet}              # MobileNet resnet18 ShuffleNetG2, torchvision:NAME, timm:NAME or FILE.py:FUNCTION
MODEL_NO=${MODEL_NO:-}                 # 0 1 2: Model A, B, C; empty: 0 (digits: 2)
SOLUTION=${SOLUTION:-mcp}              # random gini entropy margin mcp coreset badge typiclust
                                       # SSLRandom SSLConsistency SSLConsistency-Imp, and those of repair.sh
p_budget=${p_budget:-}                 # percent of the pool that is annotated; empty: 1 (digits: 5)
RANDOM_SEED=${RANDOM_SEED:-10}         # of what is drawn in selection and repair; start and regions are the same for all
avg_clustersize=${avg_clustersize:-10} # images in an average region
min_samples=${min_samples:-3}          # points, itself counted, that make a point dense
eps=${eps:-0.3}                        # cosine distance of CLUSTER=dbscan
exp=${exp:-0}                          # 0: trust unlabelled images up to tau; -1: trust all
tao=${tao:-auto}                       # tau: auto (from typical images of T2), avg (mean of T2) or a number
lam=${lam:-100}                        # weight of the unlabelled loss
lr=${lr:-}                             # learning rate; empty: 0.001 (digits: 0.01)
weight_decay=${weight_decay:-5e-4}     # weight decay
epochs=${epochs:-}                     # epochs of fine-tuning; empty: 10
CELL=${CELL:-}                         # list: print the combinations, one a line; 4: run that line alone, counted from 0

. ./grid.sh
