#!/bin/sh
# Checkpoints of a run, by the commands: which stay, that they change no bit of the training that
# they are written beside, that none is of a run that has diverged, what a damaged one does to train
# --resume, eval, generate and show, and what a start finds in the way.
# shellcheck disable=SC2086 # words without blanks
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

STEPS=20 EVERY=2
# shellcheck source=tests/small.sh source-path=SCRIPTDIR/..
. "$srcdir/tests/small.sh"

prints "saves beside training are told" \
    '10 checkpoints, |MiB/s; training waited |step-000020.h5' "$LOCKSTEP" train a.yaml
ok "the three newest stay: $(files a)" test "$(files a)" = "16 18 20 "
prints "two, every ninth and the initial values" 'step-000020.h5' 2 "$LOCKSTEP" train a.yaml \
    --set directory=b --set checkpoint.keep=2 --set checkpoint.keep_every=9 \
    --set checkpoint.every=3 --set checkpoint.initial=true --set data.resident=no
ok "they stay: $(files b)" test "$(files b)" = "0 9 18 20 "
prints "all, on 4 ranks" 'step-000020.h5' 4 "$LOCKSTEP" train a.yaml \
    --set directory=c --set checkpoint.keep=0 --set checkpoint.every=4 --set data.resident=no
ok "all stay" test "$(files c | wc -w)" -eq 5
for run in b c; do
    ok "streaming beside saves changes no bit: $run" "$h5same" a/checkpoints/latest \
        $run/checkpoints/latest
    ok "nor the log: $run" cmp a/loss.log $run/loss.log
done

h5edit=$builddir/tests/h5edit
[ -x "$h5edit" ] || echo "Bail out! make tests/h5edit"
# damage FILE: in the middle.
damage() { printf 'damage' | dd of="$1" bs=1 seek=60000 conv=notrunc 2>/dev/null; }

cp -R a d
damage d/checkpoints/step-000020.h5
before='d/checkpoints/step-000020.h5: |the checkpoint before it is d/checkpoints/step-000018.h5'
bad "eval of a run whose newest checkpoint is damaged" "$before" "$LOCKSTEP" eval d a.h5
bad "generate from it" "$before" "$LOCKSTEP" generate d -p a
cp -R d t
truncate -s 50000 t/checkpoints/step-000020.h5
bad "show of one that is cut short" \
    "step-000020.h5: |the checkpoint before it is t/checkpoints/step-000018.h5" "$LOCKSTEP" show t
cp -R d e
prints "--resume passes over it and tells so" \
    'warning: d/checkpoints/step-000020.h5: |; trying step-000018.h5|from step 18|MiB read at' \
    "$LOCKSTEP" train a.yaml --set directory=d --resume
ok "to the same bits" "$h5same" a/checkpoints/latest d/checkpoints/latest
ok "and the same log" cmp a/loss.log d/loss.log
rm e/checkpoints/step-000020.h5
damage e/checkpoints/step-000018.h5
prints "one that is gone and a damaged one, on 2 ranks" \
    'step-000020.h5: expected a lockstep checkpoint, found no such file|trying step-000016.h5' \
    2 "$LOCKSTEP" train a.yaml --set directory=e --resume
ok "to the same bits" "$h5same" a/checkpoints/latest e/checkpoints/latest
cp -R a f
for step in 16 18 20; do damage f/checkpoints/step-0000$step.h5; done
run "$LOCKSTEP" train a.yaml --set directory=f --resume
ok "none that is whole: $(cat "$work/err")" says err 'step-000020.h5: ' \
    'no checkpoint before it is whole (3 tried); start again without --resume'
ok "exit code 2, both others were tried" test "$rc $(grep -c '; trying step-' "$work/out")" = "2 2"

