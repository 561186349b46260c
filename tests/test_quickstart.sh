#!/bin/sh
# './quickstart train DIRECTORY' with few or bad images, in a copy beside a build that is done: one
# reason, lockstep's exit status, nothing left.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

make=$builddir/tests/makeimage
[ -x "$make" ] || echo "Bail out! tests/makeimage is missing"

mkdir jobs build
cp "$srcdir/quickstart" .
sed 's/ steps: .*/ steps: 4/; s/ warmup: .*/ warmup: 0/; s/ every: 500/ every: 4/' \
    "$srcdir/jobs/quickstart.yaml" >jobs/quickstart.yaml
printf '#!/bin/sh\n' >configure
printf 'all:\n' >build/Makefile
cp configure build/config.status
chmod +x configure build/config.status
ln -s "$LOCKSTEP" build/lockstep
export LOCKSTEP_SETUP=no LOCKSTEP_BUILD="$PWD/build"

# pictures DIRECTORY N: two classes of N images
pictures() {
    for class in cat dog; do
        mkdir -p "$1/$class"
        i=0
        while [ "$i" -lt "$2" ]; do
            i=$((i + 1))
            set -- "$@" "$1/$class/$i.png"
        done
    done
    shift 2
    "$make" rgb 16 16 1 "$@"
}

# refused DESCRIPTION TEXT DIRECTORY...: exit status 2, one message, no run and no dataset
refused() {
    what=$1 text=$2
    shift 2
    run ./quickstart train "$@"
    if [ "$rc" -eq 2 ] && says err "$text" && [ -z "$(ls runs 2>/dev/null)" ] &&
        [ "$(grep -vc '^bad: ' "$work/err")" -eq 1 ]; then
        pass "$what: $(tail -n 1 "$work/err")"
    else
        fail "$what"
        note "runs: $(ls runs)"
        note_run "$*"
    fi
}

pictures few 5
refused "too few images" 'for training and 4 for validation, found 9 and 1; one in ten is kept' few
pictures split/train 100
pictures split/val 1
refused "too few in one of two folders" 'found 200 and 2; add to the folder that has too few' split
mkdir hollow
refused "no images" 'hollow: expected folders of images' hollow
refused "no directory" 'none: expected a readable directory' none
refused "a directory and more" 'train takes a directory of images, with --max-bad N' split more
refused "a number that is none" "expected a whole number, found 'all'" split --max-bad all

pictures uneven/train 5
pictures uneven/val 50
cp jobs/quickstart.yaml good.yaml
sed 's/ stem_stride: 1/ stem_stride: 9/' good.yaml >jobs/quickstart.yaml
refused "a run that does not begin" 'model.stem_stride' uneven
cp good.yaml jobs/quickstart.yaml
run ./quickstart train uneven
ok "fewer images for training than for validation: a batch that both fill" \
    test "$rc" -eq 0 -a "$(sed -n 's/^ *batch: //p' runs/quickstart-1/run.yaml)" = 8
[ "$rc" -eq 0 ] || note_run "uneven"

# What is no image is ignored; an image that cannot be read ends the import, and what is said then
# leads on.
echo rubbish >uneven/train/cat/Thumbs.db
head -c 100 uneven/val/cat/1.png >uneven/val/cat/damaged.png
run ./quickstart train uneven
ok "a damaged image: exit status 2, named, with advice" test "$rc" -eq 2
ok "the advice names a command: $(tail -n 1 "$work/err")" says err 'bad: val/cat/damaged.png: a' \
    'expected at most 0 bad files, found 1' "quickstart: to leave N bad ones out: "
ok "what is no image is not bad" says err 'ignored: train/cat/Thumbs.db: not an image'
advice=$(sed -n 's/^quickstart: .* out: \(.*\) N$/\1 1/p' "$work/err")
run sh -c "$advice"
ok "the advised command trains" test "$rc" -eq 0 -a -e runs/quickstart-2
ok "and goes on with what is decoded" says out 'images were decoded by an earlier import'
[ "$rc" -eq 0 ] || note_run "$advice"
ok "with nothing left beside it" test ! -e runs/quickstart-2.h5.part

finish
