#!/bin/sh
# The program as a user sees it: every command, what it prints, and what bad input gets.
# shellcheck disable=SC2016 # expanded by inner shells
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

# shellcheck disable=SC2317 # called by ok
differ() { ! cmp -s "$1" "$2"; }

h5edit=$builddir/tests/h5edit

# ---- help ------------------------------------------------------------

prints "--help lists the commands and exit codes" \
    'Usage: lockstep COMMAND|import|train|eval|generate|show|help run-file|2 bad input' \
    "$LOCKSTEP" --help
prints "-? is the same" 'Usage: lockstep COMMAND' "$LOCKSTEP" '-?'
prints "help is the same" 'Usage: lockstep COMMAND' "$LOCKSTEP" help
prints "--version" "lockstep $(sed -n 's/^AC_INIT(\[lockstep\], \[\(.*\)\], \[\], .*/\1/p' \
    "$srcdir/configure.ac" 2>/dev/null) (" "$LOCKSTEP" --version
prints "-V is the same" 'lockstep ' "$LOCKSTEP" -V
for command in import train eval generate profile trace show doctor; do
    prints "$command --help" "Usage: lockstep $command [OPTION...]|--help|--version" \
        "$LOCKSTEP" $command --help
    cp "$work/out" "$work/help"
    run "$LOCKSTEP" help $command
    ok "help $command is the same" cmp "$work/help" "$work/out"
done
prints "train --help names its options" '--set=KEY=VALUE|--resume|--plan' "$LOCKSTEP" train --help
prints "train --version" 'lockstep ' "$LOCKSTEP" train --version
prints "help run-file lists the keys" \
    'model:|  layers: 6|kv_heads: 0|alibi|rope|learned|sinusoidal|_headroom: 0.2|REQUIRED' \
    "$LOCKSTEP" help run-file

run "$LOCKSTEP"
ok "no command: exit code 2, usage on stderr" test "$rc" -eq 2 -a -s "$work/err" -a ! -s "$work/out"
misuse "unknown command" "unknown command 'trian'" "$LOCKSTEP" trian
misuse "unknown topic" "no help on 'nothing'" "$LOCKSTEP" help nothing
misuse "unknown option" "unrecognized option '--fast'" "$LOCKSTEP" train --fast r.yaml
misuse "train without a run file" 'RUN.yaml is missing' "$LOCKSTEP" train
misuse "train with two" "found also 'b.yaml'" "$LOCKSTEP" train a.yaml b.yaml
misuse "train with --plan and --resume" 'exclude each other' "$LOCKSTEP" train a.yaml -p -r
misuse "import without files" 'no input FILE' "$LOCKSTEP" import text -o x.h5
misuse "import without output" '--output is missing' "$LOCKSTEP" import text a.txt
misuse "import of what" 'expected text, idx, images or csv' \
    "$LOCKSTEP" import pictures a.txt -o x.h5
misuse "import with a wrong vocabulary" "byte or character, found 'word'" \
    "$LOCKSTEP" import text a.txt -o x.h5 --vocabulary word
misuse "import with a wrong fraction" "expected a fraction" \
    "$LOCKSTEP" import text a.txt -o x.h5 --validation 1
misuse "or none" "--validation: expected a number from 0 to 1, found '0.1x'" \
    "$LOCKSTEP" import text a.txt -o x.h5 --validation 0.1x
misuse "eval without data" 'CHECKPOINT and DATA are expected' "$LOCKSTEP" eval x.h5
misuse "generate without a checkpoint" 'CHECKPOINT is missing' "$LOCKSTEP" generate
whole='expected a whole number from 0 to 1000000000, found'
misuse "generate with a wrong number" "--tokens: $whole '-3'" \
    "$LOCKSTEP" generate x.h5 --tokens=-3
run "$LOCKSTEP" help run-file
ok "the help tells limits" says out 'a whole number from 1 to 1e+15' '16, 32, 48 .. 128'
misuse "generate with too large a key" "--seed: $whole '1000000000000'" \
    "$LOCKSTEP" generate x.h5 --seed=1000000000000
misuse "generate with a wrong temperature" "expected a number from 0 to 1000, found 'hot'" \
    "$LOCKSTEP" generate x.h5 --temperature hot
misuse "eval with no number" "--psi: expected a number from 0 to 1e+06, found 'nan'" \
    "$LOCKSTEP" eval x.h5 d.h5 --psi nan
misuse "show without a file" 'FILE is missing' "$LOCKSTEP" show
misuse "show with two" "too many arguments at 'b'" "$LOCKSTEP" show a b

# ---- import ------------------------------------------------------------

