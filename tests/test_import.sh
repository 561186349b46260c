#!/bin/sh
# Import of images and tables as a user sees it: what is printed, what bad input gets, several
# ranks, an import that was killed, a real data set where it is installed.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

make=$builddir/tests/makeimage
h5edit=$builddir/tests/h5edit
[ -x "$make" ] && [ -x "$h5same" ] || echo "Bail out! tests/makeimage or tests/h5same is missing"

# bad_files DESCRIPTION 'TEXT|TEXT' [N] COMMAND...: as bad(), but before the one line of error there
# may be one for each bad file; of images x.h5.part stays, and is moved to $work/kept.
bad_files() {
    what=$1 texts=$2
    shift 2
    snapshot >"$work/before"
    case $1 in
    [1-9]) ranks "$@" ;;
    *) run "$@" ;;
    esac
    missing=
    case " $* " in *' images '*) mv x.h5.part "$work/kept" || missing=" x.h5.part" ;; esac
    snapshot >"$work/after"
    old_ifs=$IFS
    IFS='|'
    for text in $texts; do
        says err "$text" || missing="$missing '$text'"
    done
    IFS=$old_ifs
    if [ "$rc" -eq 2 ] && [ -z "$missing" ] && [ ! -s "$work/out" ] &&
        [ "$(grep -c '^lockstep: ' "$work/err")" -eq 1 ] &&
        cmp -s "$work/before" "$work/after"; then
        pass "$what: $(grep '^lockstep: ' "$work/err")"
    else
        fail "$what"
        note "missing:$missing"
        note_run "$*"
    fi
}

digest() { "$LOCKSTEP" show "$1" | awk '$1 == "digest" { print $2 }'; }

# ---- the command line ------------------------------------------------------------

misuse "import of no kind" 'kind of data is missing' "$LOCKSTEP" import
misuse "import of another kind" 'expected text, idx, images or csv' \
    "$LOCKSTEP" import pictures d -o x.h5
misuse "idx of one file" 'IMAGES LABELS' "$LOCKSTEP" import idx i -o x.h5
misuse "idx of three files" 'IMAGES LABELS' "$LOCKSTEP" import idx i l vi -o x.h5
misuse "images without a size" '--size is missing' "$LOCKSTEP" import images d -o x.h5
misuse "images of no size" 'expected HEIGHTxWIDTH' "$LOCKSTEP" import images d -o x.h5 --size 32
misuse "images of size 0" 'expected HEIGHTxWIDTH' "$LOCKSTEP" import images d -o x.h5 --size 0x8
misuse "two folders" 'one DIR of images' "$LOCKSTEP" import images d e -o x.h5 --size 8x8
misuse "two channels" 'expected 1 or 3' "$LOCKSTEP" import images d -o x.h5 --size 8x8 --channels 2
misuse "another resizing" 'expected crop, fit or stretch' \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --resize cut
misuse "a negative number" 'a whole number from 0' \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --max-bad=-1
misuse "csv without a label" '--label is missing' "$LOCKSTEP" import csv t.csv -o x.h5
prints "help says what a table is for" 'no model learns from tables yet.' \
    env ARGP_HELP_FMT=rmargin=999 "$LOCKSTEP" import --help
misuse "an option of another kind" '--size is not an option of import idx' \
    "$LOCKSTEP" import idx i l -o x.h5 --size 8x8
misuse "an empty name" 'an empty one' "$LOCKSTEP" import idx i l -o x.h5 --classes a,,b

# ---- idx ------------------------------------------------------------

"$make" idx 1000 9 1 i l
"$make" idx 100 9 2 vi vl
gzip -c i >i.gz
prints "import idx" 'idx.h5: 900 training and 100 validation samples, of 10 classes, digest ' \
    "$LOCKSTEP" import idx i l -o idx.h5
prints "a packed file is the same" "$(digest idx.h5)" "$LOCKSTEP" import idx i.gz l -o gz.h5
prints "a pair for validation, names" '1000 training and 100 validation samples, of 10 classes' \
    "$LOCKSTEP" import idx i.gz l vi vl -o pair.h5 --classes "a b,b,c,d,e,f,g,h,i,last"
