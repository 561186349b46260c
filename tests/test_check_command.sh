#!/bin/sh
# lockstep check, the look that train takes at data, and drift: each planted fault is found and
# named, clean twins give no alarm, the report does not depend on the ranks.
# shellcheck disable=SC2317 # called by ok
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

misused=64

make=$builddir/tests/maketable
image=$builddir/tests/makeimage
h5edit=$builddir/tests/h5edit
[ -x "$make" ] && [ -x "$image" ] && [ -x "$h5edit" ] ||
    echo "Bail out! make tests/maketable tests/makeimage tests/h5edit"

# check DESCRIPTION STATUS 'TEXT|TEXT...' ARGUMENT...: the status and the texts.
check() {
    tap_what=$1 tap_status=$2 tap_texts=$3
    shift 3
    run "$LOCKSTEP" check "$@"
    tap_missing=
    tap_ifs=$IFS
    IFS='|'
    for tap_line in $tap_texts; do
        says out "$tap_line" || tap_missing="$tap_missing '$tap_line'"
    done
    IFS=$tap_ifs
    if [ "$rc" -eq "$tap_status" ] && [ -z "$tap_missing" ] && [ ! -s "$work/err" ]; then
        pass "$tap_what"
    else
        fail "$tap_what"
        note "expected status $tap_status; missing:$tap_missing"
        note_run "check $*"
    fi
}

# findings N: the last check named so many.
findings() { [ "$(grep -c -E '^(note|warning|unfit) ' "$work/out")" -eq "$1" ]; }

# fault DESCRIPTION STATUS TEXTS FAULT...: a table with planted faults.
fault() {
    fault_what=$1 fault_status=$2 fault_texts=$3
    shift 3
    rm -f fault.h5
    "$make" fault.h5 6000 8 4 11 "$@" || echo "Bail out! maketable"
    check "$fault_what" "$fault_status" "$fault_texts" fault.h5
}

# ---- tables ------------------------------------------------------------------------------------

"$make" clean.h5 6000 8 4 1 || echo "Bail out! maketable"
check "a clean table is fit" 0 \
    '5,400 training and 600 validation rows|c07|entropy 1.999' clean.h5
ok "without any finding" findings 0
# shellcheck disable=SC2046 # a few numbers
"$make" wide.h5 3000 300 4 1
check "so is one of 300 columns" 0 'note     level 3 looks at the first 256 of 300 columns' wide.h5
ok "with the one note" findings 1
fault "NaN: column and row" 2 "unfit    train: column 'c01': 1 value is NaN; at row 17" nan=17:1
ok "and nothing else" findings 1
fault "infinity" 2 "unfit    train: column 'c02': 1 value is infinite; at row 4000" inf=4000:2
ok "and nothing else" findings 1
fault "a value whose square overflows" 1 "warning  train: column 'c03': 1 value is beyond 1e18" \
    huge=5:3
fault "a constant column" 1 "warning  train: column 'c04' is 7 everywhere" constant=4
ok "and nothing else" findings 1
fault "the label in a column" 1 "warning  train: 'c05' alone tells 9" leak=5
ok "and nothing else" findings 1
for n in 60 300; do
    "$make" leaky.h5 20000 8 $n 11 leak=5 || echo "Bail out! maketable"
    check "the label in a column, of $n classes" 1 "warning  train: 'c05' alone tells " leaky.h5
    ok "and nothing else" findings 1
    "$make" leaky.h5 20000 8 $n 11 || echo "Bail out! maketable"
    check "its twin tells nothing" 0 fit leaky.h5
    ok "nor is anything else found" findings 0