awk 'BEGIN { while (i < 400) print "the quick brown fox jumps over dog " i++ " times." }' >a.txt
printf 'gr\303\274\303\237e, w\303\244hle \342\202\254 und \360\237\230\200!\n' >u.txt
tr '[:lower:]' '[:upper:]' <a.txt >other.txt

prints "import text, bytes" 'a.h5: |training and |vocabulary of 256, digest ' \
    "$LOCKSTEP" import text a.txt -o a.h5
prints "show of a dataset" 'a.h5|lockstep dataset, version 2|256 bytes|a.txt|train/tokens|u8' \
    "$LOCKSTEP" show a.h5
# To look for networks takes a fifth of a second, to leave libfabric a whole one.
run env -u OMPI_MCA_pml OMPI_MCA_btl=^tcp LD_DEBUG=files LD_DEBUG_OUTPUT=loaded \
    "$LOCKSTEP" show a.h5
cat loaded.* >libraries
rm loaded.*
ok "a process alone loads no library of a network" sh -c \
    'grep -q "init: .*libmpi" libraries && ! grep -E "init: .*lib(fabric|psm|uc[pt])" libraries'
run sh -c '"$1" show a.h5 | head -n 1' sh "$LOCKSTEP"
ok "a reader that has enough is no failure" sh -c 'test "$1" = 1 -a ! -s "$2"' sh \
    "$(grep -c '' "$work/out")" "$work/err"
if [ -c /dev/full ]; then
    run sh -c '"$1" --help >/dev/full' sh "$LOCKSTEP"
    ok "a full disk is one" sh -c 'test "$1" -eq 3 && grep -q "No space left" "$2"' sh \
        "$rc" "$work/err"
fi
prints "import text, characters" 'vocabulary of 35, digest ' \
    "$LOCKSTEP" import text a.txt -o c.h5 --vocabulary character --validation 0.2
(printf '\357\273\277' && cat a.txt) >bom.txt
digest() { "$LOCKSTEP" show "$1" | awk '$1 == "digest" { print $2 }'; }
prints "a byte order mark is no character" "$(digest c.h5)" \
    "$LOCKSTEP" import text bom.txt -o bom.h5 -v character -f 0.2
prints "and no bytes" "$(digest a.h5)" "$LOCKSTEP" import text bom.txt -o bom.h5 --force
prints "import of several files" 'vocabulary of ' \
    "$LOCKSTEP" import text a.txt u.txt -o u.h5 -v character
prints "import without a validation part" ' and 0 validation tokens' \
    "$LOCKSTEP" import text a.txt -o train_only.h5 -f 0
prints "import of the other text" 'vocabulary of 35' \
    "$LOCKSTEP" import text other.txt -o o.h5 -v character
prints "import again gives the same digest" "$(digest c.h5)" \
    "$LOCKSTEP" import text a.txt -o again.h5 -v character -f 0.2
ok "and the same bytes" "$h5same" c.h5 again.h5

bad "an existing output" 'a.h5: exists already' "$LOCKSTEP" import text u.txt -o a.h5
prints "--force replaces it" 'again.h5: ' "$LOCKSTEP" import text a.txt -o again.h5 --force
ok "with the new contents" "$h5same" a.h5 again.h5
bad "input as output" 'a.txt: is both input and output' \
    "$LOCKSTEP" import text a.txt -o a.txt --force
bad "a missing text" 'none.txt: cannot open: No such file' "$LOCKSTEP" import text none.txt -o x.h5
bad "a directory for a text" '.: expected a file, found a directory' \
    "$LOCKSTEP" import text . -o x.h5
: >empty.txt
bad "an empty text" 'empty.txt: expected text, found nothing' \
    "$LOCKSTEP" import text empty.txt -o x.h5
printf 'fine\nnot \377 fine\n' >latin.txt
bad "a text that is not UTF-8" 'latin.txt: |UTF-8|byte 9' \
    "$LOCKSTEP" import text latin.txt -o x.h5 -v character
bad "an output below a file" 'a.txt/x.h5' "$LOCKSTEP" import text u.txt -o a.txt/x.h5
bad "an output in no directory" 'none/x.h5' "$LOCKSTEP" import text u.txt -o none/x.h5
bad "import on two ranks" 'lockstep import works alone, found 2 ranks' \
    2 "$LOCKSTEP" import text u.txt -o x.h5

# ---- train ------------------------------------------------------------

cat >r.yaml <<'END'
directory: run
data:
  file: c.h5
model:
  layers: 1
  width: 16
  heads: 2
  context: 16
train:
  steps: 8
  batch: 8
  leaves: 4
  device: cpu
optimizer:
  lr: 1e-2
  warmup: 2
eval:
  every: 4
  batches: 2
log:
  every: 3
checkpoint:
  every: 4
END
prints "train" 'parameters, 1 rank, 4 leaves, fp32|step 1/8 |step 3/8 |step 8/8 |ETA' \
    "$LOCKSTEP" train r.yaml