# Whole ones that a start does not try by itself are named: those of later steps than the one that
# the user has moved the link back to, and any where the link leads to a name that is of no step.
for target in step-000016.h5 gone.h5; do
    rm -rf f
    cp -R a f
    damage f/checkpoints/step-000016.h5
    ln -sfn $target f/checkpoints/latest
    touch -d '1 minute ago' f/checkpoints/step-*.h5
    bad "$target, where 'latest' leads, is not whole: a newer one is named" \
        "f/checkpoints/$target: |there is no checkpoint before it; step-000020.h5 is there, too|\
'ln -sfn step-000020.h5 f/checkpoints/latest'" \
        2 "$LOCKSTEP" train a.yaml --set directory=f --resume
    ln -sfn step-000020.h5 f/checkpoints/latest
    prints "with the link as it says the run goes on" 'from step 20' \
        "$LOCKSTEP" train a.yaml --set directory=f --resume
done

# A run that was moved, with a link that was made by hand.
rm -rf f
cp -R a f
ln -sfn /gone/f/checkpoints/step-000020.h5 f/checkpoints/latest
prints "where 'latest' leads out of the directory the file of that name is tried next" \
    '/gone/f/checkpoints/step-000020.h5: |found no such file|trying step-000020.h5|from step 20' \
    "$LOCKSTEP" train a.yaml --set directory=f --resume

# Damaged files count no more: with room for two, both that stay are whole.
cp -R a g
damage g/checkpoints/step-000020.h5
damage g/checkpoints/step-000018.h5
prints "damaged ones are kept under another name" \
    'kept as g/checkpoints/step-000020.h5.damaged|kept as g/checkpoints/step-000018.h5.damaged' \
    "$LOCKSTEP" train a.yaml --set directory=g --resume --set checkpoint.every=1 \
    --set checkpoint.keep=2 --set train.stop_after=17
ok "the two newest that are whole stay: $(files g)" test "$(files g)" = "16 17 "
ok "nothing is lost" test -f g/checkpoints/step-000020.h5.damaged -a \
    -f g/checkpoints/step-000018.h5.damaged -a "$(readlink g/checkpoints/latest)" = step-000017.h5

# A run that was killed after a file was renamed and before the link was: a whole step is not lost.
cp -R a h
rm h/SAVED
ln -sf step-000018.h5 h/checkpoints/latest
touch -h -d '1 minute ago' h/checkpoints/latest
prints "a file that is newer than the link is taken" 'from step 20' \
    "$LOCKSTEP" train a.yaml --set directory=h --resume
ok "and the link leads to it" test "$(readlink h/checkpoints/latest)" = step-000020.h5
ok "and SAVED says that there are checkpoints" test -f h/SAVED

# What is no checkpoint, or one under another name.
cp -R a o
echo text >o/checkpoints/step-000020.h5
cp o/checkpoints/step-000016.h5 o/checkpoints/step-000022.h5
prints "a name that is not of the step in the file, and a text, are passed over" \
    'o/checkpoints/step-000022.h5: expected step 22, as it is named, found that it holds step 16|\
; trying step-000020.h5|o/checkpoints/step-000020.h5: expected a lockstep checkpoint, found a file \
that is not HDF5; use another checkpoint; trying step-000018.h5|from step 18' \
    "$LOCKSTEP" train a.yaml --set directory=o --resume
ok "to the same bits" same o a

# What leads out of a file, or needs a filter that is not lockstep's, is refused by every command,
# also where no command needs it.
for kind in soft external virtual coded; do
    rm -rf q
    cp -R a q
    "$h5edit" q/checkpoints/step-000020.h5 $kind notes
    case $kind in
    virtual) what="'notes' lies in other files, which is not followed" ;;
    coded) what="'notes': expected filters among deflate, shuffle and Fletcher-32" ;;
    *) what="'notes' is a soft or external link, which is not followed" ;;
    esac
    for command in 'eval q a.h5' 'generate q -p a' 'show q'; do
        bad "${command%% *} refuses a checkpoint with something $kind" "$what|before it is q/" \
            "$LOCKSTEP" $command
    done
    prints "--resume passes over it" "$what|trying step-000018.h5|from step 18" \
        "$LOCKSTEP" train a.yaml --set directory=q --resume
    cp a.h5 q.h5
    "$h5edit" q.h5 $kind notes
    bad "train refuses a dataset with it" "$what" \
        "$LOCKSTEP" train a.yaml --set directory=r --set data.file=q.h5
    bad "eval, too" "$what" "$LOCKSTEP" eval a q.h5
