# shellcheck shell=sh
# A real Slurm of a few nodes on this machine, for tests; read by them before tests/tap.sh, whose
# within() it uses; not run.
#
# Everything runs in namespaces of its own: processes, network (loopback only), mounts, host name.
# So it meets no other Slurm, no port and no shared memory of the host, and the kernel ends every
# process of it when the test ends, however it ends. Needs root, and the packages slurm-wlm, munge,
# iproute2 and util-linux.
#
#   box_enter "$0" "$@"  first line of a test: run it again inside (or skip it, saying why)
#   box_start NODES CPUS GPUS  start munged, slurmctld and one slurmd for each node n1, n2 ...
#   box_node_off NODE, box_node_on NODE  it loses its power, and boots again
#   box_log LINES        the last ones of slurmctld, for the diagnosis of a failure
#
# Two partitions: `low`, whose jobs are requeued when `high` needs their nodes, 20 s after they are
# told so: by the signal of --signal, or after `box_tells tasks` by SIGTERM to the tasks alone.

# What is missing for box_enter, if anything.
box_missing() {
    [ "$(id -u)" -eq 0 ] || { echo 'root starts the daemons' && return; }
    for box_program in slurmctld slurmd munged sbatch srun unshare setpriv ip; do
        PATH=$PATH:/usr/sbin:/sbin command -v "$box_program" >/dev/null ||
            { echo "$box_program is not installed" && return; }
    done
    # shellcheck disable=SC2086 # options
    unshare $box_spaces true 2>/dev/null || echo 'namespaces are not allowed here'
}

box_spaces='--pid --fork --kill-child --mount-proc --net --uts --ipc'
box_enter() {
    if [ "${LOCKSTEP_BOX:-}" = "inside" ] && [ $$ -eq 1 ]; then return; fi
    box_reason=$(box_missing)
    if [ -n "$box_reason" ]; then
        echo "1..0 # SKIP a Slurm of its own is needed: $box_reason"
        exit 0
    fi
    # Names of sockets have at most 107 characters, so the directory is not in TMPDIR.
    box=$(mktemp -d /tmp/lockstep-slurm-XXXXXX) || exit 99
    trap 'rm -rf "$box"' EXIT
    export LOCKSTEP_BOX=inside box TMPDIR="$box"
    PATH=$PATH:/usr/sbin:/sbin
    # --pdeathsig and --kill-child: even kill -9 of this shell ends all.
    # shellcheck disable=SC2086 # options
    setpriv --pdeathsig KILL unshare $box_spaces "${BASH:-/bin/sh}" "$@" &
    box_child=$!
    trap 'kill -KILL $box_child 2>/dev/null; exit 130' HUP INT PIPE TERM
    wait $box_child
    exit
}

box_configure() {
    # PMIxCollFence: the default collective of Slurm 22.05 lets ranks leave MPI_Init early.
    mkdir "$box/run" "$box/log" "$box/state" "$box/spool" "$box/tmp" "$box/dev"
    chmod 755 "$box"
    cat >"$box/slurm.conf" <<END
ClusterName=lockstep
SlurmctldHost=box(10.1.1.100)
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket=$box/run/munge.socket
StateSaveLocation=$box/state
SlurmdSpoolDir=$box/spool/%n
TmpFS=$box/tmp/%n
SlurmctldPidFile=$box/run/slurmctld.pid
SlurmdPidFile=$box/run/slurmd.%n.pid
SlurmctldLogFile=$box/log/slurmctld.log
SlurmdLogFile=$box/log/slurmd.%n.log
SlurmctldParameters=preempt_send_user_signal
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MailProg=/bin/true
ReturnToService=1
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=5
MinJobAge=600
GresTypes=gpu
NodeName=n[1-$1] NodeHostname=box NodeAddr=10.1.1.100 Port=[7001-$((7000 + $1))] CPUs=$2 \\
    RealMemory=4000 Gres=gpu:$3
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 GraceTime=20
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF
END
    echo "NodeName=n[1-$1] Name=gpu File=$box/dev/gpu[0-$(($3 - 1))]" >"$box/gres.conf"
    box_i=0
    while [ $box_i -lt "$3" ]; do
        ln -s /dev/null "$box/dev/gpu$box_i"
        box_i=$((box_i + 1))
    done
    echo 'PMIxCollFence=ring' >"$box/mpi.conf"
    # No plugin here needs cgroups: that nobody looks for them is said in two ways.
    case $(slurmd -V) in
    *' 2'[123].*) echo 'CgroupPlugin=cgroup/v1' ;;
    *) echo 'CgroupPlugin=disabled' ;;
    esac >"$box/cgroup.conf"
    {
        echo '127.0.0.1 localhost'
        echo '10.1.1.100 box'
        seq -f '10.1.1.100 n%.0f' "$1"
    } >"$box/hosts"
}