last=$(tail -n 1 "$work/out")
ok "the last line is the checkpoint" test "$last" = run/checkpoints/step-000008.h5 -a -f "$last"
ok "latest points to it" test "$(readlink run/checkpoints/latest)" = step-000008.h5
ok "an earlier checkpoint is there too" test -f run/checkpoints/step-000004.h5
ok "no partial file is left" test -z "$(find run -name '*.part')"
ok "the loss log has a line a step" test "$(wc -l <run/loss.log)" -eq 8
ok "the validation log has a line an evaluation" test "$(wc -l <run/validation.log)" -eq 2
run "$LOCKSTEP" train r.yaml --set directory=blind --set eval.batches=0
ok "validation, in the memory of the steps, changes none" cmp run/loss.log blind/loss.log
rm -rf blind
ok "the resolved run file says all" grep -q 'rope_theta: 10000' run/run.yaml
prints "the resolved run file is a run file" 'step 8/8' \
    "$LOCKSTEP" train run/run.yaml --set directory=again
ok "with the same result" "$h5same" run/checkpoints/latest again/checkpoints/latest
prints "train on two ranks, as plain lines" '2 ranks, 4 leaves|step 8/8' \
    "$MPIRUN" -np 2 "$LOCKSTEP" train r.yaml --set directory=two
ok "without control characters" test "$(tr -d '\n -~' <"$work/out" | wc -c)" -eq 0
ok "with the same result" "$h5same" run/checkpoints/latest two/checkpoints/latest
if command -v script >/dev/null; then
    # $LOCKSTEP is expanded by the shell that script starts
    export LOCKSTEP
    # shellcheck disable=SC2016
    run script -qec '"$LOCKSTEP" train r.yaml --set directory=bar' /dev/null
    ok "a progress bar on a terminal" grep -q '\[=*>* *\] *[0-9]*% step' "$work/out"
else
    skip "a progress bar on a terminal" "script is not installed"
fi

prints "train --set" 'step 3/3' "$LOCKSTEP" train r.yaml --set directory=short -s train.steps=3
prints "a run stopped early" 'step 3/3' \
    "$LOCKSTEP" train r.yaml --set directory=stop --set train.stop_after=3
ok "has a checkpoint there" test -f stop/checkpoints/step-000003.h5
prints "--resume goes on" 'from step 3|step 8/8' \
    "$LOCKSTEP" train r.yaml --set directory=stop --resume
ok "to the same result" "$h5same" run/checkpoints/latest stop/checkpoints/latest
ok "and the same loss log" cmp run/loss.log stop/loss.log
ok "and the same validation log" cmp run/validation.log stop/validation.log
prints "--resume of a finished run does nothing" 'step-000008.h5|from step 8' \
    "$LOCKSTEP" train r.yaml --set directory=stop --resume
ok "to its files" cmp run/loss.log stop/loss.log
run env DNNL_MAX_CPU_ISA=SSE41 "$LOCKSTEP" train r.yaml --set directory=isa -s train.stop_after=3
prints "--resume with the same instruction set says nothing of it" 'from step 3|oneDNN' \
    env DNNL_MAX_CPU_ISA=SSE41 "$LOCKSTEP" train r.yaml --set directory=isa -s train.stop_after=5 -r
ok "indeed" sh -c '! grep "the checkpoint was written with" "$1"' sh "$work/out"
prints "with another it is said" 'the checkpoint was written with oneDNN|sse41, this is oneDNN' \
    "$LOCKSTEP" train r.yaml --set directory=isa --resume
ok "and recorded" sh -c 'test "$(sed "s/.*devices//" isa/starts.jsonl | sort -u | wc -l)" -eq 2'
bad "resume to a step before the checkpoint" 'train.steps is 5, but the checkpoint|at step 8' \
    "$LOCKSTEP" train r.yaml --set directory=stop --set train.steps=5 --resume
bad "resume to an earlier stop" 'train.stop_after is 5, but the checkpoint|at step 8' \
    "$LOCKSTEP" train r.yaml --set directory=stop --set train.stop_after=5 --resume
"$LOCKSTEP" train r.yaml --set directory=race >race.out 2>&1 &
first=$!
run "$LOCKSTEP" train r.yaml --set directory=race
wait $first
ok "of two starts in one directory one trains, the other is refused" test $((rc + $?)) -eq 2
ok "and the log has a line a step" test "$(wc -l <race/loss.log)" -eq 8
prints "training without validation data" 'step 8/8' "$LOCKSTEP" train r.yaml \
    --set directory=novalid --set data.file=train_only.h5 --set eval.batches=0