done
"$make" leaky.h5 1200 3 30 11 leak=1 || echo "Bail out! maketable"
check "the label in a column, few samples of 30 classes" 1 "train: 'c01' alone tells " leaky.h5
ok "and nothing else" findings 1
# outlier FILE.h5 ZEROS LABEL: a column whose middle half may be one value, some far out.
outlier() {
    seq 3000 | awk -v zeros="$2" 'BEGIN { print "few,x,label" }
    {
        class = NR % 10 < zeros ? 0 : NR % 10 - zeros + 1
        print (NR % 1000 == 5 ? 1e9 : class) "," NR * 7919 % 3001 ",k" ('"$3"')
    }' >outlier.csv
    "$LOCKSTEP" import csv outlier.csv --label label -o "$1" --force >/dev/null ||
        echo "Bail out! import"
}
outlier out.h5 8 class
check "the label in a column of which three cells are a million times the rest" 1 \
    "warning  train: 'few' alone tells |  few " out.h5
ok "and nothing else" findings 1
ok "whose median is the frequent value" grep -qE '^  few +[^ ]+ +[^ ]+ +0 +0 +1e\+09 ' "$work/out"
outlier far.h5 8 'NR % 3'
outlier near.h5 3 'NR % 3'
check "drift of such a column" 1 "warning  train: 'few' has drifted from far.h5: PSI " \
    near.h5 --against far.h5
ok "in both splits, and nothing else" findings 2
seq 3000 | awk 'BEGIN { print "far,x,label" }
    { print (NR % 10 < 8 ? NR * 1e-25 : 1e10) "," NR * 7919 % 3001 ",k" NR % 3 }' >far.csv
prints "a column that is too wide for bins" 'training' \
    "$LOCKSTEP" import csv far.csv --label label -o wide.h5 --force
"$LOCKSTEP" check wide.h5 --json | sed -n '/"quantiles"/,/]/p' >quantiles
ok "has quantiles that are not known" [ "$(grep -c null quantiles)" -eq 2 ]
fault "two columns that are the same" 1 "'c00' and 'c07' are nearly the same: r = 0.9" pair=0:7
ok "and nothing else" findings 1
fault "samples that are there twice" 1 \
    'train: 40 of 5400 samples repeat an earlier one (row 5360 is row 10); at row 5360, 5361' \
    copies=40
ok "and nothing else" findings 1
fault "with other labels" 1 \
    'train: 40 of 5400 samples repeat|train: 40 of these have another label' conflicts=40
ok "and nothing else" findings 2
fault "validation samples that are in train" 1 \
    'validation: 9 of 600 samples are in train too (row 0 is row 20 of train)' overlap=9
ok "and nothing else" findings 1
fault "one copy among thousands is a note" 0 'note     train: 1 of 5400 samples' copies=1
fault "a class without samples" 1 "train: class 'k2' has no samples" missing=2
fault "one class only" 2 "unfit    train: every label is 'k2': there is nothing to learn; import" \
    only=2
ok "and nothing else" findings 1
fault "a rare class" 1 "train: class 'k2' has |of an equal share" rare=2
fault "a label that is no class" 2 \
    'unfit    train: 1 label is not below the number of classes 4; at row 77' label=77
ok "and nothing else" findings 1
fault "all at once, the worst first" 2 \
    "column 'c01': 2 values are NaN; at row 17, 5367|c04|c05|alone tells|samples" \
    nan=17:1 constant=4 leak=5 pair=0:7 copies=40 overlap=9 missing=2

"$make" many.h5 3000 2 2000 1
check "nearly as many classes as samples" 1 "warning  3000 samples are of 2000 classes; look \
whether the right column was taken for the label" many.h5
ok "and no other" findings 1
"$make" many.h5 3000 2 1000 1
check "many classes without samples are one finding" 1 \
    "of 1000 classes have no samples, the first is 'k" many.h5
ok "and no other" findings 1
run "$LOCKSTEP" check fault.h5 --against clean.h5 --html page.html
ok "a page for people" [ "$rc" -eq 2 ]
ok "names the faults, has charts, and asks for nothing" sh -c "grep -q 'c01.*NaN' page.html &&
    grep -q '<svg' page.html && grep -q 'has drifted' page.html &&
    ! grep -qE '(src|href)=.http' page.html"
