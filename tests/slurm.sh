#!/bin/sh
# Runs a command beside a Slurm of this one machine, which begins and ends with it: munged, slurmctld and slurmd on loopback.
#   sh tests/slurm.sh FOLDER COMMAND ...       such as bash, to try sbatch and squeue by hand
# Debian: apt install --no-install-recommends slurmctld slurmd slurm-client munge; they need not run, nor be set up. Root is not needed.
# FOLDER, which is made, keeps configuration, state and logs. Jobs that are not done when the command ends are cancelled.
set -eu
CPUS=${CPUS:-2}  # of the node, however many the machine has: as many tasks of one CPU run at once
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
PATH=$PATH:/usr/sbin:/sbin
host=$(uname -n) user=$(id -un)
# shellcheck disable=SC2046  # two numbers
set -- $("${PYTHON:-python3}" -c 'import socket
both = [socket.create_server(("127.0.0.1", 0)) for _ in range(2)]
print(*(each.getsockname()[1] for each in both))') "$@"

cat > "$folder/slurm.conf" <<END
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$1
SlurmdPort=$2
SlurmUser=$user
SlurmdUser=$user
# a requeued job waits until its credential has expired
AuthInfo=socket=$folder/munge.socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.log
# containers may have no cgroups
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SwitchType=switch/none
MpiDefault=none
MailProg=/bin/true
ReturnToService=2
# a machine may be busy with something else
MessageTimeout=100
# what has ended is to be shown still
MinJobAge=86400
SchedulerType=sched/builtin
SchedulerParameters=sched_interval=2
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SlurmdParameters=config_overrides
NodeName=$host NodeAddr=127.0.0.1 CPUs=$CPUS State=UNKNOWN
PartitionName=all Nodes=ALL Default=YES MaxTime=INFINITE State=UP
END
shift 2
export SLURM_CONF="$folder/slurm.conf"
mkdir -p "$folder/state" "$folder/spool"
[ -e "$folder/munge.key" ] || (umask 077; head -c 128 /dev/urandom > "$folder/munge.key")

daemons=
within() { # seconds, command: whether it succeeds in time
    left=$1
    shift
    until "$@"; do
        [ "$left" -gt 0 ] || return 1
        left=$((left - 1))
        sleep 1
    done
}
idle() { [ "$(sinfo --noheader --format=%T 2>/dev/null)" = idle ]; }
empty() { [ -z "$(squeue --noheader)" ]; }
end() {
    status=$?
    trap '' INT TERM
    if [ -n "$daemons" ] && scancel --user="$user" --quiet; then
        within 60 empty || echo "jobs did not end: $(squeue --noheader)" >&2
    fi
    for daemon in $daemons; do # the last one first
        if kill "$daemon" 2>/dev/null; then wait "$daemon" || :; fi
    done
    exit "$status"
}
trap end EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

# --force: folders for tests may be open to others
munged --foreground --force --key-file="$folder/munge.key" --socket="$folder/munge.socket" --pid-file="$folder/munge.pid" \
    --log-file="$folder/munged.log" --seed-file="$folder/munge.seed" 2> "$folder/munged.err" &
daemons=$!
within 30 test -S "$folder/munge.socket"
slurmctld -D 2> "$folder/slurmctld.err" &
daemons="$! $daemons"
slurmd -D 2> "$folder/slurmd.err" &
daemons="$! $daemons"
within 60 idle || {
    echo "error: Slurm does not start; $folder has its logs" >&2
    exit 1
}
"$@"