prints "an initial checkpoint" 'step 8/8' \
    "$LOCKSTEP" train r.yaml --set directory=initial --set checkpoint.initial=true
ok "is written" test -f initial/checkpoints/step-000000.h5

# ---- train --print, and a start under Slurm ----------------------------------
# Quotes of YAML are not part of a value.
prints "train --print" 'a "b' "$LOCKSTEP" train r.yaml --set 'directory=a "b' --print directory
prints "--print of a default" '0.99' "$LOCKSTEP" train r.yaml --print optimizer.beta2
bad "--print of no key" "no key 'train.step'|nearest is 'train.steps'" \
    "$LOCKSTEP" train r.yaml --print train.step
bad "tasks of srun that are no ranks" 'Slurm has started 2 tasks|MPI sees one rank|--mpi=pmix' \
    env SLURM_STEP_NUM_TASKS=2 "$LOCKSTEP" train r.yaml
# libgomp overflows the stack by so many.
bad "train by 100,000 threads" 'OMP_NUM_THREADS: expected at most |found 100000; set it to ' \
    env OMP_NUM_THREADS=100000 "$LOCKSTEP" train r.yaml --set directory=threads
bad "eval by as many, on two ranks" 'OMP_NUM_THREADS: expected at most |found 100000; set it to ' \
    2 env OMP_NUM_THREADS=100000 "$LOCKSTEP" eval run c.h5
many=$(($(env -u OMP_NUM_THREADS nproc) + 1)) # nproc obeys it
prints "more threads than cores are told" \
    "warning: $many threads a rank wait for $((many - 1)) core" \
    env OMP_NUM_THREADS=$many "$LOCKSTEP" train r.yaml --set directory=threads -s train.steps=1
run env OMP_NUM_THREADS=1 "$LOCKSTEP" train r.yaml --set directory=thread -s train.steps=1
ok "no more than cores are not" sh -c '! grep "threads a rank wait" "$1"' sh "$work/out"
rm -r threads thread

# ---- train --plan ------------------------------------------------------------

activations() { awk '$1 == "activations" { print $2 }' "$work/out"; }

snapshot >"$work/before"
prints "train --plan" \
    '1 rank, 4 leaves|parameters |moments |activations |data |linear_dw |adamw |predicted: ' \
    "$LOCKSTEP" train r.yaml --plan --set directory=planned
ok "its kinds of memory add up" adds_up 'memory of a rank' 'total on the device'
ok "its kinds of ops add up" adds_up 'step of a rank' total
ok "it has no half-precision shadow in fp32" grep -q '^  half shadow  *0\.00$' "$work/out"
prints "a plan of an existing run, on two ranks" \
    '2 ranks, 4 leaves|half shadow |reduce |reduction staging ' \
    "$MPIRUN" -np 2 "$LOCKSTEP" train r.yaml --plan --set train.precision=bf16
ok "is printed once" test "$(grep -c '^predicted: ' "$work/out")" -eq 1
ok "and adds up" adds_up 'memory of a rank' 'total on the device'
prints "a plan of streamed data" 'predicted: ' "$LOCKSTEP" train r.yaml --plan \
    --set data.resident=no --set model.layers=6 --set train.batch=2048
# shellcheck disable=SC2016
ok "has pinned memory: samples read ahead, and a copy of parameters and moments to save" awk '
    /^  parameters / { parameters = $NF } /^  moments / { moments = $NF }
    /^  pinned on the host / { found = $NF }
    END { exit !(found > moments && found < parameters + moments + 0.25) }' \
    "$work/out"
kept=$(activations)
prints "a plan with recomputation" 'predicted: ' "$LOCKSTEP" train r.yaml --plan \
    --set train.recompute=block --set model.layers=6 --set train.batch=2048
again=$(activations)
ok "has less than half the activations: $again of $kept MiB" \
    awk -v a="$again" -v b="$kept" 'BEGIN { exit !(a > 0 && 2 * a < b) }'
snapshot >"$work/after"
ok "plans write nothing" cmp "$work/before" "$work/after"

# ---- eval, generate, show ------------------------------------------------------------

prints "eval" 'loss |perplexity |accuracy |tokens ' "$LOCKSTEP" eval run c.h5 --predictions p.h5
cp "$work/out" "$work/eval"
prints "eval on two ranks" 'loss ' "$MPIRUN" -np 2 "$LOCKSTEP" eval run c.h5 -p p2.h5
ok "says the same" cmp "$work/eval" "$work/out"
ok "and writes the same predictions" "$h5same" p.h5 p2.h5
prints "eval of a checkpoint by name, CPU asked for" 'loss ' \
    "$LOCKSTEP" eval run/checkpoints/step-000004.h5 c.h5 --device cpu