# box_tells script|tasks: who hears of a preemption.
box_tells() {
    sed -i 's/^#*SlurmctldParameters/#SlurmctldParameters/' "$SLURM_CONF"
    [ "$1" = tasks ] || sed -i 's/^#SlurmctldParameters/SlurmctldParameters/' "$SLURM_CONF"
    scontrol reconfigure
}

box_idle() { [ "$(sinfo -h -N -p low -t idle -o %N | sort -u | wc -l)" -eq "$1" ]; }

# box_start NODES CPUS GPUS: CPUs and (mock) GPUs of a node.
box_start() {
    # getaddrinfo() finds no name where there is no address but 127.0.0.1.
    ip link set lo up && ip address add 10.1.1.100/24 dev lo && hostname box || return
    box_configure "$@"
    mount --bind "$box/hosts" /etc/hosts || return
    export SLURM_CONF="$box/slurm.conf" MUNGE_SOCKET="$box/run/munge.socket"
    # Only loopback is there, which Open MPI leaves out by itself.
    export OMPI_MCA_btl_tcp_if_include=lo OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_pml=ob1
    (umask 077 && head -c 128 /dev/urandom >"$box/run/key")
    munged --foreground --force --key-file="$box/run/key" --socket="$MUNGE_SOCKET" \
        --pid-file="$box/run/munged.pid" --seed-file="$box/run/seed" \
        --log-file="$box/log/munged.log" >"$box/log/munged.out" 2>&1 &
    within 60 test -S "$MUNGE_SOCKET" || return
    slurmctld -D -f "$SLURM_CONF" >"$box/log/slurmctld.out" 2>&1 &
    box_i=0
    while [ $box_i -lt "$1" ]; do
        box_i=$((box_i + 1))
        box_node_on "n$box_i"
    done
    within 100 box_idle "$1"
}

# A name and shared memory of its own, as a node has: Open MPI takes both for the host's. Like a
# diskless node it begins with empty directories: a socket of the job that died with it would keep
# the next start of that job away.
box_node_on() {
    rm -rf "${box:?}/spool/$1" "${box:?}/tmp/$1"
    mkdir "$box/spool/$1" "$box/tmp/$1"
    unshare --uts --mount --ipc sh -c "hostname $1 && mount -t tmpfs shm /dev/shm &&
        exec slurmd -D -N $1 -f '$SLURM_CONF'" >>"$box/log/slurmd.$1.out" 2>&1 &
    echo $! >"$box/run/$1"
}

# As if its plug were pulled: every process of the node is killed, and is gone when this returns.
# They are known by the namespace of its name, which a dead one has no more.
box_node_off() {
    box_space=$(readlink "/proc/$(cat "$box/run/$1")/ns/uts") && within 100 box_emptied
}
box_emptied() {
    box_left=
    for box_process in /proc/[0-9]*; do
        [ "$(readlink "$box_process/ns/uts")" != "$box_space" ] ||
            box_left="$box_left ${box_process#/proc/}"
    done
    # shellcheck disable=SC2086 # words
    [ -z "$box_left" ] || { kill -KILL $box_left && false; }
}

box_log() { tail -n "${1:-15}" "$box/log/slurmctld.log" | sed 's/^/#   /'; }