ok "and numbers that do not break, none of them -0.00" sh -c "
    grep -q 'td.r{white-space:nowrap}' page.html && grep -q '>0.00<' page.html &&
    ! grep -q '>-0.00<' page.html"
run "$LOCKSTEP" check fault.h5 --level 1
ok "level 1 has neither labels nor features" sh -c "! grep -qE 'class|correl|tells' '$work/out'"
run "$LOCKSTEP" check fault.h5 --level 2
ok "level 2 has labels" sh -c "grep -q 'has no samples' '$work/out' &&
    ! grep -qE 'correl|tells' '$work/out'"
check "thresholds: samples asked for" 2 'unfit    train: 5400 samples, fewer than 6000' clean.h5 \
    --min-samples 6000
check "and met" 0 'fit' clean.h5 --min-samples 5400
"$make" small.h5 500 3 2 1
check "few samples, where nothing was asked, are a warning" 1 \
    'warning  train: 450 samples, fewer than 1000' small.h5
check "share" 1 'of an equal share' clean.h5 --min-share 1
check "correlation" 1 'are nearly the same' clean.h5 --correlation 0.001
check "leak" 1 'alone tells' clean.h5 --leak 0.0001

# ---- damage ------------------------------------------------------------------------------------

cp clean.h5 damaged.h5
"$h5edit" damaged.h5 token train/labels 3 1 0
"$h5edit" damaged.h5 token train/labels 4 1 1
check "labels that were changed" 2 'train: labels are not those that were imported' damaged.h5
cp clean.h5 damaged.h5
printf 'XXXXXXXX' | dd of=damaged.h5 bs=1 seek=100000 conv=notrunc 2>/dev/null
check "a chunk that was" 2 "unfit    train: features are not those that were imported" damaged.h5
bad "no dataset" 'clean.h4: expected a lockstep dataset, found no such file' \
    "$LOCKSTEP" check clean.h4
bad "something else" 'found a file that is not HDF5' "$LOCKSTEP" check "$make"
misuse "no data" 'DATA is missing' "$LOCKSTEP" check
misuse "a level" '--level: expected a whole number from 1 to 3' "$LOCKSTEP" check clean.h5 --level 4
misuse "a share" '--min-share: expected a number from 0 to 1' \
    "$LOCKSTEP" check clean.h5 --min-share x
misuse "half a sample" "--min-samples: expected a whole number from 0 to 1000000000000000, found" \
    "$LOCKSTEP" check clean.h5 --min-samples 1.5
misuse "a file for JSON" "'out.json'; --json takes none: the report goes to the standard output" \
    "$LOCKSTEP" check clean.h5 --json out.json
# a dataset that cannot be read to its end: were it looked at first, that would be said
for n in 1 2; do
    bad "a page in no folder, before the data is looked at, $n ranks" \
        'no/page.html: cannot write into no' $n "$LOCKSTEP" check damaged.h5 --html no/page.html
done
bad "a page that is a folder" '.: cannot write a file: it is a directory' \
    "$LOCKSTEP" check damaged.h5 --html .
bad "metrics in no folder" 'no/x.prom: cannot write into no' \
    "$LOCKSTEP" check damaged.h5 --against clean.h5 --prometheus no/x.prom
bad "temporary files in none" '--tmp no: expected a directory that can be written to: No such' \
    "$LOCKSTEP" check damaged.h5 --tmp no
bad "or in a file" '--tmp clean.h5: expected a directory that can be written to: Not a dir' \
    "$LOCKSTEP" check damaged.h5 --tmp clean.h5

# ---- ranks -------------------------------------------------------------------------------------

"$make" big.h5 120000 8 4 5 nan=70000:1 copies=300 overlap=70 leak=5 pair=0:7
"$LOCKSTEP" check big.h5 --json --against clean.h5 >one.json
ok "JSON says so" grep -q '"verdict": "unfit"' one.json
ok "and what, where" grep -q '"rows": \[' one.json
for n in 2 3 4; do
    ranks "$n" "$LOCKSTEP" check big.h5 --json --against clean.h5
    ok "the same JSON on $n ranks" cmp one.json "$work/out"