cp run/checkpoints/step-000008.h5 old.h5
"$h5edit" old.h5 forget kind
prints "eval of a checkpoint from before there were kinds" 'loss ' "$LOCKSTEP" eval old.h5 c.h5
ok "says the same" cmp "$work/eval" "$work/out"
prints "show of predictions" 'lockstep predictions|loss|argmax' "$LOCKSTEP" show p.h5
prints "show of a checkpoint" \
    'lockstep checkpoint, version 1|parameters/blocks/0/attn/qkv/weight|[48, 16]|width: 16' \
    "$LOCKSTEP" show run
run "$LOCKSTEP" generate run --prompt 'the q' --tokens 40 --seed 3
cp "$work/out" "$work/text"
ok "generate continues the prompt" grep -q '^the q' "$work/text"
ok "by so many tokens" test "$(wc -c <"$work/text")" -eq 46
run "$LOCKSTEP" generate run --prompt 'the q' --tokens 40 --seed 3
ok "the same for a seed" cmp "$work/text" "$work/out"
run "$LOCKSTEP" generate run/checkpoints/latest --prompt 'the q' --tokens 40 --seed 4
ok "another for another seed" differ "$work/text" "$work/out"
run "$LOCKSTEP" generate run --prompt 'the q' -n 40 -t 0 -s 3
cp "$work/out" "$work/text"
run "$LOCKSTEP" generate run --prompt 'the q' -n 40 -k 1 -s 9
ok "temperature 0 and top-k 1 are the same" cmp "$work/text" "$work/out"

bad "a prompt with an unknown character" "U+00FC|vocabulary" \
    "$LOCKSTEP" generate run --prompt "$(printf 'gr\303\274n')"
bad "a prompt that is not UTF-8" "not UTF-8 at byte 2" \
    "$LOCKSTEP" generate run --prompt "$(printf 'gr\377')"
bad "an empty prompt" 'the prompt is empty' "$LOCKSTEP" generate run --prompt ''
bad "generate on two ranks" 'works alone, found 2 ranks' 2 "$LOCKSTEP" generate run
bad "generate from a dataset" "c.h5: expected a lockstep checkpoint|'lockstep dataset'" \
    "$LOCKSTEP" generate c.h5
bad "generate from nothing" 'none.h5: ' "$LOCKSTEP" generate none.h5
bad "eval of nothing" 'none.h5: ' "$LOCKSTEP" eval none.h5 c.h5
bad "eval on nothing" 'none.h5: ' "$LOCKSTEP" eval run none.h5
bad "eval on a larger vocabulary" "u.h5: |vocabulary|35 characters|43 others" \
    "$LOCKSTEP" eval run u.h5
bad "eval on another vocabulary" 'o.h5: |vocabulary' "$LOCKSTEP" eval run o.h5
bad "eval on bytes of a character model" 'a.h5: |vocabulary' "$LOCKSTEP" eval run a.h5
prints "import of characters without a validation part" ' and 0 validation tokens' \
    "$LOCKSTEP" import text a.txt -o v.h5 -v character -f 0
bad "training on them with validation" \
    'v.h5: expected at least |found 0; keep more for validation (import --validation), set eval.b' \
    "$LOCKSTEP" train r.yaml --set directory=new --set data.file=v.h5
bad "eval without validation data" 'v.h5: validation/tokens holds 0 tokens' \
    "$LOCKSTEP" eval run v.h5
bad "predictions below a file" 'a.txt/p.h5: |Not a directory' \
    "$LOCKSTEP" eval run c.h5 -p a.txt/p.h5
bad "predictions in no directory, on two ranks" 'none/p.h5: |No such file' \
    2 "$LOCKSTEP" eval run c.h5 -p none/p.h5
bad "drift in no directory, on two ranks, before any evaluation" 'none/x.prom: ' \
    2 "$LOCKSTEP" eval run c.h5 --prometheus none/x.prom
bad "drift over a file that is none" 'a.txt: ' "$LOCKSTEP" eval run c.h5 --prometheus a.txt
bad "predictions over the data" "c.h5: expected a file of lockstep predictions|'lockstep dataset'" \
    "$LOCKSTEP" eval run c.h5 -p c.h5
bad "predictions over predictions" 'p2.h5: exists already; give --force' \
    "$LOCKSTEP" eval run c.h5 -p p2.h5
prints "predictions over predictions, by force" 'loss ' "$LOCKSTEP" eval run c.h5 -p p2.h5 --force
bad "eval on no such device" "device: expected auto, cpu or cuda, found 'gpu'" \
    "$LOCKSTEP" eval run c.h5 --device gpu
bad "generate on no such device" "device: expected auto, cpu or cuda, found 'gpu'" \
    "$LOCKSTEP" generate run --device gpu
