#!/usr/bin/env bash
# slurm.sh start|stop FOLDER: a Slurm of two nodes on this machine (root, no systemd), all of it in FOLDER.
# After `start`, `export SLURM_CONF=FOLDER/slurm.conf` is all that sbatch and squeue need.
set -euo pipefail
D=$(realpath -m "$2")

started() {  # a daemon says its own process id in a file
    for _ in $(seq 200); do [ -s "$1" ] && return; sleep 0.05; done
    echo "no $1: $(tail -n 3 "$D"/log/* 2>&1)" >&2
    return 1
}

free_port() {
    python3 -c 'import socket; s = socket.socket(); s.bind(("", 0)); print(s.getsockname()[1])'
}

node() {  # the options beside -N are for a node that a test took down
    slurmd -N "$1" && started "$D/slurmd.$1.pid"
}

start() {
    local host ctld n1 n2
    host=$(hostname -s) ctld=$(free_port) n1=$(free_port) n2=$(free_port)
    mkdir -p "$D"/{state,log}
    chmod 755 "$D"
    dd if=/dev/urandom of="$D/munge.key" bs=1024 count=1 status=none
    chmod 400 "$D/munge.key"
    munged --force --socket="$D/munge.sock" --key-file="$D/munge.key" --pid-file="$D/munged.pid" \
        --log-file="$D/log/munged" --seed-file="$D/munge.seed" 2> "$D/log/munged.said"
    started "$D/munged.pid"
    cat > "$D/slurm.conf" << C
ClusterName=ci
SlurmctldHost=$host
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket=$D/munge.sock
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0,bf_interval=5
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
ReturnToService=2
MpiDefault=none
SlurmctldTimeout=20
SlurmdTimeout=10
MessageTimeout=10
KillWait=5
MinJobAge=300
StateSaveLocation=$D/state
SlurmctldPidFile=$D/ctld.pid
SlurmctldPort=$ctld
SlurmctldLogFile=$D/log/ctld
SlurmdPidFile=$D/slurmd.%n.pid
SlurmdSpoolDir=$D/spool.%n
SlurmdLogFile=$D/log/%n
NodeName=n1 NodeHostname=$host NodeAddr=127.0.0.1 Port=$n1 CPUs=2 RealMemory=4000
NodeName=n2 NodeHostname=$host NodeAddr=127.0.0.1 Port=$n2 CPUs=2 RealMemory=4000
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=1
PartitionName=high Nodes=n1,n2 PriorityTier=10 PreemptMode=OFF
C
    export SLURM_CONF=$D/slurm.conf
    slurmctld -c
    started "$D/ctld.pid"
    node n1
    node n2
    for _ in $(seq 200); do
        [ "$(sinfo -h -N -p main -o %t | sort -u)" = idle ] && return
        sleep 0.1
    done
    sinfo -N -l >&2
    return 1
}

stop() {
    local pid
    export SLURM_CONF=$D/slurm.conf
    [ -e "$SLURM_CONF" ] && timeout 10 scancel --user=root 2> /dev/null || true
    for pid in "$D"/slurmd.*.pid "$D/ctld.pid" "$D/munged.pid"; do
        [ -s "$pid" ] && kill "$(cat "$pid")" 2> /dev/null || true
    done
}

export SLURM_CONF=$D/slurm.conf
case $1 in
    start) start ;;
    stop) stop ;;
    node) node "$3" ;;  # slurm.sh node FOLDER n2: again, after it was killed
    *) echo "slurm.sh start|stop FOLDER" >&2; exit 2 ;;
esac