done

# ---- checkpoints that have gone astray -----------------------------------------------------------

cp -R a n
mv n/checkpoints away
astray='n/checkpoints: no checkpoint is there, but the run has saved some|bring them back'
bad "a run whose checkpoints are gone does not begin anew" "$astray" \
    "$LOCKSTEP" train a.yaml --set directory=n --resume-or-start
bad "nor on two ranks" "$astray" 2 "$LOCKSTEP" train a.yaml --set directory=n --resume-or-start
bad "nor go on" "$astray" "$LOCKSTEP" train a.yaml --set directory=n --resume
mkdir n/checkpoints
bad "nor if their disk is not mounted" "$astray" \
    "$LOCKSTEP" train a.yaml --set directory=n --resume-or-start
rmdir n/checkpoints
ln -s ../disk/checkpoints n/checkpoints
for option in --resume --resume-or-start; do
    bad "nor where a link led to them, $option" 'n/checkpoints: |found a link|No such file' \
        "$LOCKSTEP" train a.yaml --set directory=n $option
done
mkdir disk && mv away disk/checkpoints
prints "when they are back it goes on" 'from step 20' "$LOCKSTEP" train a.yaml --set directory=n \
    --resume-or-start
ok "and nothing is lost" same n a
ln -s nowhere/run lost
for option in '' --resume --resume-or-start; do
    bad "not in a directory that a lost link leads to, '$option'" \
        'lost: |found a link|No such file|mount what it leads to' \
        "$LOCKSTEP" train a.yaml --set directory=lost $option
done
mkdir p p/checkpoints
cp n/run.yaml n/lock n/loss.log n/validation.log n/starts.jsonl p
prints "killed before its first save, however late, a run begins anew" 'from step 0' \
    "$LOCKSTEP" train a.yaml --set directory=p --resume-or-start
ok "to the same bits" same p a

# A disk that does not give a file, though its content may be good.
faulty=$builddir/tests/faulty.so
[ -f "$faulty" ] || echo "Bail out! make tests/faulty.so"
faults="env LD_PRELOAD=$faulty FAULT_KIND=read"
cp -R a m
prints "a file that cannot be read is passed over, after some tries" \
    'm/checkpoints/step-000020.h5: |Input/output error; tried |trying step-000018.h5|from step 18' \
    $faults FAULT_FILE=step-000020.h5 "$LOCKSTEP" train a.yaml --set directory=m --resume \
    --set train.stop_after=19
ok "it keeps its name, and the run goes on without it" test -f m/checkpoints/step-000020.h5 -a \
    "$(readlink m/checkpoints/latest)" = step-000019.h5
prints "also when it can be read again" 'from step 19' "$LOCKSTEP" train a.yaml \
    --set directory=m --resume
ok "to the same bits" same m a
prints "what fails once is told, and read" \
    'warning: m/checkpoints/|read failed (Input/output error), tried again 1 time|from step 20' \
    $faults FAULT_FILE=step-000020.h5 FAULT_TIMES=1 "$LOCKSTEP" train a.yaml --set directory=m \
    --resume
cp -R a n
prints "also where a new one is read back" \
    'step-000022.h5.part: read failed (Input/output error), tried again 1 time|warning: n/' \
    $faults FAULT_FILE=.h5.part FAULT_TIMES=1 "$LOCKSTEP" train a.yaml --set directory=n --resume \
    --set train.steps=22
snapshot >"$work/before"
run $faults FAULT_FILE='checkpoints/step-*.h5' "$LOCKSTEP" train a.yaml --set directory=m --resume
ok "where none can be read it is the disk's fault: $(cat "$work/err")" test "$rc" -eq 3
ok "so says the message" says err 'm/checkpoints/step-000020.h5: ' \
    '3 checkpoints cannot be read: check the disk, then start again'
snapshot >"$work/after"
ok "and nothing is changed" diff "$work/before" "$work/after"

