#!/bin/sh
# lockstep check on images and texts: each planted fault is found and named, and nothing else is;
# clean twins of every kind of data give no alarm. Tables: test_check_command.sh.
# shellcheck disable=SC2016,SC2317 # awk programs; called by ok
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

table=$builddir/tests/maketable
pictures=$builddir/tests/makepictures
h5edit=$builddir/tests/h5edit
[ -x "$table" ] && [ -x "$pictures" ] && [ -x "$h5edit" ] ||
    echo "Bail out! make tests/maketable tests/makepictures tests/h5edit"

# check DESCRIPTION STATUS FINDINGS 'TEXT|TEXT...' ARGUMENT...: the status, so many findings and
# these texts.
check() {
    check_what=$1 check_status=$2 check_findings=$3 check_texts=$4
    shift 4
    run "$LOCKSTEP" check "$@"
    check_found=$(grep -c -E '^(note|warning|unfit) ' "$work/out")
    check_missing=
    check_ifs=$IFS
    IFS='|'
    for check_text in $check_texts; do
        says out "$check_text" || check_missing="$check_missing '$check_text'"
    done
    IFS=$check_ifs
    if [ "$rc" -eq "$check_status" ] && [ "$check_found" -eq "$check_findings" ] &&
        [ -z "$check_missing" ] && [ ! -s "$work/err" ]; then
        pass "$check_what"
    else
        fail "$check_what"
        note "expected status $check_status, $check_findings findings; missing:$check_missing"
        note_run "check $*"
    fi
}

# ---- clean twins -------------------------------------------------------------------------------

for seed in 1 2 3 4; do
    "$table" table.h5 5000 12 $seed $seed || echo "Bail out! maketable"
    "$table" again.h5 3000 12 $seed 9$seed || echo "Bail out! maketable"
    [ $seed -gt 1 ] || continue # one class is none
    check "a clean table of $seed classes" 0 0 'against train' table.h5
    check "and its twin" 0 0 'drift from the training data of table.h5' again.h5 --against table.h5
    "$pictures" twin.h5 1500 12 $((seed - 1)) $seed $seed || echo "Bail out! makepictures"
    "$pictures" again.h5 1200 12 $((seed - 1)) $seed 9$seed || echo "Bail out! makepictures"
    check "clean images of $((seed - 1)) channels, $seed classes" 0 0 'against train' twin.h5
    check "and their twin" 0 0 'drift from the training data of twin.h5' again.h5 --against twin.h5
done

# ---- images ------------------------------------------------------------------------------------

# fault DESCRIPTION STATUS FINDINGS TEXTS FAULT...: images with planted faults.
fault() {
    fault_what=$1 fault_status=$2 fault_findings=$3 fault_texts=$4
    shift 4
    rm -f fault.h5
    "$pictures" fault.h5 1500 12 3 4 5 "$@" || echo "Bail out! makepictures"
    check "images: $fault_what" "$fault_status" "$fault_findings" "$fault_texts" fault.h5
}

fault "that are there twice" 1 1 \
    'train: 40 of 1350 samples repeat an earlier one (row 1310 is row 10); at row 1310, 1311' \
    copies=40
fault "with another label" 1 2 'train: 40 of these have another label' conflicts=40
fault "one copy among thousands is a note" 0 1 'note     train: 1 of 1350 samples' copies=1
fault "that are in both splits" 1 1 \
    'validation: 9 of 150 samples are in train too (row 0 is row 20 of train)' overlap=9
fault "a class without samples" 1 1 "train: class 'k2' has no samples" missing=2
fault "a rare class" 1 1 "train: class 'k2' has |of an equal share" rare=2
fault "one class only" 2 1 "unfit    train: every label is 'k1': there is nothing to learn" only=1
fault "a label that is no class" 2 1 \
    'unfit    train: 1 label is not below the number of classes 4; at row 77' label=77
fault "one that is blank" 1 1 'train: 1 image is of one value everywhere; at row 7' blank=7
fault "a channel that is the same everywhere" 1 1 'train: channel 1 is 77 everywhere' constant=1
fault "a channel that is a copy" 1 1 \
    "train: 'channel 0' and 'channel 2' are nearly the same: r = 1.0000" same=0:2
fault "whose brightness tells the class" 1 1 \
    "train: 'channel 1' alone tells 9" leak=1
fault "brighter in validation" 1 1 \
    "warning  validation: 'channel 1' is not distributed as in train: PSI " moved=1
