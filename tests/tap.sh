# shellcheck shell=sh
# shellcheck disable=SC2034 # the variables set here are for the tests
# What the shell tests share; read by them, not run. Test Anything Protocol on stdout.
#
# From the environment (automake sets it; by hand the defaults are right in the build directory):
#   srcdir, builddir  top of the source and of the build tree (default: where LOCKSTEP lies, or .)
#   LOCKSTEP          the program                       (default: $builddir/lockstep)
#   MPIRUN            mpirun                            (default: from the PATH)
#   DEVICE            cpu or cuda: where ranks compute  (default: cpu)

set -u

: "${srcdir:=$(dirname "$0")/..}" "${builddir:=$(dirname "${LOCKSTEP:-./lockstep}")}"
: "${MPIRUN:=mpirun}" "${DEVICE:=cpu}"
srcdir=$(cd "$srcdir" && pwd) && builddir=$(cd "$builddir" && pwd) || exit 99
: "${LOCKSTEP:=$builddir/lockstep}" "${OMP_NUM_THREADS:=1}" "${OMP_WAIT_POLICY:=passive}"
case $LOCKSTEP in
/*) ;;
*) LOCKSTEP=$PWD/$LOCKSTEP ;;
esac
OMPI_ALLOW_RUN_AS_ROOT=1
OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
OMPI_MCA_rmaps_base_oversubscribe=1
OMPI_MCA_hwloc_base_binding_policy=none
OMPI_MCA_btl_vader_single_copy_mechanism=none
OMPI_MCA_mpi_yield_when_idle=1
# As lockstep does (src/cmd/cmd.c), for the test programs.
: "${OMPI_MCA_io_ompio_priority:=1}" "${OMPI_MCA_sharedfp:=^sm}"
# Ranks of one host: looking for networks, and leaving libfabric (ofi), takes each of them 1.3 s.
: "${OMPI_MCA_pml:=ob1}" "${OMPI_MCA_btl:=^ofi,openib,uct}"
PRTE_MCA_rmaps_default_mapping_policy=:oversubscribe
LC_ALL=C
export OMP_NUM_THREADS OMP_WAIT_POLICY OMPI_ALLOW_RUN_AS_ROOT OMPI_ALLOW_RUN_AS_ROOT_CONFIRM
export OMPI_MCA_rmaps_base_oversubscribe OMPI_MCA_hwloc_base_binding_policy
export OMPI_MCA_btl_vader_single_copy_mechanism OMPI_MCA_mpi_yield_when_idle
export OMPI_MCA_io_ompio_priority OMPI_MCA_sharedfp OMPI_MCA_pml OMPI_MCA_btl
export PRTE_MCA_rmaps_default_mapping_policy LC_ALL

# $work/d is where a test works; what run() catches lies beside it.
work=$(mktemp -d "${TMPDIR:-/tmp}/lockstep-test-XXXXXX") || exit 99
trap 'rm -rf "$work"' EXIT
trap 'exit 130' HUP INT PIPE TERM
mkdir "$work/d" && cd "$work/d" || exit 99

tap_count=0
tap_failures=0
misused=2 # exit code of bad input; 64 of commands whose code is a verdict

# Lines of diagnosis, from arguments or a file.
note() { printf '# %s\n' "$*"; }
note_file() { sed 's/^/#   /' "$1" | head -n "${2:-20}"; }

pass() {
    tap_count=$((tap_count + 1))
    echo "ok $tap_count - $1"
}
fail() {
    tap_count=$((tap_count + 1))
    tap_failures=$((tap_failures + 1))
    echo "not ok $tap_count - $1"
}
skip() {
    tap_count=$((tap_count + 1))
    echo "ok $tap_count - $1 # SKIP $2"
}

# ok DESCRIPTION COMMAND...: the command succeeds.
ok() {
    tap_what=$1
    shift
    if "$@" >"$work/ok" 2>&1; then
        pass "$tap_what"
    else
        fail "$tap_what"
        note "$*"
        note_file "$work/ok"
    fi
}

# within SECONDS COMMAND...: until it succeeds.
within() {
    tap_end=$(($(date +%s) + $1))
    shift
    until "$@" >/dev/null 2>&1; do
        if [ "$(date +%s)" -ge "$tap_end" ]; then return 1; fi
        sleep 0.05
    done
}

# The end of every test; without it there is no plan and the driver complains.
finish() {
    echo "1..$tap_count"
    [ "$tap_failures" -eq 0 ]
    exit
}

# same A B: two finished runs, to the last bit.
h5same=$builddir/tests/h5same
same() {
    "$h5same" "$1/checkpoints/latest" "$2/checkpoints/latest" &&
        cmp "$1/loss.log" "$2/loss.log" && cmp "$1/validation.log" "$2/validation.log"
}

# run COMMAND...: with a time limit. Sets rc and seconds; fills $work/out and $work/err.
: "${LIMIT:=300}"
run() {
    tap_start=$(date +%s)
    timeout -k 5 "$LIMIT" "$@" </dev/null >"$work/out" 2>"$work/err"
    rc=$?
    seconds=$(($(date +%s) - tap_start))
}

# How many GPUs a program sees here; 0 also where that cannot be told.
gpus() {
    if [ "$DEVICE" != cuda ]; then
        echo 0
    elif [ -n "${CUDA_VISIBLE_DEVICES+set}" ]; then
        echo "$CUDA_VISIBLE_DEVICES" | tr , '\n' | grep -c .
    else
        nvidia-smi -L 2>/dev/null | grep -c '^GPU '
    fi
}
tap_gpus=$(gpus)

# ranks N COMMAND...: run() it under mpirun. Where there are fewer GPUs, ranks take them in turn;
# those that share one need names of their own, for NCCL refuses two of one host on one device.
ranks() {
    tap_n=$1
    shift
    if [ "$DEVICE" != cuda ] || [ "$tap_gpus" -ge "$tap_n" ]; then
        run "$MPIRUN" -np "$tap_n" "$@"
        return
    fi
    tap_list=
    if [ "$tap_gpus" -gt 1 ]; then
        tap_list=${CUDA_VISIBLE_DEVICES-$(seq -s, 0 $((tap_gpus - 1)))}
    fi
    # shellcheck disable=SC2016 # the rank's shell expands it
    run "$MPIRUN" -np "$tap_n" sh -c 'rank=$OMPI_COMM_WORLD_RANK
        export NCCL_HOSTID=r$rank
        if [ "$1" ]; then
            CUDA_VISIBLE_DEVICES=$(echo "$1" | cut -d, -f $((rank % $2 + 1)))
            export CUDA_VISIBLE_DEVICES
        fi
        shift 2
        exec "$@"' sh "$tap_list" "$tap_gpus" "$@"
}

note_run() {
    note "$* -> status $rc after $seconds s"
    note "stdout:"
    note_file "$work/out"
    note "stderr:"
    note_file "$work/err"
}

# says FILE TEXT...: every text is in what the last run printed (FILE: out or err).
says() {
    tap_file=$1
    shift
    for tap_text in "$@"; do
        grep -qF -e "$tap_text" "$work/$tap_file" || return 1
    done
}

# prints DESCRIPTION 'TEXT|TEXT...' [N] COMMAND...: it succeeds, with these texts on stdout and
# nothing on stderr but names of bad and ignored files; under mpirun, nothing by lockstep.
prints() {
    tap_what=$1 tap_texts=$2
    shift 2
    case $1 in
    [1-9])
        ranks "$@"
        tap_noise=$(grep -c '^lockstep' "$work/err")
        ;;
    *)
        run "$@"
        tap_noise=$(grep -Evc '^(bad|ignored): ' "$work/err")
        ;;
    esac
    tap_missing=
    tap_ifs=$IFS
    IFS='|'
    for tap_line in $tap_texts; do
        says out "$tap_line" || tap_missing="$tap_missing '$tap_line'"
    done
    IFS=$tap_ifs
    if [ "$rc" -eq 0 ] && [ -z "$tap_missing" ] && [ "$tap_noise" -eq 0 ]; then
        pass "$tap_what"
    else
        fail "$tap_what"
        note "missing:$tap_missing"
        note_run "$*"
    fi
}

# adds_up HEADING TOTAL: of the last run, the lines between a heading and its total add up, in every
# column, to rounding.
adds_up() {
    awk -v heading="$1" -v total="$2" '
    index($0, heading) == 1 { inside = 1; next }
    inside && index($0, "  " total " ") == 1 {
        for (i = NF; i > NF - columns; i--) {
            d = $i - sum[NF - i]
            if (d < 0) d = -d
            if (d > 0.01 * lines) wrong = 1
        }
        found = $NF > 0
        inside = 0
    }
    inside {
        lines++
        columns = heading ~ /memory/ ? 1 : 4
        for (i = NF; i > NF - columns; i--) sum[NF - i] += $i
    }
    END { exit !(found && lines > 5 && !wrong) }' "$work/out"
}

# Names and contents below $work/d.
snapshot() {
    find . | sort
    find . -type f -exec cksum {} + | sort
    find . -type l -exec ls -l {} + | sort
}

# bad DESCRIPTION 'TEXT|TEXT...' [N] COMMAND...: bad input. Exit code $misused, one line on stderr
# with these texts, nothing on stdout, no file made, changed or removed, and soon. The limit on the
# message holds under mpirun too, whose own words about the exit code are not ours.
bad() {
    tap_what=$1 tap_texts=$2
    shift 2
    snapshot >"$work/before"
    case $1 in
    [1-9])
        ranks "$@"
        tap_lines=$(grep -c '^lockstep: ' "$work/err")
        ;;
    *)
        run "$@"
        tap_lines=$(grep -c '' "$work/err")
        ;;
    esac
    snapshot >"$work/after"
    tap_wrong=
    [ "$rc" -eq "$misused" ] || tap_wrong="$tap_wrong; exit code $rc, not $misused"
    [ "$tap_lines" -eq 1 ] || tap_wrong="$tap_wrong; $tap_lines lines of error, not 1"
    [ "$(grep -c '^lockstep' "$work/err")" -eq 1 ] || tap_wrong="$tap_wrong; not by lockstep"
    [ ! -s "$work/out" ] || tap_wrong="$tap_wrong; output"
    [ "$seconds" -lt 30 ] || tap_wrong="$tap_wrong; $seconds s"
    cmp -s "$work/before" "$work/after" || tap_wrong="$tap_wrong; files changed"
    tap_ifs=$IFS
    IFS='|'
    for tap_text in $tap_texts; do
        grep -qF -e "$tap_text" "$work/err" || tap_wrong="$tap_wrong; no '$tap_text'"
    done
    IFS=$tap_ifs
    if [ -z "$tap_wrong" ]; then
        pass "$tap_what: $(grep '^lockstep' "$work/err")"
    else
        fail "$tap_what"
        note "wrong${tap_wrong}"
        diff "$work/before" "$work/after" | sed 's/^/#   /'
        note_run "$*"
    fi
}

# misuse DESCRIPTION TEXT COMMAND...: a wrong command line. As bad(), but the line of error may be
# followed by argp's hint to --help.
misuse() {
    tap_what=$1 tap_text=$2
    shift 2
    snapshot >"$work/before"
    run "$@"
    snapshot >"$work/after"
    if [ "$rc" -eq "$misused" ] && [ "$(grep -c '' "$work/err")" -le 3 ] && [ ! -s "$work/out" ] &&
        head -n 1 "$work/err" | grep '^lockstep' | grep -qF -e "$tap_text" &&
        cmp -s "$work/before" "$work/after"; then
        pass "$tap_what: $(head -n 1 "$work/err")"
    else
        fail "$tap_what"
        note_run "$*"
    fi
}