# ---- what a killed process has left ------------------------------------------------------------

cp -R a k
for name in step-000022.h5.part latest.part step-000022.h5.part-119537665-27606.lock \
    step-000022.h5.part.locktest.0 step-000022.h5.part.data.1 step-000022.h5.partial; do
    touch k/checkpoints/$name
done
prints "the next save" 'step-000022.h5' "$LOCKSTEP" train a.yaml --set directory=k --resume \
    --set train.steps=22
ok "removes it, and only it: $(find k/checkpoints -name '*part*')" \
    test "$(find k/checkpoints -name '*part*')" = k/checkpoints/step-000022.h5.partial

# ---- what is in the way ------------------------------------------------------------------------

before='lockstep: i/checkpoints/|found a directory; move it away'
cp -R a i
mkdir i/checkpoints/step-000022.h5
bad "a directory with the name of a checkpoint" "$before" \
    "$LOCKSTEP" train a.yaml --set directory=i --resume --set train.steps=24
mv i/checkpoints/step-000022.h5 i/checkpoints/latest.part
bad "or of the next link" "$before" "$LOCKSTEP" train a.yaml --set directory=i --resume
rmdir i/checkpoints/latest.part
mkfifo i/checkpoints/step-000021.h5 pipe
bad "a pipe is not waited for" \
    'step-000021.h5: |found something that is not a file; move it away' \
    "$LOCKSTEP" train a.yaml --set directory=i --resume
rm i/checkpoints/step-000021.h5
bad "nor as data" 'pipe: |found something that is not a file' \
    "$LOCKSTEP" train a.yaml --set directory=new --set data.file=pipe
bad "nor as a checkpoint" 'pipe: |found something that is not a file' "$LOCKSTEP" eval pipe a.h5
mkfifo i/log && mv i/log i/loss.log
bad "nor as a log" 'i/loss.log: |something that is not a file' \
    "$LOCKSTEP" train a.yaml --set directory=i --resume
rm i/loss.log
cp a/loss.log i/loss.log
mkfifo i/run.yaml.part
prints "nor where the run file is written" 'from step 20' \
    "$LOCKSTEP" train a.yaml --set directory=i --resume
mkdir i/run.yaml.part
bad "a directory there" 'i/run.yaml.part: a directory is in the way of the file; move it away' \
    "$LOCKSTEP" train a.yaml --set directory=i --resume
rmdir i/run.yaml.part

# A log that does not hold what was logged up to the checkpoint. log FILE EDIT TEXT [COMMAND].
more="--set train.steps=24 --set eval.every=6"
run "$LOCKSTEP" train a.yaml $more --set directory=logs --set train.stop_after=20
ok "a run with two validations, stopped" test "$rc" -eq 0 -a "$(wc -l <logs/validation.log)" -eq 3
log() {
    rm -rf j
    cp -R logs j
    sed "$2" logs/"$1" >j/"$1"
    bad "$1 after '$2'" "j/$1: expected the lines up to step |$3|put back a copy of the log" \
        "$LOCKSTEP" train a.yaml $more --set directory=j --resume
}
log loss.log '19,99d' 'step 20, |found its end after 18 lines|checkpoints after step 18 away'
log loss.log '1,99d' 'found its end after 0 lines'
log loss.log '7s/ .*/ rubbish/' 'found line 7, which is not|after step 6 away'
log loss.log '7s/ [^ ]* / /' 'found line 7, which is not'
log loss.log 7d 'found line 7, which is not'
log loss.log '20s/.$//; 20q' 'found line 20, which is not'
log validation.log '3d' 'step 18, |found its end after 2 lines'
log validation.log '2s/.*/12/' 'found line 2, which is not'
log validation.log '2s/^12/5/' 'found line 2, which is not'