bad "eval on two ranks of nothing" 'none.h5: ' 2 "$LOCKSTEP" eval run none.h5
bad "show of a text" 'a.txt: |HDF5' "$LOCKSTEP" show a.txt
bad "show of nothing" 'none.h5: ' "$LOCKSTEP" show none.h5

# ---- bad run files and data ------------------------------------------------------------

new() { # DESCRIPTION TEXTS [N] SET...: train a new run, badly
    what=$1 texts=$2
    shift 2
    n=
    case $1 in
    [1-9]) n=$1 && shift ;;
    esac
    sets=
    for set in "$@"; do
        sets="$sets --set $set"
    done
    # shellcheck disable=SC2086 # words
    bad "$what" "$texts" $n "$LOCKSTEP" train r.yaml --set directory=new $sets
}

sed 's/  layers: 1/  layer: 1/' r.yaml >bad.yaml
bad "an unknown key" "bad.yaml:5: unknown key 'model.layer'; the nearest is 'model.layers'" \
    "$LOCKSTEP" train bad.yaml
bad "an unknown key, on two ranks" "bad.yaml:5: unknown key 'model.layer'" \
    2 "$LOCKSTEP" train bad.yaml
bad "an unknown key, planned" "bad.yaml:5: unknown key 'model.layer'" \
    "$LOCKSTEP" train bad.yaml --plan
bad "a plan without data" 'none.h5: expected a lockstep dataset|no such file' \
    "$LOCKSTEP" train r.yaml --plan --set data.file=none.h5
bad "a plan on three ranks for four leaves" 'r.yaml: 3 ranks do not divide 4 leaves' \
    3 "$LOCKSTEP" train r.yaml --plan
sed 's/  steps: 8/  steps: many/' r.yaml >bad.yaml
bad "a wrong type" "bad.yaml:10: 'train.steps': expected a whole number from 1 to 1e+15, found 'm" \
    "$LOCKSTEP" train bad.yaml
sed 's/  lr: .*/  lr: 1000/' r.yaml >bad.yaml
bad "out of range" "bad.yaml:15: 'optimizer.lr': expected a number from 0 to 100, found '1000'" \
    "$LOCKSTEP" train bad.yaml
sed 's/  heads: 2/  heads: 3/' r.yaml >bad.yaml
bad "heads not dividing the width" 'bad.yaml:7: model.heads 3 does not divide model.width 16' \
    "$LOCKSTEP" train bad.yaml
printf '{' >bad.yaml
bad "no YAML" 'bad.yaml:|: not YAML' "$LOCKSTEP" train bad.yaml
awk 'BEGIN { while (i++ < 60000) printf "[" }' >bad.yaml
bad "lists 60,000 deep, soon" 'bad.yaml:1: expected keys|nested more than 16 deep' \
    timeout 2 "$LOCKSTEP" train bad.yaml
cat r.yaml a.txt a.txt a.txt a.txt >bad.yaml
bad "a run file that is too large" 'bad.yaml: expected a run file of at most 64 KiB, found more' \
    "$LOCKSTEP" train bad.yaml
bad "a pipe that is" '/dev/stdin: expected a run file of at most 64 KiB, found more' \
    sh -c 'cat r.yaml c.h5 c.h5 c.h5 a.txt a.txt | "$1" train /dev/stdin' sh "$LOCKSTEP"
bad "no run file" 'none.yaml: cannot read the run file: No such file' "$LOCKSTEP" train none.yaml
bad "an HDF5 file for a run file" 'c.h5:1: not YAML' "$LOCKSTEP" train c.h5
new "--set of nothing" "--set: expected KEY=VALUE, found 'seed'" seed
new "--set of an unknown key" "--set: unknown key 'model.layer'" model.layer=2

new "a missing data file" 'none.h5: expected a lockstep dataset|no such file' data.file=none.h5
new "a missing data file, on two ranks" \
    'none.h5: expected a lockstep dataset|no such file' 2 data.file=none.h5
new "a text for a data file" 'a.txt: |HDF5' data.file=a.txt
new "a directory for a data file" 'run: ' data.file=run
new "an empty data file" 'empty.txt: expected a lockstep dataset|an empty file' data.file=empty.txt
new "a checkpoint for a data file" "expected a lockstep dataset|'lockstep checkpoint'" \
    data.file=run/checkpoints/step-000008.h5
size=$(wc -c <c.h5)
head -c $((size / 2)) c.h5 >cut.h5
new "a truncated data file" 'cut.h5: |truncated' data.file=cut.h5
new "a truncated data file, on two ranks" 'cut.h5: |truncated' 2 data.file=cut.h5
"$h5edit" strange.h5 empty
new "an HDF5 file of something else" "strange.h5: |schema" data.file=strange.h5