shape='9 x 9 pixels (height x width), 1 channel|mean  |std  '
classes='0  a b  |9  last|          100            10'
prints "show" "holds           images|$shape|$classes|train/images  |u8    [1000, 9, 9, 1]" \
    "$LOCKSTEP" show pair.h5
bad "an existing output" 'idx.h5: exists already; give --overwrite' \
    "$LOCKSTEP" import idx i l -o idx.h5
prints "--overwrite replaces it" '750 training and 250' \
    "$LOCKSTEP" import idx i l -o gz.h5 --overwrite -f 0.25
ln -s nowhere hanging.h5
bad "an output that is a link to nothing" 'hanging.h5: exists already, a link that leads nowhere' \
    "$LOCKSTEP" import idx i l -o hanging.h5
: >taken.h5.part
flock taken.h5.part sh -c 'echo $$ >holder; exec sleep 1000' &
within 100 test -s holder
echo 'a text' >text
for kind in "idx i l" "text text"; do
    # shellcheck disable=SC2086 # words
    bad "an output that another process is making" 'taken.h5.part: another process is writing it' \
        "$LOCKSTEP" import $kind -o taken.h5
done
kill "$(cat holder)"
wait
prints "and when it was ended" '900 training' "$LOCKSTEP" import idx i l -o taken.h5
ok "with nothing left beside it" test ! -e taken.h5.part
echo 'my own notes' >x.h5.part
for kind in "idx i l" "text text" "csv i --label b" "images mine --size 8x8"; do
    # shellcheck disable=SC2086 # words
    bad "import ${kind%% *} beside a file of somebody's own" \
        'x.h5.part: is there, and is not what an import leaves; move it away' \
        "$LOCKSTEP" import $kind -o x.h5
done
ok "it is as it was" test "$(cat x.h5.part)" = 'my own notes'
mv x.h5.part y.h5.part.h5
bad "beside the other name that images take" \
    'y.h5.part.h5: is there, and is not what an import leaves; move it away' \
    "$LOCKSTEP" import images mine --size 8x8 -o y.h5
prints "which others do not take" '900 training' "$LOCKSTEP" import idx i l -o y.h5
ok "it is as it was" test "$(cat y.h5.part.h5)" = 'my own notes'
rm y.h5 y.h5.part.h5
bad "labels of other images" 'vl: expected 1000 labels' "$LOCKSTEP" import idx i vl -o x.h5
bad "labels for images" 'l: expected the magic number 00000803' "$LOCKSTEP" import idx l l -o x.h5
bad "no such file" 'none: cannot open: No such file' "$LOCKSTEP" import idx none l -o x.h5
bad "names given twice: the last ones count" 'l: expected labels below the 2 classes named' \
    "$LOCKSTEP" import idx i l -o x.h5 --classes a,b,c,d,e,f,g,h,i,j --classes a,b
bad "two classes of one name" "names of classes: expected different ones, found 'a' twice" \
    "$LOCKSTEP" import idx i l -o x.h5 --classes a,b,a
bad "a label beyond the names" 'l: expected labels below the 2 classes named, found 2 at 2' \
    "$LOCKSTEP" import idx i l -o x.h5 --classes a,b
head -c 2000 i.gz >cut.gz
bad "a truncated gzip file" 'cut.gz: expected a whole gzip file, found a truncated one' \
    "$LOCKSTEP" import idx cut.gz l -o x.h5
head -c 2000 i >half.idx
bad "a truncated file" 'half.idx: expected all bytes of idx images' \
    "$LOCKSTEP" import idx half.idx l -o x.h5
cat i l >long
bad "trailing bytes" 'long: expected 1000 images and no more' "$LOCKSTEP" import idx long l -o x.h5
cat l l >long
bad "trailing labels" 'long: expected 1000 labels and no more' "$LOCKSTEP" import idx i long -o x.h5
bad "files and a fraction" 'vi: expected either validation files or a fraction' \
    "$LOCKSTEP" import idx i l vi vl -o x.h5 -f 0.1