# A line that is one, but not the one that was written: the run goes on, with a warning, at each
# start from then on. Its length stays.
changed='a line up to step 20 has changed since its checkpoint was saved'
run "$LOCKSTEP" train a.yaml $more --set directory=whole
for name in loss validation; do
    rm -rf j
    cp -R logs j
    sed '2s/ \([0-9]\)\.\([0-9]\)/ \2.\1/' logs/$name.log >j/$name.log
    prints "a number that has changed in $name.log is told" \
        "warning: j/$name.log: $changed (| bytes with digest |from step 20" 2 "$LOCKSTEP" train \
        a.yaml $more --set directory=j --resume --set train.stop_after=22
    ok "by one line" test "$(grep -c '^warning: ' "$work/out")" -eq 1
    prints "and told again by the next start" \
        "warning: j/$name.log: $changed, as the start from step 20 found; the run goes on" \
        "$LOCKSTEP" train a.yaml $more --set directory=j --resume
    ok "the bits of the run are those of one whose log is whole" \
        "$h5same" j/checkpoints/latest whole/checkpoints/latest
done
rm -rf j
cp -R logs j
for name in loss validation; do
    "$h5edit" j/checkpoints/step-000020.h5 forget ${name}_log_digest
done
sed '2s/ \([0-9]\)\.\([0-9]\)/ \2.\1/' logs/loss.log >j/loss.log
prints "a checkpoint that knows nothing of logs loads as before" 'from step 20' \
    "$LOCKSTEP" train a.yaml $more --set directory=j --resume
ok "without a warning" test "$(grep -c '^warning: ' "$work/out")" -eq 0
rm -rf j
cp -R logs j
"$h5edit" j/checkpoints/step-000020.h5 text loss_log_digest damaged
rm j/checkpoints/step-000018.h5 j/checkpoints/step-000016.h5
bad "one whose digest of a log is none" "'loss_log_digest': expected 32 hexadecimal digits" \
    "$LOCKSTEP" train a.yaml $more --set directory=j --resume

# A log, or a checkpoint, of another run.
run "$LOCKSTEP" train a.yaml $more --set directory=other --set seed=77 --set train.stop_after=20
rm -rf j
cp -R logs j
cp other/loss.log other/validation.log j
another='j/loss.log: expected |in the line of step 20, as in the checkpoint|one of the two is of'
bad "the logs of another seed" "$another" "$LOCKSTEP" train a.yaml $more --set directory=j --resume
rm -rf j other
cp -R logs j
run "$LOCKSTEP" train a.yaml $more --set directory=other --set optimizer.lr=0.1 \
    --set train.stop_after=20
cp other/checkpoints/step-000020.h5 j/checkpoints
bad "the checkpoint of another rate" "$another" \
    "$LOCKSTEP" train a.yaml $more --set directory=j --resume
rm -rf j
cp -R logs j
printf 'half a li' >>j/loss.log
printf '19 junk' >>j/validation.log
prints "what comes after the checkpoint is cut" 'from step 20' \
    "$LOCKSTEP" train a.yaml $more --set directory=j --resume
ok "and the run is that of one without a stop" same j whole
rm -rf j
cp -R logs j
rm j/loss.log j/validation.log
prints "logs that are gone are begun anew" \
    'warning: j/loss.log has nothing up to step 20|warning: j/validation.log has nothing' \
    "$LOCKSTEP" train a.yaml $more --set directory=j --resume --set train.stop_after=22
ok "with the next step" test "$(cut -d' ' -f1 j/loss.log | tr '\n' ' ')" = "21 22 "
prints "and go on" 'from step 22' "$LOCKSTEP" train a.yaml $more --set directory=j --resume
ok "as the others do" "$h5same" j/checkpoints/latest whole/checkpoints/latest

# A log that lies elsewhere, on a disk that is not there.
for name in loss.log validation.log; do
    rm -rf j
    cp -R logs j
    mv j/$name elsewhere.log
    ln -s ../elsewhere.log j/$name
    prints "$name may be a link" 'from step 20' "$LOCKSTEP" train a.yaml $more --set directory=j \
        --resume
    ok "and is that of a run without a stop" cmp elsewhere.log whole/$name
    ln -sfn ../gone/$name j/$name
    bad "$name, a link that leads nowhere" "j/$name: expected the log of a run, found a link that \
cannot be followed: No such file or directory; mount what it leads to, or remove the link" \
        "$LOCKSTEP" train a.yaml $more --set directory=j --resume
    ln -sfn $name j/$name
    bad "$name, a link to itself" "j/$name: expected the log of a run, found a link that cannot" \
        "$LOCKSTEP" train a.yaml $more --set directory=j --resume
