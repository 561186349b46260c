#!/bin/sh
# lockstep doctor as a user sees it: no alarm on this machine as it is, and each fault that is
# planted, by settings, limits or a library put before the true one, is named with what to do.
# What is wrong with this machine itself, as on a host whose GPU this build cannot use, is found
# first and taken out: a fault must add its own finding and no other.
# shellcheck disable=SC2016,SC2119,SC2120,SC3045 # scripts for other shells; options are optional;
# ulimit -l is in the shells of the systems supported
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

plant=$builddir/tests/plant
# What tap.sh sets so that ranks run anywhere is not to be judged.
unset OMP_NUM_THREADS # nproc obeys it
cores=$(nproc)
OMP_NUM_THREADS=$cores
export OMP_NUM_THREADS
unset OMPI_MCA_btl_vader_single_copy_mechanism OMPI_MCA_mpi_yield_when_idle OMPI_MCA_pml

# start [N] COMMAND...
start() {
    case $1 in
    [1-9]) ranks "$@" ;;
    *) run "$@" ;;
    esac
}

# Names of the warnings and errors of the last run; of all findings if ok is given. How much memory
# and disk others leave changes from run to run: test_doctor.c judges that.
names() {
    awk -v kinds="${1:-}" '
        /^  (warning|error) / || (kinds == "ok" && /^  ok  /) {
            name = substr($0, 11)
            at = match(name, /  +/)
            print at && at <= 18 ? substr(name, 1, at - 1) : substr(name, 1, index(name, " ") - 1)
        }' "$work/out" | grep -Evx "${1:-memory|file bandwidth}" | sort -u
}

# The exit code that the lines of the last run ask for.
worst() {
    awk '/^  warning / && !w { w = 1 } /^  error / { w = 2 } END { print w + 0 }' "$work/out"
}

# base [N] COMMAND...: what is wrong without a fault. Later, `named` and `clean` compare with it.
base() {
    start "$@"
    names >"$work/base"
}

# finding NAME: its lines, advice included, as one.
finding() {
    awk -v name="$1" '
        /^  (ok|warning|error) / { inside = index(substr($0, 11), name " ") == 1 }
        /^[^ ]/ || /^$/ { inside = 0 }
        inside' "$work/out" | tr -s ' \n' ' '
}

# named DESCRIPTION VERDICT NAME 'TEXT|TEXT...' [N] COMMAND...: the finding has this verdict and
# says so, nothing else is new, and the exit code is that of the worst.
named() {
    tap_what=$1 tap_verdict=$2 tap_name=$3 tap_texts=$4
    shift 4
    start "$@"
    finding "$tap_name" >"$work/found"
    tap_wrong=
    grep -qF "$tap_verdict $tap_name " "$work/found" || tap_wrong="; not as $tap_verdict"
    [ "$rc" -eq "$(worst)" ] || tap_wrong="$tap_wrong; exit code $rc, not $(worst)"
    { cat "$work/base" && [ "$tap_verdict" = ok ] || echo "$tap_name"; } | sort -u >"$work/bad"
    names | cmp -s - "$work/bad" || tap_wrong="$tap_wrong; bad are: $(names | tr '\n' ,)"
    tap_ifs=$IFS
    IFS='|'
    for tap_text in $tap_texts; do
        grep -qF -e "$tap_text" "$work/found" || tap_wrong="$tap_wrong; no '$tap_text'"
    done
    IFS=$tap_ifs
    if [ -z "$tap_wrong" ]; then
        pass "$tap_what: $(cat "$work/found")"
    else
        fail "$tap_what$tap_wrong"
        note_run "$*"
    fi
}

# clean DESCRIPTION [N] COMMAND...: nothing new is bad.
clean() {
    tap_what=$1
    shift
    start "$@"
    names >"$work/bad"
    if [ "$rc" -eq "$(worst)" ] && cmp -s "$work/bad" "$work/base"; then
        pass "$tap_what: $(tail -n 1 "$work/out")"
    else
        fail "$tap_what: exit code $rc, bad are: $(tr '\n' , <"$work/bad")"
        note_run "$*"
    fi
}

