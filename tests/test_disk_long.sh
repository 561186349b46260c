#!/bin/sh
# test_disk.sh with 50 faults of each kind: half an hour.
TRIALS=50
export TRIALS
. "${srcdir:-$(dirname "$0")/..}/tests/test_disk.sh"