"$make" idx 100 8 2 wi wl
bad "validation images of another size" 'wi: expected images of 9x9 as in i, found 8x8' \
    "$LOCKSTEP" import idx i l wi wl -o x.h5
bad "input as output" 'l: is both input and output' "$LOCKSTEP" import idx i l -o l --overwrite
bad "on two ranks" 'works alone, found 2 ranks' 2 "$LOCKSTEP" import idx i l -o x.h5
cp pair.h5 wrong.h5
"$h5edit" wrong.h5 token train/labels 7 1 10
bad "show of a label that was changed" \
    "'train/labels': rows 0 to 999 are not those that were imported" \
    "$LOCKSTEP" show wrong.h5
"$h5edit" wrong.h5 sign train/labels
bad "show of a label out of range" "'train/labels': label 10 at 7 is not below the number of" \
    "$LOCKSTEP" show wrong.h5

if command -v h5repack >/dev/null; then
    h5repack -l train/images:CHUNK=10x3x9x1 pair.h5 slow.h5
    prints "show of chunks that split images" \
        "warning         slow.h5: 'train/images' will be slow to read|hold parts of rows; import" \
        "$LOCKSTEP" show slow.h5
    # shellcheck disable=SC2046 # words
    $(sed -n 's/.* or \(h5repack .*\) IN OUT$/\1/p' "$work/out") slow.h5 fast.h5
    run "$LOCKSTEP" show fast.h5
    ok "the advice helps" test "$rc" -eq 0 -a "$(grep -c warning "$work/out")" -eq 0
    ok "and keeps the data" "$h5same" pair.h5 fast.h5
    h5repack -l validation/images:CHUNK=10x3x9x1 pair.h5 held.h5
    prints "show of such chunks in the validation split alone" \
        "warning         held.h5: 'validation/images' will be slow to read" "$LOCKSTEP" show held.h5
else
    skip "show of chunks that split images" "h5repack is not installed (Debian: hdf5-tools)"
fi

long=$(printf 'a\033[31m,\303\251\303\250,c,d,e,f,g,h,i,j')
prints "names of many kinds" 'of 10 classes' \
    "$LOCKSTEP" import idx i l vi vl -o odd.h5 --classes "$long"
row='           100            10'
prints "show of control characters and other letters" \
    "$(printf '    0  a?[31m%s|    1  \303\251\303\250    %s' "$row" "$row")" \
    "$LOCKSTEP" show odd.h5
printf '\0\0\10\1\0\0\3\350' >zero.l
head -c 1000 /dev/zero >>zero.l
bad "idx of one class" "zero.l: expected at least 2 classes, found 1: '0'" \
    "$LOCKSTEP" import idx i zero.l -o x.h5

# ---- csv ------------------------------------------------------------

awk 'BEGIN {
    print "a,\"b, c\",kind"
    for (i = 0; i < 200; i++) print i ",\"" i / 4 "\",k" i % 3
}' >t.csv
prints "import csv" 't.h5: 160 training and 40 validation samples, of 3 classes, digest' \
    "$LOCKSTEP" import csv t.csv -o t.h5 --label kind -f 0.2
prints "show of a table" \
    'holds           table|features        2|b, c|2  k2|train/features  |f32   [160, 2]' \
    "$LOCKSTEP" show t.h5
prints "again" "$(digest t.h5)" "$LOCKSTEP" import csv t.csv -o t2.h5 --label kind -f 0.2
ok "it is the same" "$h5same" t.h5 t2.h5
bad "no such column" "t.csv:1: expected a column 'sort', found 'a', 'b, c', 'kind'" \
    "$LOCKSTEP" import csv t.csv -o x.h5 --label sort
printf '1,2\n,4,k1\n5,x,k1\n' | cat t.csv - >holes.csv
all="bad: holes.csv:202: expected 3 cells, found 2"
all="$all|bad: holes.csv:203: column 'a': the cell is empty"
all="$all|bad: holes.csv:204: column 'b, c': expected a number, found 'x'|found 3, listed above"
bad_files "bad rows" "$all" \
    "$LOCKSTEP" import csv holes.csv -o x.h5 --label kind