done
"$make" classes.h5 60000 8 300 5 leak=5
"$LOCKSTEP" check classes.h5 --json >classes.json
ranks 3 "$LOCKSTEP" check classes.h5 --json
ok "the same of 300 classes on 3 ranks" cmp classes.json "$work/out"
OMP_NUM_THREADS=3 "$LOCKSTEP" check big.h5 --json --against clean.h5 >three.json
ok "and with three threads" cmp one.json three.json

# ---- drift -------------------------------------------------------------------------------------

"$make" twin.h5 6000 8 4 2
"$make" shifted.h5 6000 8 4 3 shift=3 || echo "Bail out! maketable"
"$make" fewer.h5 6000 7 4 2
check "a twin has not drifted" 0 'drift from the training data of clean.h5|c03|label' \
    twin.h5 --against clean.h5
ok "no finding" findings 0
check "a column that has, in both splits" 1 "warning  train: 'c03' has drifted from clean.h5: PSI |\
warning  validation: 'c03' has drifted from clean.h5: PSI |drift: both|above its noise" \
    shifted.h5 --against clean.h5
ok "is the only one" findings 2
"$make" moved.h5 6000 8 4 3 moved=3 || echo "Bail out! maketable"
check "in one split, which the other does not hide" 1 \
    "warning  validation: 'c03' has drifted from clean.h5: PSI |drift: validation" \
    moved.h5 --against clean.h5
ok "is the only one" findings 1
check "validation is compared with train without being asked" 1 \
    "warning  validation: 'c03' is not distributed as in train: PSI |most of 'c03'" moved.h5
ok "that alone" findings 1
check "at level 1 too" 1 "'c03' is not distributed as in train" moved.h5 --level 1
check "of a clean table nothing is said" 0 'validation against train: mean PSI 0.0' clean.h5
run "$LOCKSTEP" check clean.h5 --against clean.h5 --json
ok "the training split of the reference itself has a PSI of 0" sh -c "
    sed -n '/\"drift\"/,\$p' '$work/out' | sed -n '/\"train\"/,/\"features\"/p' |
    grep -q '\"psi\": 0\.0,'"
check "for Prometheus" 1 'c03' shifted.h5 --against clean.h5 --prometheus drift.prom
ok "every feature is there, and how many have drifted" sh -c "
    grep -q '^lockstep_drift_psi{data=\"shifted.h5\",split=\"train\",feature=\"c03\"} [01]\.[3-9]' \
        drift.prom &&
    grep -q '^lockstep_drift_features{data=\"shifted.h5\",split=\"validation\"} 1' drift.prom &&
    [ \$(grep -c '^lockstep_drift_kl_nats{' drift.prom) -eq 18 ] &&
    [ \$(grep -c '^lockstep_drift_noise_psi{' drift.prom) -eq 18 ] &&
    [ \$(grep -c '^# TYPE' drift.prom) -eq 7 ]"
misuse "for Prometheus without a reference" 'needs --against' \
    "$LOCKSTEP" check clean.h5 --prometheus drift.prom
check "another threshold" 0 'c03' shifted.h5 --against clean.h5 --psi 2
cp clean.h5 old.h5
"$h5edit" old.h5 forget reference
"$LOCKSTEP" check shifted.h5 --json --against clean.h5 | sed -n '/"drift"/,$p' |
    grep -v against >new.drift
"$LOCKSTEP" check shifted.h5 --json --against old.h5 | sed -n '/"drift"/,$p' |
    grep -v against >old.drift
ok "a file that is older than references is looked at" grep -q '"drifted": true' old.drift
bad "other columns" "fewer.h5: expected the columns of clean.h5, found no column 'c07'" \
    "$LOCKSTEP" check fewer.h5 --against clean.h5