doctor() { start "$LOCKSTEP" doctor "$@"; }

# ---- this machine as it is ---------------------------------------------------------------------

snapshot >"$work/before"
doctor
ok "a report in seconds" test "$rc" -le 2 -a "$seconds" -lt 60
for name in lockstep Linux cores binding 'OpenMP threads' memory 'locked memory' 'RDMA network' \
    ranks 'Open MPI' 'MPI threads' HDF5 'HDF5 filters' oneDNN driver directory 'file bandwidth'; do
    names ok | grep -qxF "$name" || echo "$name"
done >"$work/absent"
ok "it has all that every machine has: $(tr '\n' , <"$work/absent")" test ! -s "$work/absent"
ok "no line is over 100 columns, and none has control characters" test -z \
    "$(awk 'length($0) > 100 && $0 !~ /\//' "$work/out")$(tr -d '\n -~' <"$work/out")"
if grep -q 'for the CPU alone' "$work/out"; then
    ok "no alarm on this machine" test "$rc" -eq "$(worst)" -a -z "$(names)"
    nccl=
else
    skip "no alarm on this machine" "this build is for GPUs: its warnings depend on the host"
    nccl=$(grep 'with NCCL' "$work/out")
fi
ranks 2 "$LOCKSTEP" doctor
ok "two ranks: one table" test "$(grep -c '^lockstep doctor: 2 ranks on 1 host' "$work/out")" -eq 1
ok "with an all-reduce" grep -q 'all-reduce .*of bus bandwidth\|all-reduce .*failed' "$work/out"
if [ -z "$nccl" ] && [ "$cores" -ge 2 ]; then
    ok "and no alarm" test "$rc" -eq "$(worst)" -a -z "$(names)"
fi
snapshot >"$work/after"
ok "no file is left" cmp "$work/before" "$work/after"
if command -v script >/dev/null; then
    export LOCKSTEP
    # shellcheck disable=SC2016 # expanded by the shell that script starts
    run env TERM=xterm script -qec '"$LOCKSTEP" doctor --quick' /dev/null
    ok "colors on a terminal" grep -q "$(printf '\033')" "$work/out"
    # shellcheck disable=SC2016
    run env TERM=xterm NO_COLOR=1 script -qec '"$LOCKSTEP" doctor --quick' /dev/null
    ok "none with NO_COLOR" test -z "$(tr -d '\r\n -~' <"$work/out")"
fi

# ---- settings ----------------------------------------------------------------------------------

base "$LOCKSTEP" doctor --quick
many=$((cores * 32))
named "far too many threads" warning 'OpenMP threads' "OMP_NUM_THREADS=$cores|wait for" \
    env OMP_NUM_THREADS=$many "$LOCKSTEP" doctor --quick
for word in abc 0 -3; do
    named "OMP_NUM_THREADS=$word" warning 'OpenMP threads' \
        "OpenMP cannot use '$word'|OMP_NUM_THREADS=$cores" \
        env OMP_NUM_THREADS=$word "$LOCKSTEP" doctor --quick
done
clean "threads as recommended" env OMP_NUM_THREADS="$cores" "$LOCKSTEP" doctor --quick
clean "no setting of threads" env -u OMP_NUM_THREADS "$LOCKSTEP" doctor --quick
clean "bound threads of one rank" env OMP_PROC_BIND=true "$LOCKSTEP" doctor --quick
if command -v taskset >/dev/null; then
    cpu=$(taskset -cp $$ | sed 's/.*[ ,]\([0-9]*\)[-,0-9]*$/\1/')
    named "threads beyond the cores bound to" warning 'OpenMP threads' 'OMP_NUM_THREADS=1' \
        taskset -c "$cpu" env OMP_NUM_THREADS=4 "$LOCKSTEP" doctor --quick
    clean "one thread on one core" \
        taskset -c "$cpu" env OMP_NUM_THREADS=1 "$LOCKSTEP" doctor --quick