wrong() { # DESCRIPTION TEXTS ACTION...: a copy of the data made wrong
    what=$1 texts=$2
    shift 2
    cp c.h5 wrong.h5
    "$h5edit" wrong.h5 "$@" || fail "h5edit works"
    case $1 in token) "$h5edit" wrong.h5 sign "$2" || fail "h5edit works" ;; esac
    new "$what" "$texts" data.file=wrong.h5
}
wrong "tokens of a wrong type" "wrong.h5: 'train/tokens': expected u8|found f32" float train/tokens
wrong "tokens of a wrong rank" \
    "wrong.h5: 'train/tokens': expected u8 in 1 dimension|found u8 in 2" flat train/tokens
wrong "validation tokens of a wrong type" \
    "wrong.h5: 'validation/tokens'|f32" float validation/tokens
wrong "no tokens" "wrong.h5: |train/tokens" remove train/tokens
wrong "no vocabulary" "wrong.h5: |vocabulary" remove vocabulary
wrong "another kind" "wrong.h5: |kind|'text'|'series'" text kind series
wrong "another schema" "wrong.h5: |schema|'other dataset'" text schema 'other dataset'
wrong "a token beyond the vocabulary" \
    "wrong.h5: 'train/tokens': token 35 at 7 is not below the vocabulary size 35" \
    token train/tokens 7 1 35
wrong "a validation token beyond it" "'validation/tokens': token 255 at 100" \
    token validation/tokens 100 1 255

new "fewer samples than one batch" 'c.h5: expected at least |training tokens|found ' \
    train.batch=65536
new "a context longer than the validation part" 'c.h5: |validation tokens' model.context=2000
new "leaves that are no power of two" '--set: train.leaves 6 is not a power of two' \
    train.leaves=6 train.batch=12
new "a batch not a multiple of the leaves" 'train.batch 9 is not a multiple of the 4 leaves' \
    train.batch=9
new "three ranks for four leaves" 'r.yaml: 3 ranks do not divide 4 leaves' 3
new "three ranks and no leaves" 'r.yaml: train.leaves: 3 is not a power of two' \
    3 train.leaves=0 train.batch=12
new "more ranks than leaves" '4 ranks do not divide 2 leaves|, or raise train.leaves' \
    4 train.leaves=2
prints "a start without leaves tells the most ranks that the run can use" \
    '1 rank, 1 leaf (train.leaves is not set: never more than 1 rank), fp32' \
    "$LOCKSTEP" train r.yaml --set directory=single --set train.leaves=0 --set train.stop_after=2
bad "a resume on more" \
    'r.yaml: 2 ranks do not divide 1 leaves, which the run was started with: |a new run' \
    2 "$LOCKSTEP" train r.yaml --set directory=single --set train.leaves=0 --resume
rm -r single
if [ "$DEVICE" = cpu ] && ! command -v nvidia-smi >/dev/null; then
    run "$LOCKSTEP" train r.yaml --set directory=new --set train.device=cuda
    ok "no GPU: exit code 4, one line" test "$rc" -eq 4 -a "$(wc -l <"$work/err")" -eq 1 -a ! -e new
    why='no GPU is usable'
    "$LOCKSTEP" --version | grep -q 'CUDA none' && why='this lockstep was built without CUDA'
    ok "that says why" says err "$why"
fi
if [ "$DEVICE" = cpu ]; then
    run "$LOCKSTEP" train r.yaml --set directory=new --set model.width=65536 --set model.heads=1 \
        --set model.layers=1000
    ok "no memory: exit code 3" test "$rc" -eq 3 -a ! -e new
    ok "with one line" test "$(wc -l <"$work/err")" -eq 1
    ok "with what it is for, and what to do" says err 'a buffer of ' 'MiB beside ' '--plan'
fi

# ---- the run directory ------------------------------------------------------------

again="run: the run directory exists; continue it with --resume"
bad "an existing run directory" "$again" "$LOCKSTEP" train r.yaml
bad "an existing run directory, on two ranks" "$again" 2 "$LOCKSTEP" train r.yaml
bad "a file for a run directory" "a.txt: the run directory's name is taken by a file" \
    "$LOCKSTEP" train r.yaml --set directory=a.txt
bad "a run directory below a file" 'a.txt' "$LOCKSTEP" train r.yaml --set directory=a.txt/run
bad "nothing to resume" 'new: no run directory to resume' \
    "$LOCKSTEP" train r.yaml --set directory=new --resume
mkdir hollow
bad "a run without a checkpoint" 'hollow|no checkpoint' \
    "$LOCKSTEP" train r.yaml --set directory=hollow --resume
# Root may write anywhere, so nobody does it, who must be able to read what there is.
as=
if [ "$(id -u)" -eq 0 ]; then
    as='setpriv --reuid=65534 --regid=65534 --clear-groups'
    chmod a+x "$work" "$work/d"