prints "bad rows left out" 'bad rows left out: 3|180 training and 20 validation' \
    "$LOCKSTEP" import csv holes.csv -o h.h5 --label kind --max-bad 3
printf 'a,kind\n1,"k\n' >open.csv
bad "an open quote" 'open.csv:2: expected a closing quote' \
    "$LOCKSTEP" import csv open.csv -o x.h5 --label kind

printf 'a,kind\n1,k\n2,\377\376\n' >bytes.csv
bad_files "a label that is not UTF-8" "bad: bytes.csv:3: column 'kind': expected UTF-8|found 1" \
    "$LOCKSTEP" import csv bytes.csv -o x.h5 --label kind
printf 'a,kind\n1,k\n2,k\n' >one.csv
bad "a table of one class" "one.csv: expected at least 2 classes, found 1: 'k'" \
    "$LOCKSTEP" import csv one.csv -o x.h5 --label kind

# ---- images ------------------------------------------------------------

mkdir -p d/cat d/dog "d/the bird"
"$make" jpeg 90 70 1 d/cat/1.jpg d/cat/2.jpg d/cat/3.JPG d/cat/4.jpeg
"$make" progressive 70 90 9 d/cat/5.jpg d/cat/6.jpg
"$make" rgb 40 40 1 d/dog/1.png d/dog/2.png d/dog/3.png
"$make" alpha 40 40 4 d/dog/4.png
"$make" palette 30 60 5 d/dog/5.png
"$make" bit 30 60 6 "d/the bird/1.png"
"$make" deep 30 60 7 "d/the bird/2.png" "d/the bird/3.png"
"$make" gray 30 60 8 "d/the bird/4.png" "d/the bird/5.png"
cp -R d pictures
prints "import images" 'd.h5: 15 training and 1 validation samples, of 3 classes, digest ' \
    "$LOCKSTEP" import images d -o d.h5 --size 24x32
prints "show" '24 x 32 pixels (height x width), 3 channels|0  cat|2  the bird' \
    "$LOCKSTEP" show d.h5
for n in 2 3 4; do
    prints "by $n ranks, in another place" "d$n.h5: 15 training and 1 validation|$(digest d.h5)" \
        "$n" "$LOCKSTEP" import images pictures -o "d$n.h5" --size 24x32
done
for how in fit stretch; do
    run "$LOCKSTEP" import images d -o "$how.h5" --size 24x32 --resize "$how"
    ok "$how: other images" test "$rc" -eq 0 -a "$(digest d.h5)" != "$(digest "$how.h5")"
done
prints "one channel" 'one.h5: ' "$LOCKSTEP" import images d -o one.h5 --size 24x32 --channels 1
prints "shown" '1 channel' "$LOCKSTEP" show one.h5
prints "no validation" '16 training and 0 validation' \
    "$LOCKSTEP" import images d -o none.h5 --size 8x8 -f 0

run "$LOCKSTEP" import images d -o share.h5 --size 8x8 -f 0.9
ok "a class without training samples is named" test "$rc" -eq 0 -a "$(cat "$work/err")" = \
    "warning: share.h5: no training sample of the class 'the bird'; add some, or keep fewer for \
validation"
mkdir alone
cp -R d/cat alone
bad "a folder of one class" "alone: expected at least 2 classes, found 1: 'cat'" \
    "$LOCKSTEP" import images alone -o x.h5 --size 8x8
bad "images too large" 'at most 1 GiB an image, found 20000x20000 with 3 channels' \
    "$LOCKSTEP" import images d -o x.h5 --size 20000x20000

mkdir -p s/train s/val
cp -R d/cat d/dog s/train
cp -R d/cat s/val
prints "folders for the splits" '11 training and 6 validation samples, of 2 classes' \
    "$LOCKSTEP" import images s -o s.h5 --size 8x8
bad "folders and a fraction" "s: expected either a folder or a fraction" \
    "$LOCKSTEP" import images s -o x.h5 --size 8x8 -f 0.1
mkdir s/extra s/test
echo text >s/notes.txt
echo text >s/train/notes.txt
bad "two folders for validation" "expected one folder for validation beside 'train', found 'val'" \
    "$LOCKSTEP" import images s -o x.h5 --size 8x8