check "a column that the reference does not have" 0 \
    "note     column 'c07' is not compared: it is not in the reference" \
    clean.h5 --against fewer.h5
ok "is the only finding" findings 1
"$make" wider.h5 6000 10 4 1
check "three of them" 0 \
    "note     3 columns are not compared, the first is 'c07': they are not in the reference" \
    wider.h5 --against fewer.h5
"$make" group.h5 6000 1 4 1
"$h5edit" group.h5 text reference '{"version": 1, "samples": 5400, "features": [
    {"name": "c00", "ordered": true, "center": 0, "inverse_scale": 1, "last_bin": [8191],
     "count": [5400]}, {"name": "label", "count": [1350, 1350, 1350, 1350]}]}'
check "a reference in which a column is one group" 1 "warning  column 'c00' is not compared: the \
reference has its values in one group; import the reference again" group.h5
cp clean.h5 wrong.h5
"$h5edit" wrong.h5 text reference '{"version": 1}'
bad "a damaged reference" "wrong.h5: attribute 'reference': expected the distribution" \
    "$LOCKSTEP" check twin.h5 --against wrong.h5

# ---- images ------------------------------------------------------------------------------------

"$image" shapes 1200 12 1 i l
"$image" shapes 300 12 2 vi vl
prints "import of images" '1200 training and 300 validation' \
    "$LOCKSTEP" import idx i l vi vl -o s.h5 --classes rows,columns,checks,disc
check "clean images are fit" 0 'channel 0|channel 0 cell 3,3|disc' s.h5
ok "no finding" findings 0
check "nor do they drift from themselves" 0 'drift from the training data of s.h5|channel 0' \
    s.h5 --against s.h5
cp s.h5 t.h5
"$h5edit" t.h5 row train/images 7 9
check "an image of one value, which is also not the one imported" 2 \
    'unfit    train: images are not those|train: 1 image is of one value everywhere; at row 7' t.h5
prints "the same images in both splits" '1200 training and 1200 validation' \
    "$LOCKSTEP" import idx i l i l -o twice.h5
check "are seen" 1 'validation: 1200 of 1200 samples are in train too (row 0 is row 0 of train)' \
    twice.h5
bad "images against a table" "s.h5: expected data of kind 'table' as in clean.h5, found 'images'" \
    "$LOCKSTEP" check s.h5 --against clean.h5
ranks 2 "$LOCKSTEP" check s.h5 --json
cp "$work/out" two.json
run "$LOCKSTEP" check s.h5 --json
ok "images on two ranks" cmp two.json "$work/out"

# ---- texts, train and eval ---------------------------------------------------------------------

awk 'BEGIN { while (i++ < 3000) { x = (x * 1103515245 + 12345) % 2147483648;
    print "the quick brown fox " i " jumps over " x } }' >a.txt
head -c 20000 a.txt >copy.txt
prints "import of a text" 'vocabulary of ' "$LOCKSTEP" import text a.txt -o a.h5 -v character
check "a clean text is fit" 0 'passages of 50 tokens|knows the token before' a.h5
ok "no finding" findings 0
printf 'abcdefghijabcdefghijabcdefghijabcdefghijjihgfedcba' >tiny.txt
prints "a text of less than 64 tokens" 'vocabulary of ' \
    "$LOCKSTEP" import text tiny.txt -o tiny.h5 -v character
check "is short" 1 'warning  train: 45 tokens, fewer than 1000' tiny.h5
ok "and has not drifted" findings 1
prints "and of one whose end is its beginning" 'vocabulary of ' \
    "$LOCKSTEP" import text a.txt copy.txt -o c.h5 -v character
check "which is seen wherever the passages begin" 1 \
    'of its passages of 50 tokens are in train too (token ' c.h5
cat >r.yaml <<END
directory: run
data:
  file: a.h5
model:
  layers: 1
  width: 16
  heads: 2
  context: 16
train:
  steps: 3
  batch: 4
  device: $DEVICE