fi
named "few open files" warning 'open files' 'ulimit -n' \
    sh -c 'ulimit -n 256; exec "$@"' sh "$LOCKSTEP" doctor --quick
named "the version check of HDF5 switched off" warning HDF5_DISABLE_VERSION_CHECK 'unset it' \
    env HDF5_DISABLE_VERSION_CHECK=1 "$LOCKSTEP" doctor --quick
named "a verbose oneDNN" warning DNNL_VERBOSE 'unset it' \
    env DNNL_VERBOSE=2 "$LOCKSTEP" doctor --quick
clean "a quiet one" env DNNL_VERBOSE=0 "$LOCKSTEP" doctor --quick
named "srun of another MPI" error ranks 'srun started 4 processes|pmix' \
    env SLURM_STEP_NUM_TASKS=4 "$LOCKSTEP" doctor --quick
clean "srun of one task" env SLURM_STEP_NUM_TASKS=1 "$LOCKSTEP" doctor --quick
if [ -n "$nccl" ]; then
    named "a throttled NCCL" warning NCCL_P2P_DISABLE 'unset it' \
        env NCCL_P2P_DISABLE=1 "$LOCKSTEP" doctor --quick
    named "one channel of NCCL" warning NCCL_MAX_NCHANNELS 'unset it' \
        env NCCL_MAX_NCHANNELS=1 "$LOCKSTEP" doctor --quick
else
    clean "a setting of NCCL, which this build has not" \
        env NCCL_P2P_DISABLE=1 "$LOCKSTEP" doctor --quick
fi
clean "harmless settings" env NCCL_DEBUG=WARN NCCL_P2P_DISABLE=0 UCX_LOG_LEVEL=warn \
    OMPI_MCA_btl='^openib' HDF5_USE_FILE_LOCKING=FALSE "$LOCKSTEP" doctor --quick

base 2 "$LOCKSTEP" doctor --quick
named "two ranks without shared memory" warning OMPI_MCA_btl vader \
    2 env OMPI_MCA_btl=tcp,self "$LOCKSTEP" doctor --quick
clean "and with it" 2 env OMPI_MCA_btl=tcp,self,vader "$LOCKSTEP" doctor --quick
base 3 env OMP_NUM_THREADS=1 "$LOCKSTEP" doctor --quick
ok "three ranks: train takes a power of two" grep -q 'start 2 or 4' "$work/out"

# MPI ends processes that it cannot start, with exit code 1, which would mean: warnings.
for n in '' 2; do
    # shellcheck disable=SC2086
    start $n env OMPI_MCA_btl=tcp "$LOCKSTEP" doctor --quick
    ok "a btl without self, ${n:-1} ranks: $(finding MPI)" test "$rc" -eq 2
    ok "one table says so, and what to do" sh -c '
        test "$(grep -c "^lockstep doctor: " "$1")" = 1 &&
        test "$(grep -c "^  error " "$1")" = 2 &&
        tr -s " \n" " " <"$1" | grep -q "without self they do not reach themselves; add it"' sh \
        "$work/out"
done
start env OMPI_MCA_pml=nothing "$LOCKSTEP" doctor --quick
ok "a pml that is not there ends MPI_Init, not the doctor: $(finding MPI)" test "$rc" -eq 2
ok "which names the setting" sh -c 'grep -q "exit status 1" "$1" &&
    grep -q "^  warning OMPI_MCA_pml" "$1"' sh "$work/out"
start env OMPI_MCA_pml=nothing "$LOCKSTEP" doctor --quick --json
cp "$work/out" dead.json
run "$LOCKSTEP" doctor --from dead.json
ok "its facts are judged again" sh -c 'test "$1" -eq 2 && grep -q "does not start" "$2"' sh \
    "$rc" "$work/out"
run env OMPI_MCA_btl=tcp "$LOCKSTEP" train r.yaml
ok "other commands name it too" sh -c 'test "$1" -eq 5 && grep -q "no .self" "$2"' sh \
    "$rc" "$work/err"