rmdir s/test
prints "what else lies there is ignored" 'files and folders ignored: 3|11 training and 6' \
    "$LOCKSTEP" import images s -o stray.h5 --size 8x8
ok "and named" says err "ignored: extra: it lies beside the folder 'train'" \
    'ignored: notes.txt: it lies beside' 'ignored: train/notes.txt: a file in no class folder'
cp d/dog/1.png s/stray.png
bad_files "an image that lies beside" 'bad: stray.png: an image in no class folder|found 1' \
    "$LOCKSTEP" import images s -o x.h5 --size 8x8
rm -r s/extra s/notes.txt s/train/notes.txt s/stray.png
for names in "train valid" "Train Val" "training testing" "Training validation" "TRAIN dev"; do
    mkdir other
    cp -R s/train "other/${names% *}"
    cp -R s/val "other/${names#* }"
    bad "splits named $names" \
        "other: expected 'train' and one of|found '${names% *}' and '${names#* }'; rename them" \
        "$LOCKSTEP" import images other -o x.h5 --size 8x8
    rm -r other
done
mkdir road
cp -R d/cat road/train
cp -R d/dog road/truck
prints "a class that is named train" '10 training and 1 validation samples, of 2 classes' \
    "$LOCKSTEP" import images road -o road.h5 --size 8x8
cp -R "d/the bird" s/val
bad "a class in validation only" "s/val/the bird: expected a class that is in s/train too" \
    "$LOCKSTEP" import images s -o x.h5 --size 8x8
rm -r s/val
prints "train alone" '10 training and 1 validation samples, of 2 classes' \
    "$LOCKSTEP" import images s -o t1.h5 --size 8x8