END
prints "training looks at data once" 'step 3/3' "$LOCKSTEP" train r.yaml
ok "and notes it beside the file" grep -q '"warnings": \[\]' a.h5.check.json
drift='"event": *"drift".*"split": *"validation".*"drifted": *0.*"name": *"tokens", *"psi"'
ok "the run log has the drift of validation from train" grep -q "$drift" run/run.jsonl
prints "another run on it" 'step 3/3' "$LOCKSTEP" train r.yaml --set directory=again \
    --set log.prometheus=true
ok "has it too, from the note" grep -q "$drift" again/run.jsonl
ok "and in its metrics" sh -c "
    grep -q '^lockstep_drift_psi{run=\"again\",split=\"validation\",feature=\"tokens\"} 0\.' \
        again/metrics.prom &&
    grep -q '^lockstep_drift_noise_psi{' again/metrics.prom &&
    grep -q '^lockstep_drift_features{run=\"again\",split=\"validation\"} 0\$' again/metrics.prom"
cp c.h5 d.h5
prints "warnings are said" 'warning: data: validation: ' "$LOCKSTEP" train r.yaml \
    --set directory=run2 --set data.file=d.h5
cp d.h5.check.json seen.json
prints "again without another look" 'warning: data: validation: ' "$LOCKSTEP" train r.yaml \
    --set directory=run3 --set data.file=d.h5
ok "the note is the same" cmp seen.json d.h5.check.json
"$h5edit" d.h5 token train/tokens 5 3 1
misused=2
bad "a file that was changed since is not what was noted" \
    "d.h5: 'train/tokens': rows 0 to |are not those that were imported" \
    "$LOCKSTEP" train r.yaml --set directory=run4 --set data.file=d.h5
awk 'BEGIN { while (i++ < 3000) printf "a" }' >one.txt
prints "a text of one token" 'vocabulary of ' \
    "$LOCKSTEP" import text one.txt -o one.h5 -v character
bad "unfit data stop a run" \
    "one.h5: expected data fit for training, found 1 fault: train: every token is 'a'|data.check" \
    "$LOCKSTEP" train r.yaml --set directory=run5 --set data.file=one.h5
prints "unless it is told not to look" 'step 3/3' "$LOCKSTEP" train r.yaml --set directory=run5 \
    --set data.file=one.h5 --set data.check=off
ok "then there is no drift to tell" sh -c "! grep -q drift run5/run.jsonl"
cp c.h5 e.h5
mkdir e.h5.check.json
prints "where the note cannot be beside the file" 'warning: data: validation: ' \
    "$LOCKSTEP" train r.yaml --set directory=run6 --set data.file=e.h5
ok "it is in the run directory" grep -q 'passages' run6/check.json
ok "and nothing is left" test -z "$(find . -name '*.part')"
prints "eval compares with the training data" 'drift from the training data: PSI 0.0' \
    "$LOCKSTEP" eval run a.h5 --prometheus eval.prom
ok "for Prometheus too" \
    grep -q '^lockstep_drift_psi{data="a.h5",split="validation",feature="tokens"} ' eval.prom
check "so does check with a run" 0 \
    'drift from the training data of run/checkpoints/step-000003.h5|tokens' a.h5 --against run
awk 'BEGIN { while (i++ < 900) print "own jumps jumps" }' >z.txt
prints "a text with another end" 'vocabulary of ' \
    "$LOCKSTEP" import text a.txt z.txt -o z.h5 -v character
run "$LOCKSTEP" eval run z.h5
ok "whose drift is a warning" grep -q "^warning: 'tokens' has drifted: PSI " "$work/err"
sed 's/a.h5/z.h5/' r.yaml >z.yaml
prints "a run on it says so" "warning: data: validation: 'tokens' is not distributed as in train" \
    "$LOCKSTEP" train z.yaml --set directory=zrun --set log.prometheus=true
ok "in its metrics too" grep -q '^lockstep_drift_features{.*split="validation"} 1$' \
    zrun/metrics.prom
finish
