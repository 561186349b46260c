#!/bin/sh
# picture.sh PAGE.html: the pictures of the README, report-light.png and report-dark.png beside this
# script, of the upper part of a page by 'lockstep report'. Needs Chromium and ImageMagick. Those
# there are of the run of './quickstart train', more often validated, with train.ema:
#
#   mpirun -np 2 lockstep train jobs/quickstart.yaml --set data.file=FASHION.h5 \
#       --set eval.every=125 --set eval.batches=20 --set train.ema=0.998
#   lockstep report runs/quickstart -o report.html && doc/picture.sh report.html
set -eu

if [ $# -ne 1 ] || [ ! -r "$1" ]; then
    echo 'picture.sh: expected a PAGE.html by lockstep report' >&2
    exit 2
fi
page=$(CDPATH='' cd -- "$(dirname -- "$1")" && pwd)/$(basename -- "$1")
here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd)
browser=$(command -v chromium || command -v chromium-browser || command -v google-chrome)
work=$(mktemp -d "${TMPDIR:-/tmp}/lockstep-picture-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# picture NAME SCHEME: 0 is dark, 1 light. Few colours keep it small.
picture()
{
    "$browser" --headless --no-sandbox --disable-gpu --hide-scrollbars \
        --user-data-dir="$work/browser" --blink-settings=preferredColorScheme="$2" \
        --window-size=1120,1010 --screenshot="$work/$1.png" "file://$page" 2>"$work/log" ||
        { cat "$work/log" >&2 && exit 1; }
    convert "$work/$1.png" -strip -dither None -colors 48 -define png:compression-level=9 \
        "PNG8:$here/$1.png"
    wc -c "$here/$1.png"
}

picture report-light 1
picture report-dark 0
