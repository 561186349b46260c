#!/bin/sh
# test_kill.sh with 500 kills, 200 of them inside a save; about half an hour on two free cores.
export KILLS="${KILLS:-500}" SAVES="${SAVES:-200}"
exec "${SHELL:-/bin/sh}" "${srcdir:-$(dirname "$0")/..}/tests/test_kill.sh"