fi
mkdir locked && chmod 555 locked
# shellcheck disable=SC2086 # words
if $as test -x "$LOCKSTEP" -a -r a.txt; then
    bad "no permission to write" 'locked/run: |Permission denied' \
        $as "$LOCKSTEP" train r.yaml --set directory=locked/run
    bad "no permission to import" 'locked/x.h5|Permission denied' \
        $as "$LOCKSTEP" import text a.txt -o locked/x.h5
else
    skip "no permission to write" "$LOCKSTEP can be started by root alone"
fi
chmod 755 locked

resume() { # DESCRIPTION TEXTS SET...
    what=$1 texts=$2
    shift 2
    sets=
    for set in "$@"; do
        sets="$sets --set $set"
    done
    # shellcheck disable=SC2086
    bad "$what" "$texts" "$LOCKSTEP" train r.yaml --resume $sets
}
resume "resume with another width" "'model.width' is 32, but the run was started with 16" \
    model.width=32
resume "resume with another seed" "'seed' is 2, but the run was started with 1337" seed=2
resume "resume with other leaves" \
    'train.leaves is 8, the run was started with 4 leaves' train.leaves=8
resume "resume with another dataset" 'o.h5: digest |, but the run was started on data with digest' \
    data.file=o.h5
prints "a run of another model" 'step 8/8' \
    "$LOCKSTEP" train r.yaml --set directory=wide --set model.width=32
cp -R run mixed && cp wide/checkpoints/step-000008.h5 mixed/checkpoints/step-000008.h5
resume "resume from the checkpoint of another model" \
    "'model.width' is 16, but the run was started with 32" directory=mixed
cp run/checkpoints/step-000008.h5 mixed/checkpoints/step-000008.h5
"$h5edit" mixed/checkpoints/step-000008.h5 remove parameters/blocks/0/attn/out/weight
resume "resume from a checkpoint without a parameter" \
    'step-000008.h5: |parameters/blocks/0/attn/out/weight' directory=mixed
bad "generate from it" 'step-000008.h5: |parameters/blocks/0/attn/out/weight' \
    "$LOCKSTEP" generate mixed
cp run/checkpoints/step-000008.h5 whole.h5
head -c "$(($(wc -c <whole.h5) * 2 / 3))" whole.h5 >mixed/checkpoints/step-000008.h5
prints "resume from a truncated checkpoint: from the one before it" \
    'warning: mixed/checkpoints/step-000008.h5: |truncated|trying step-000004.h5|from step 4' \
    "$LOCKSTEP" train r.yaml --set directory=mixed --resume
rm mixed/checkpoints/latest
prints "resume without latest: from the newest" 'from step 8' \
    "$LOCKSTEP" train r.yaml --set directory=mixed --resume
rm mixed/checkpoints/step-*
bad "resume without a checkpoint" 'mixed|no checkpoint' \
    "$LOCKSTEP" train r.yaml --set directory=mixed --resume

# ---- one rank fails ------------------------------------------------------------

# Tokens of the second half, the shard of rank 1, are damaged; rank 0 reads nothing of them.
tokens=$("$LOCKSTEP" show c.h5 | sed -n 's/^ *train  *\([0-9,]*\) tokens$/\1/p' | tr -d ,)
cp c.h5 half.h5
"$h5edit" half.h5 token train/tokens $((tokens * 3 / 4)) 60 200
"$h5edit" half.h5 sign train/tokens
new "damage in the shard of rank 1, resident" \
    "half.h5: 'train/tokens': token 200 at $((tokens * 3 / 4)) is not below" \
    2 data.file=half.h5 data.resident=yes train.leaves=2
new "damage in the shard of rank 3 of 4" "half.h5: 'train/tokens': token 200 at" \
    4 data.file=half.h5 data.resident=yes

# Streaming, rank 1 meets the damage in the middle of the run, where rank 0 waits in a reduction.
LIMIT=120
ranks 2 "$LOCKSTEP" train r.yaml --set directory=broken --set data.file=half.h5 \
    --set data.resident=no --set data.check=off --set train.leaves=2 --set train.steps=100000
ok "a rank that fails alone ends all within 60 s ($seconds s)" test "$seconds" -lt 60
ok "with exit code 2" test "$rc" -eq 2
ok "with one message" test "$(grep -c '^lockstep' "$work/err")" -eq 1
ok "which names it: $(grep '^lockstep' "$work/err")" \
    grep -q "^lockstep: rank 1 on .*: half.h5: 'train/tokens': token 200" "$work/err"
ok "after some steps" test "$(wc -l <broken/loss.log)" -ge 1
prints "and leaves checkpoints that are whole" 'lockstep checkpoint' "$LOCKSTEP" show broken

finish
