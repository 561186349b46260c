#!/bin/sh
# The build: any program alone can be asked for in a clean tree. What make would do there is looked
# at, nothing is compiled.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

: "${MAKE:=make}"
sed "s|^srcdir = .*|srcdir = $srcdir|; s|^top_srcdir = .*|top_srcdir = $srcdir|
     s|^VPATH = .*|VPATH = $srcdir|" "$builddir/Makefile" >Makefile
cp "$builddir/config.status" . && touch config.status Makefile

# Every object made has version.h before it.
for target in lockstep liblockstep.a bench/io; do
    env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL "$MAKE" -n -o Makefile -o config.status "$target" \
        >made 2>&1 </dev/null
    awk '/define LK_VERSION/ { version = 1 } / -c -o [^ ]*\.o / && !version { early = 1 }
        / -c -o / { objects++ }
        END { exit !(version && !early && objects > 20) }' made
    ok "make $target in a clean tree makes version.h first" test $? -eq 0
done
finish