# ---- libraries ---------------------------------------------------------------------------------

planted="env LD_PRELOAD=$plant/planted.so"
# shellcheck disable=SC2086 # $planted is several words
{
    base $planted "$LOCKSTEP" doctor --quick
    ok "a library before the others is no fault" test -z "$nccl$(names)" -o -n "$nccl"
    named "the wrong HDF5" error HDF5 '1.14.99|compiled with|LD_LIBRARY_PATH' \
        $planted PLANT_HDF5=1.14.99 "$LOCKSTEP" doctor --quick
    named "HDF5 without filters" error 'HDF5 filters' 'fletcher32' \
        $planted PLANT_FILTERS=1 "$LOCKSTEP" doctor --quick
    named "MPI without threads" error 'MPI threads' 'funneled|MPI_THREAD_MULTIPLE' \
        $planted PLANT_THREADS=1 "$LOCKSTEP" doctor --quick
    ln -s "$plant/planted.so" libmpich.so.12
    named "a second MPI in the process" error 'Open MPI' 'several MPI libraries|libmpich' \
        env LD_PRELOAD="$PWD/libmpich.so.12" "$LOCKSTEP" doctor --quick
    base 2 $planted PLANT_HOSTS=1 "$LOCKSTEP" doctor --quick
    ok "two hosts" grep -q '^lockstep doctor: 2 ranks on 2 hosts' "$work/out"
    named "the wrong HDF5 on one of two hosts" error HDF5 'differs: node1|1.14.99|differs: node0' \
        2 $planted PLANT_HOSTS=1 PLANT_RANK=1 PLANT_HDF5=1.14.99 "$LOCKSTEP" doctor --quick
    named "a directory of each host's own" error 'shared directory' 'node1|all hosts share' \
        2 $planted PLANT_HOSTS=1 PLANT_RANK=1 PLANT_UNSHARED=1 "$LOCKSTEP" doctor --quick
}

[ -e /dev/nvidia0 ] && patience=20 || patience=3 # measuring a GPU that others use takes its time
# shellcheck disable=SC2086
for n in 1 2; do
    start $n $planted PLANT_HANG=1 PLANT_RANK=$((n - 1)) "$LOCKSTEP" doctor --timeout $patience
    grep "no end after $patience s: writing and reading in the directory" "$work/err" >"$work/hung"
    ok "a file system that hangs, of $n ranks: $(cat "$work/hung")" \
        test "$rc" -eq 5 -a -s "$work/hung"
done

# ---- a machine with an RDMA network and a container's limits -----------------------------------

mkdir -p root/sys/class root/sys/fs
ln -s /proc root/proc
ln -s /etc root/etc
ln -s /dev root/dev
ln -s /sys/devices root/sys/devices
port=root/sys/class/infiniband/mlx5_0/ports/1
mkdir -p $port
echo '4: ACTIVE' >$port/state
echo '400 Gb/sec (4X NDR)' >$port/rate
echo InfiniBand >$port/link_layer
unlimited=$(ulimit -l)
if [ "$unlimited" = unlimited ]; then
    base "$LOCKSTEP" doctor --quick --profile prod
    clean "an RDMA network and memory that may be locked" \
        "$LOCKSTEP" doctor --quick --profile prod --root root
fi
base "$LOCKSTEP" doctor --quick --profile prod
named "an RDMA network, but no locked memory" warning 'locked memory' 'ulimit -l unlimited' \
    sh -c 'ulimit -l 64; exec "$@"' sh "$LOCKSTEP" doctor --quick --profile prod --root root
clean "no locked memory where nothing needs it" \
    sh -c 'ulimit -l 64; exec "$@"' sh "$LOCKSTEP" doctor --quick --profile prod