"$pictures" clean.h5 1500 12 3 4 6 || echo "Bail out! makepictures"
"$pictures" shifted.h5 1500 12 3 4 7 shift=2 || echo "Bail out! makepictures"
"$LOCKSTEP" check clean.h5 --json >clean.json
ok "images: the least and largest mean of a cell are those of a cell of 9 pixels" awk '
    /"(min|max)":/ { x = 9 * $2; d = x - int(x + 0.5); n++; bad += d > 1e-4 || d < -1e-4 }
    END { exit n != 102 || bad }' clean.json
check "images: brighter than before" 1 2 "train: 'channel 2' has drifted from clean.h5: PSI |\
validation: 'channel 2' has drifted|drift: both" shifted.h5 --against clean.h5
check "images: seen without looking at features too" 1 2 "train: 'channel 2' has drifted" \
    shifted.h5 --against clean.h5 --level 1

# ---- texts -------------------------------------------------------------------------------------

# words COUNT SEED [LETTERS]: lines of words of a language.
words() {
    awk -v n="$1" -v x="$2" -v letters="${3:-etaoinshrdlu}" '
    function next_number(below) { x = (x * 69069 + 1) % 4294967296; return int(x / 65536) % below }
    BEGIN {
        while (lines++ < n) {
            line = ""
            for (i = 0; i < 10; i++) {
                for (k = 2 + next_number(6); k > 0; k--) {
                    rank = next_number(length(letters)) # the first letters are frequent
                    if (next_number(2)) rank = int(rank / 3)
                    line = line substr(letters, 1 + rank, 1)
                }
                line = line " "
            }
            print line
        }
    }'
}

# text FILE.h5 PART...: a dataset of them in this order; the last tenth is for validation.
text() {
    rm -f "$1"
    "$LOCKSTEP" import text -v character -o "$@" >"$work/import" 2>&1 ||
        echo "Bail out! import: $(cat "$work/import")"
}

words 1800 1 >a.txt
words 200 2 >end.txt
words 2000 3 >b.txt
text a.h5 a.txt end.txt
check "a clean text" 0 0 'against train|knows the token before' a.h5
text b.h5 b.txt
check "and its twin" 0 0 'drift from the training data of a.h5' b.h5 --against a.h5
head -n 500 a.txt >part.txt
text twice.h5 part.txt a.txt end.txt
check "a text: passages that are there twice" 1 1 \
    'warning  train: |of its passages of 50 tokens repeat an earlier one; at token ' twice.h5
head -n 20 a.txt >line.txt
text few.h5 line.txt a.txt end.txt
check "a text: few of them are a note" 0 1 'note     train: |repeat an earlier one' few.h5
head -n 150 a.txt >part.txt
text overlap.h5 a.txt end.txt part.txt
check "a text: passages of validation that are in train" 1 1 \
    'warning  validation: |of its passages of 50 tokens are in train too (token ' overlap.h5
words 300 4 srhtaoie >other.txt
text moved.h5 a.txt other.txt
check "a text: other letters in validation" 1 1 \
    "validation: 'tokens' is not distributed as in train: PSI " moved.h5
words 2000 5 srhtaoie >other.txt
text drifted.h5 other.txt
check "a text: other letters than before" 1 2 "train: 'tokens' has drifted from a.h5: PSI |\
validation: 'tokens' has drifted from a.h5: PSI |drift: both" drifted.h5 --against a.h5
words 1 6 wyz >new.txt
text unseen.h5 a.txt end.txt new.txt
check "a text: tokens that train does not have" 0 1 \
    'note     validation: |tokens are of 3 kinds that train does not have' unseen.h5
awk 'BEGIN { while (i++ < 3000) printf "a" }' >one.txt
text one.h5 one.txt
check "a text: of one token" 2 1 "unfit    train: every token is 'a': there is nothing to learn" \
    one.h5
awk 'BEGIN { while (i++ < 3000) printf i % 2 ? "a" : "b"; printf "c" }' >one.txt
text one.h5 one.txt
check "a text: one token that train does not have" 1 3 \
    'note     validation: 1 token is of 1 kind that train does not have' one.h5
cp a.h5 bad.h5
"$h5edit" bad.h5 token train/tokens 500 1 200
check "a text: a token that the vocabulary does not have" 2 2 \
    'unfit    train: 1 token is not below the vocabulary size |; at token 500' bad.h5

finish