(cd d && echo 'file,label' && for f in */*; do echo "\"$f\",$((${#f} % 2))"; done) >labels.csv
prints "a file of labels" '15 training and 1 validation samples, of 2 classes' \
    "$LOCKSTEP" import images d -o labels.h5 --size 8x8 --labels labels.csv
prints "by two ranks, without names of columns" "$(digest labels.h5)" \
    2 "$LOCKSTEP" import images d -o labels2.h5 --size 8x8 --labels labels.csv
sed 1d labels.csv >plain.csv
prints "without names of columns" "$(digest labels.h5)" \
    "$LOCKSTEP" import images d -o plain.h5 --size 8x8 --labels plain.csv
echo 'cat/none.jpg,1' >>plain.csv
bad_files "a file that is not there" 'bad: cat/none.jpg: cannot open: No such file|found 1' \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --labels plain.csv
sed '1s/.*/img0001,1/' labels.csv >first.csv
bad_files "a first line that is no heading" 'bad: img0001: cannot open: No such file|found 1' \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --labels first.csv
echo 'cat/1.jpg' | cat labels.csv - >short.csv
bad "a line without a label" "short.csv:18: expected 'file,label'" \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --labels short.csv
echo 'cat/1.jpg,0' | cat labels.csv - >twice.csv
bad "a file twice" "twice.csv: expected each file once, found 'cat/1.jpg' twice" \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --labels twice.csv
# With any share for validation: none may part the two.
refused=0
for held in 0 06 12 18 24 30 36 42 48 54 60 66 72 78 83 89 95; do
    run "$LOCKSTEP" import images d -o x.h5 --size 8x8 --labels twice.csv -f "0.$held"
    if [ "$rc" -eq 2 ] && says err "found 'cat/1.jpg' twice"; then refused=$((refused + 1)); fi
done
ok "whatever share is for validation: $refused of 17" test "$refused" -eq 17 -a ! -e x.h5

printf 'label,file\n1,cat/1.jpg\n0,dog/1.png\n' >order.csv
bad "the columns exchanged" "order.csv:2: expected 'file,label', found the file in the second" \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --labels order.csv
sed 's|^"|"d/|' labels.csv >below.csv
bad "paths from elsewhere" "expected lines 'file,label' with paths relative to d, found none" \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --labels below.csv
echo './cat//./1.jpg,0' | cat labels.csv - >twice.csv
bad "a file twice, by another path" "expected each file once, found 'cat/1.jpg' twice" \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --labels twice.csv
for path in cat/../dog/1.png "$PWD/d/cat/1.jpg"; do
    echo "$path,0" | cat labels.csv - >away.csv
    bad "the path $path" 'away.csv:18: expected a path relative to d,' \
        "$LOCKSTEP" import images d -o x.h5 --size 8x8 --labels away.csv
done
printf 'cat/1.jpg,\377\n' | cat labels.csv - >bytes.csv
bad "a class that is not UTF-8" 'bytes.csv:18: expected a name of a class in UTF-8' \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --labels bytes.csv

mkdir d/empty
bad "an empty class" "d/empty: expected images of the class 'empty'" \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8
bad "an empty class, on two ranks" "d/empty: expected images" \
    2 "$LOCKSTEP" import images d -o x.h5 --size 8x8
rmdir d/empty
bad "no such folder" 'none: cannot open: No such file' \
    "$LOCKSTEP" import images none -o x.h5 --size 8x8
bad "a file for a folder" 'l: expected a folder of images, found a file' \
    "$LOCKSTEP" import images l -o x.h5 --size 8x8
mkdir hollow
bad "an empty folder" 'hollow: expected folders of images' \
    "$LOCKSTEP" import images hollow -o x.h5 --size 8x8
bad "an output in no folder" 'none/x.h5: cannot write' \
    "$LOCKSTEP" import images d -o none/x.h5 --size 8x8

"$make" cmyk 30 30 1 d/cat/cmyk.jpg
head -c 700 d/cat/1.jpg >d/cat/half.jpg
head -c 200 d/dog/1.png >d/dog/half.png
echo hello >d/dog/text.png
echo hello >d/dog/Thumbs.db
: >d/dog/nothing.png
ln -s nowhere.png d/dog/link.png
all='bad: cat/cmyk.jpg: a CMYK JPEG; convert it to RGB|bad: cat/half.jpg: a damaged JPEG'
all="$all|bad: dog/half.png: a damaged PNG|bad: dog/text.png: neither a PNG nor a JPEG"
all="$all|bad: dog/nothing.png: an empty file|bad: dog/link.png: cannot open"
all="$all|x.h5: expected at most 0 bad files, found 6, listed above"
bad_files "bad files" "$all" "$LOCKSTEP" import images d -o x.h5 --size 8x8
bad_files "bad files, on two ranks" "$all" 2 "$LOCKSTEP" import images d -o x.h5 --size 8x8
ok "what is no image is ignored, and told" \
    says err 'ignored: dog/Thumbs.db: not an image, by its name and its first bytes'
mkdir d/.net d/dog/.kept
cp d/dog/1.png d/.net
cp d/dog/1.png d/dog/.kept
cp d/dog/1.png d/dog/._1.png
run "$LOCKSTEP" import images d -o dots.h5 --size 8x8 --max-bad 6
ok "names that begin with a dot are ignored, and told" says err \
    'ignored: .net: its name begins with a dot' 'ignored: dog/.kept: its name begins' \
    'ignored: dog/._1.png: its name begins'
ok "and counted" says out 'files and folders ignored: 4' '15 training and 1 validation'
rm -r d/.net d/dog/.kept d/dog/._1.png
bad_files "one too many" 'at most 5 bad files, found 6' \
    "$LOCKSTEP" import images d -o x.h5 --size 8x8 --max-bad 5
cp "$work/kept" bad.h5.part
prints "the advised command goes on" \
    '16 images were decoded by an earlier import|bad files left out: 6|ignored: 1' \
    "$LOCKSTEP" import images d -o bad.h5 --size 8x8 --max-bad 6
ok "and still listed" test "$(grep -c '^bad: ' "$work/err")" -eq 6
ok "nothing is left beside it" test ! -e bad.h5.part
prints "the same by four ranks, from the beginning" "$(digest bad.h5)" \
    4 "$LOCKSTEP" import images d -o bad4.h5 --size 8x8 --max-bad 6

# What was repaired counts, though neither size nor time tell of it; nor do they of permissions.
mkdir -p mend/a mend/b
"$make" rgb 40 40 1 mend/a/1.png mend/a/2.png mend/b/1.png mend/b/2.png
"$LOCKSTEP" import images mend -o mend.h5 --size 8x8 >/dev/null
cp -p mend/a/2.png whole.png
printf X | dd of=mend/a/2.png bs=1 seek=100 conv=notrunc 2>/dev/null
touch -r whole.png mend/a/2.png
bad_files "a damaged file" 'bad: a/2.png: a damaged PNG|found 1' \
    "$LOCKSTEP" import images mend -o x.h5 --size 8x8
cp "$work/kept" mended.h5.part
cp "$work/kept" left.h5.part
prints "it is left out where that is allowed" 'bad files left out: 1' \
    "$LOCKSTEP" import images mend -o left.h5 --size 8x8 --max-bad 1
cp -p whole.png mend/a/2.png
cp "$work/kept" allowed.h5.part
prints "repaired, under its old time" "$(digest mend.h5)" \
    "$LOCKSTEP" import images mend -o mended.h5 --size 8x8
prints "it is not left out, though that is allowed" "$(digest mend.h5)" \
    2 "$LOCKSTEP" import images mend -o allowed.h5 --size 8x8 --max-bad 1
ok "and not told as bad" test ! -s "$work/err"
# Root may read all, but for this.
user=
[ "$(id -u)" -ne 0 ] || user='setpriv --bounding-set=-dac_override,-dac_read_search'
chmod 0 mend/a/2.png
if $user cat mend/a/2.png >/dev/null 2>&1; then
    skip "a file that may not be read" "nobody is kept from reading here"
    chmod 644 mend/a/2.png
else
    # shellcheck disable=SC2086 # a command and its option
    bad_files "a file that may not be read" 'bad: a/2.png: cannot open: Permission denied' \
        $user "$LOCKSTEP" import images mend -o x.h5 --size 8x8
    cp "$work/kept" mended.h5.part
    chmod 644 mend/a/2.png
    prints "and when it may" "$(digest mend.h5)" \
        "$LOCKSTEP" import images mend -o mended.h5 --size 8x8 --overwrite
fi

# ---- an import that was killed ------------------------------------------------------------

mkdir -p k/a k/b
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    "$make" jpeg 200 300 "$i" k/a/"$i".jpg
    "$make" rgb 200 300 "$i" k/b/"$i".png
done
size='--size 600x1000'
# shellcheck disable=SC2086 # words
prints "a large import" '36 training and 4 validation' "$LOCKSTEP" import images k -o k.h5 $size
# A limit on the size of a file ends it in the middle of a block, as a full disk would.
# shellcheck disable=SC2016,SC2086
run sh -c 'ulimit -c 0; ulimit -f 90000; exec "$@"' sh "$LOCKSTEP" import images k -o r.h5 $size
ok "the disk is full: exit code 3, one line" test "$rc" -eq 3 -a "$(wc -l <"$work/err")" -eq 1
ok "what is decoded stays: $(cat "$work/err")" test -s r.h5.part -a ! -e r.h5
# shellcheck disable=SC2086
prints "it goes on, on two ranks" "images were decoded by an earlier import|$(digest k.h5)" \
    2 "$LOCKSTEP" import images k -o r.h5 $size
ok "with nothing left beside it" test ! -e r.h5.part -a ! -e r.h5.part.h5
# The same by a signal at no particular time.
# shellcheck disable=SC2086
"$LOCKSTEP" import images k -o s9.h5 $size >/dev/null 2>&1 &
pid=$!
for _ in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do
    [ -s s9.h5.part ] && [ "$(wc -c <s9.h5.part)" -gt 1000 ] && break
    sleep 0.05
done
kill -9 "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
# shellcheck disable=SC2086
prints "killed by a signal, started again" "$(digest k.h5)" \
    "$LOCKSTEP" import images k -o s9.h5 $size --overwrite

# Of a text nothing is kept but what the next import replaces.
awk 'BEGIN { for (i = 0; i < 3000000; i++) print "a line of text, number " i }' >long.txt
"$LOCKSTEP" import text long.txt -o long.h5 >/dev/null 2>&1 &
pid=$!
within 60 test -s long.h5.part
kill "$pid"
wait "$pid"
ok "an import of text that SIGTERM ends: status 128 + 15" test $? -eq 143
ok "it leaves a .part and no output" test -e long.h5.part -a ! -e long.h5
prints "the next one takes its place" 'training and' "$LOCKSTEP" import text long.txt -o long.h5
ok "and leaves none" test ! -e long.h5.part
rm -f long.txt long.h5

# Many large files for small images: they are kept, and told of, while it goes on, however many
# threads decode.
mkdir -p many/a many/b
"$make" rgb 1500 2000 1 many/a/0.png
for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 30; do
    ln many/a/0.png many/a/"$i".png
    ln many/a/0.png many/b/"$i".png
done
if command -v script >/dev/null; then
    # $LOCKSTEP is expanded by the shell that script starts
    export LOCKSTEP
    # shellcheck disable=SC2016
    OMP_NUM_THREADS=8 run script -qec '"$LOCKSTEP" import images many -o many.h5 --size 8x8' \
        /dev/null
    ok "a bar on a terminal, more than once, with rate and time left" \
        test "$(grep -oE '\[=*> *\] +[0-9]+% [0-9]+/61 samples  [0-9.]+/s  ETA [0-9]+:' \
            "$work/out" | sort -u | wc -l)" -gt 1
else
    skip "a bar on a terminal" "script is not installed"
    run "$LOCKSTEP" import images many -o many.h5 --size 8x8
fi
OMP_NUM_THREADS=8 "$LOCKSTEP" import images many -o m9.h5 --size 8x8 >/dev/null 2>&1 &
pid=$!
# shellcheck disable=SC2016 # the inner shell expands it
within 20 sh -c '[ "$(wc -c <m9.h5.part)" -gt 1000 ]'
kill -9 "$pid" 2>/dev/null
wait "$pid" 2>/dev/null
prints "killed, and not begun anew" "images were decoded by an earlier import|$(digest many.h5)" \
    "$LOCKSTEP" import images many -o m9.h5 --size 8x8
ok "the file is the same" "$h5same" many.h5 m9.h5

# ---- other commands ------------------------------------------------------------

cat >r.yaml <<END
directory: run
data:
  file: d.h5
END
bad "training a text model on images" \
    "d.h5: expected a dataset of kind 'text', found 'images'" "$LOCKSTEP" train r.yaml
bad "planning it" "d.h5: expected a dataset of kind 'text', found 'images'" \
    "$LOCKSTEP" train r.yaml --plan
bad "training it on a table, on two ranks" \
    "t.h5: expected a dataset of kind 'text', found 'table', which no model learns from yet" \
    2 "$LOCKSTEP" train r.yaml --set data.file=t.h5

# ---- a real data set ------------------------------------------------------------

set=${FASHION_MNIST:-/usr/share/datasets/fashion-mnist}
if [ -f "$set/train-images-idx3-ubyte.gz" ]; then
    prints "Fashion-MNIST" 'f.h5: 60000 training and 10000 validation samples, of 10 classes' \
        "$LOCKSTEP" import idx "$set/train-images-idx3-ubyte.gz" "$set/train-labels-idx1-ubyte.gz" \
        "$set/t10k-images-idx3-ubyte.gz" "$set/t10k-labels-idx1-ubyte.gz" -o f.h5 \
        --classes "T-shirt,Trouser,Pullover,Dress,Coat,Sandal,Shirt,Sneaker,Bag,Boot"
    prints "its figures" \
        '28 x 28 pixels|mean            0.286041|std             0.353024|9  Boot  ' \
        "$LOCKSTEP" show f.h5
    ok "every class has 6,000 and 1,000" \
        test "$("$LOCKSTEP" show f.h5 | grep -c ' 6,000  *1,000$')" -eq 10
else
    skip "Fashion-MNIST" "not installed (Debian: dataset-fashion-mnist)"
fi

finish