base "$LOCKSTEP" doctor --quick
rm -r root/sys/class/infiniband
mkdir root/sys/fs/cgroup
echo '100000 100000' >root/sys/fs/cgroup/cpu.max
named "more threads than the container may use" warning 'OpenMP threads' 'OMP_NUM_THREADS=1' \
    env OMP_NUM_THREADS=2 "$LOCKSTEP" doctor --quick --root root
echo 'max 100000' >root/sys/fs/cgroup/cpu.max
clean "a container without a limit" "$LOCKSTEP" doctor --quick --root root

# ---- GPUs, by a driver's library of our own ----------------------------------------------------

gpus="env LD_LIBRARY_PATH=$plant:${LD_LIBRARY_PATH:-}"
# shellcheck disable=SC2086
{
    base $gpus "$LOCKSTEP" doctor --quick
    ok "GPUs that are there are found" grep -q 'GPUs  *4 NVIDIA H100, 80.0 GiB' "$work/out"
    ok "with their topology" grep -q '^  GPU0   X      NV18   NV18   NV18 ' "$work/out"
    named "uncorrected errors" error ECC 'GPU 3 (0000:1d:00.0): 2 uncorrected|reset it' \
        $gpus FAKE_NVML=ecc "$LOCKSTEP" doctor --quick
    named "a row of memory to be remapped" warning ECC 'nvidia-smi -r' \
        $gpus FAKE_NVML=remap "$LOCKSTEP" doctor --quick
    named "another model among them" warning GPUs '1 of 4' \
        $gpus FAKE_NVML=model "$LOCKSTEP" doctor --quick
    named "a prohibited GPU" error 'GPU in use' 'nvidia-smi -i 3 -c DEFAULT' \
        $gpus FAKE_NVML=prohibited "$LOCKSTEP" doctor --quick
    named "broken links" warning 'GPU to GPU' 'NV18 to NV12' \
        $gpus FAKE_NVML=link "$LOCKSTEP" doctor --quick
    named "peers out of reach" warning 'GPU to GPU' '6 of 6 pairs' \
        $gpus FAKE_NVML=blocked "$LOCKSTEP" doctor --quick
    clean "no NVLink is no fault" $gpus FAKE_NVML=pcie "$LOCKSTEP" doctor --quick
    ok "but is shown" grep -q '^  GPU0   X      PXB    SYS    SYS ' "$work/out"
    start $gpus FAKE_NVML=direct "$LOCKSTEP" doctor --quick
    ok "links without a switch are counted" \
        grep -q '^  GPU0   X      NV5    NV4    NV4 ' "$work/out"
    start $gpus FAKE_NVML=old "$LOCKSTEP" doctor --quick
    ok "an old driver" grep -q 'error   driver  *470' "$work/out"
    start $gpus FAKE_NVML=mismatch "$LOCKSTEP" doctor --quick
    ok "a driver updated without a restart" sh -c \
        'test "$1" -eq 2 && grep -q "restart the host" "$2"' sh "$rc" "$work/out"
    start $gpus FAKE_NVML=unloaded "$LOCKSTEP" doctor --quick
    ok "a library without a driver" grep -q 'driver is not loaded' "$work/out"
}

# ---- true GPUs ---------------------------------------------------------------------------------

# bandwidth NAME: the first rate of a finding, in MB/s.
bandwidth() {
    finding "$1" | sed 's/\([0-9.]*\) \([MG]\)B\/s.*/ \1 \2/' |
        awk '{ print int($(NF - 1) * ($NF == "G" ? 1000 : 1)) }'
}

"$LOCKSTEP" doctor --quick --json >"$work/one.json" </dev/null
gpus=$(grep -c '"capability"' "$work/one.json")
if [ "$gpus" -gt 0 ]; then
    doctor
    names ok >"$work/all"
    for name in GPUs ECC clocks placement 'host to GPU'; do
        ok "a GPU: $(finding "$name")" grep -qxF "$name" "$work/all"
    done
    ok "copies run at more than 1 GB/s" test "$(bandwidth 'host to GPU')" -gt 1000
else
    skip "facts of a GPU" "no GPU here"