done

# ---- steps that are skipped --------------------------------------------------------------------

# By a loss scale that is much too high, and grows again soon: steps 1-11, 14, 15, 18 and 19.
more="--set train.precision=fp16 --set loss_scale.initial=1e12 --set loss_scale.max=1e12"
more="$more --set loss_scale.interval=2 --set loss_scale.growth=16 --set loss_scale.backoff=0.25"
more="$more --set checkpoint.keep=0 --set checkpoint.every=7"
skipped() { awk '$6 != last { printf "%s ", $1 } { last = $6 }' "$1/loss.log"; }
run "$LOCKSTEP" train a.yaml $more --set directory=w
ok "steps are skipped in rows: $(skipped w)" test \
    "$(skipped w)" = "1 2 3 4 5 6 7 8 9 10 11 14 15 18 19 "
ok "the saves after steps 7 and 14 wait for one that counts: $(files w)" test \
    "$(files w)" = "12 16 20 "
for stop in 9 14 15; do
    rm -rf k
    ranks 2 "$LOCKSTEP" train a.yaml $more --set directory=k --set train.stop_after=$stop
    ok "stopped after step $stop: $(files k)" test "$rc" -eq 0
    ranks 4 "$LOCKSTEP" train a.yaml $more --set directory=k --resume
    ok "the same log" cmp k/loss.log w/loss.log
    rm -f "k/checkpoints/$(printf 'step-%06d.h5' $stop)"
    ok "but for that of the stop the same checkpoints: $(files k)" test "$(files k)" = "12 16 20 "
    for step in 12 16 20; do
        ok "step $step to the last bit" "$h5same" k/checkpoints/step-0000$step.h5 \
            w/checkpoints/step-0000$step.h5
    done
done

# ---- a run that diverges -----------------------------------------------------------------------

# It has room for one checkpoint and saves after each step; from step 9 on the rate is absurd. What
# is there at the end is finite, and a step that counts came after one of them.
more="--set checkpoint.every=1 --set checkpoint.keep=1 --set train.steps=300 --set eval.batches=0"
for precision in fp16 fp32; do
    rm -rf l
    run "$LOCKSTEP" train a.yaml $more --set directory=l --set train.precision=$precision \
        --set train.stop_after=8
    ranks 2 "$LOCKSTEP" train a.yaml $more --set directory=l --set train.precision=$precision \
        --resume --set optimizer.lr=100 --set optimizer.warmup=0 --set optimizer.clip=0
    note "$(grep '^lockstep: ' "$work/err")"
    ok "$precision: it ends with one message" test "$rc" -eq 1 -a \
        "$(grep -c '^lockstep: ' "$work/err")" -eq 1
    bad_step=$(awk '$2 !~ /^[0-9.e+-]+$/ { print $1; exit }' l/loss.log)
    newest=$(readlink l/checkpoints/latest | tr -dc 0-9 | sed 's/^0*//; s/5$//')
    ok "the newest is of step $newest, before step $bad_step, the first that is not finite" \
        test "$newest" -lt "$bad_step"
    ok "one is before that: $(files l)" test "$(files l | wc -w)" -eq 2
    for file in l/checkpoints/step-*.h5; do
        ok "all of $file is finite" "$h5same" "$file"
    done
    before=$(find l/checkpoints -name 'step-*.h5' | sort | head -n 1)
    newest=l/checkpoints/$(readlink l/checkpoints/latest)
    ok "the message names both" says err "$newest, " "move it away, so that --resume takes $before"
    rm "$newest" # as the message says
    prints "which it does" "trying ${before##*/}" "$LOCKSTEP" train a.yaml $more \
        --set directory=l --set train.precision=$precision --resume --set train.stop_after=$bad_step
done
finish