fi
if [ "$gpus" -gt 1 ] && [ -n "$nccl" ]; then
    base 2 "$LOCKSTEP" doctor
    free=$(bandwidth all-reduce)
    ok "NCCL: $(finding all-reduce)" test "$free" -gt 0
    ok "with rings and trees: $(finding 'ring or tree')" grep -q 'ring .*, tree .*like' "$work/out"
    ranks 2 env NCCL_P2P_DISABLE=1 NCCL_MAX_NCHANNELS=1 "$LOCKSTEP" doctor
    ok "throttled: $(finding NCCL_P2P_DISABLE)$(finding NCCL_MAX_NCHANNELS)" test "$rc" -ge 1
    slow=$(bandwidth all-reduce)
    ok "$slow instead of $free MB/s" test $((2 * slow)) -lt "$free"
else
    skip "NCCL throttled" "fewer than two GPUs, or no NCCL, here"
fi

# ---- directories -------------------------------------------------------------------------------

base "$LOCKSTEP" doctor --quick
named "a directory that is not there" error directory 'No such file|--directory' \
    "$LOCKSTEP" doctor --quick --directory none
named "one in which nothing can be made" error directory 'cannot make a file' \
    "$LOCKSTEP" doctor --quick --directory /proc
mkdir other
start "$LOCKSTEP" doctor --directory other
ok "another one is measured" grep -q 'file bandwidth  *write and sync [0-9.]* [MG]B/s' "$work/out"
ok "and left empty" test -z "$(ls -A other)"

# ---- JSON, and facts from a file ---------------------------------------------------------------

ranks 2 "$LOCKSTEP" doctor --quick
cp "$work/out" "$work/table"
ranks 2 "$LOCKSTEP" doctor --quick --json
cp "$work/out" facts.json
json_rc=$rc
ok "--json" grep -q '"findings"' facts.json
run "$LOCKSTEP" doctor --from facts.json
ok "its facts give the same report" sh -c 'sed "/memory /d; /directory /d" "$1" >a &&
    sed "/memory /d; /directory /d" "$2" | cmp - a' sh "$work/table" "$work/out"
ok "and the same exit code" test "$rc" -eq "$json_rc"
sed 's/"version": "4[.0-9]*"/"version": "4.0.1"/' facts.json >old.json
base "$LOCKSTEP" doctor --from old.json
named "prod asks for recommended versions" warning 'Open MPI' '4.1.4 or newer is recommended' \
    "$LOCKSTEP" doctor --from old.json --profile prod
misused=64
bad "no facts" 'none.json: No such file or directory; expected' "$LOCKSTEP" doctor --from none.json
echo '{"ranks": [}' >broken.json
bad "broken facts" 'broken.json: line 1' "$LOCKSTEP" doctor --from broken.json
echo '{}' >empty.json
bad "facts of something else" "empty.json: expected facts of 'lockstep doctor --json'" \
    "$LOCKSTEP" doctor --from empty.json
misuse "a wrong profile" "expected dev or prod, found 'fast'" "$LOCKSTEP" doctor --profile fast
misuse "no end of patience" "--timeout: expected a number from 0.1 to 86400, found 'inf'" \
    "$LOCKSTEP" doctor --timeout inf
misuse "an argument" "no argument is expected, found 'x'" "$LOCKSTEP" doctor x
prints "--help says what the exit code means" '0 fit, 1 warnings, 2 errors|--profile|--directory' \
    "$LOCKSTEP" doctor --help

# ---- the documentation -------------------------------------------------------------------------

sed -n 's/^    {"\([^"]*\)", "\([0-9.]*\)", "\([0-9.]*\)", ".*/| \1 | \2 | \3 |/p' \
    "$srcdir/src/doctor/versions.c" >"$work/versions"
ok "doc/doctor.md has the versions of the table: $(grep -c '' "$work/versions")" sh -c \
    'test "$(wc -l <"$1")" -ge 8 && ! grep -vxF -f "$2" "$1"' sh "$work/versions" \
    "$srcdir/doc/doctor.md"

finish
