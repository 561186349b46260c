#!/bin/sh
# make check-tsan: no data race is found in lockstep's own code by ThreadSanitizer while rows are
# read and checkpoints written beside training. One OpenMP thread a rank, for libgomp's barriers are
# not known to it. Some systems' address layout needs `setarch -R`.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

LIMIT=600
OMP_NUM_THREADS=1
TSAN_OPTIONS="suppressions=$srcdir/tests/tsan.supp ignore_noninstrumented_modules=1 exitcode=66"
OMPI_MCA_memory=^patcher # it calls into libraries when the sanitizer has done with a thread
export TSAN_OPTIONS OMPI_MCA_memory
plain=
"$builddir/lockstep" --version >/dev/null 2>&1 || plain='setarch -R'

# clean DESCRIPTION: the last run ended well and nothing was found.
clean() {
    if [ "$rc" -eq 0 ] && ! grep -q 'ThreadSanitizer' "$work/err"; then
        pass "$1, $seconds s"
    else
        fail "$1"
        note_run "$1"
        grep -A40 -m1 'WARNING: ThreadSanitizer' "$work/err" >"$work/first"
        note_file "$work/first" 60
    fi
}

awk 'BEGIN { while (i < 900) print "in step " i++ " a quick fox jumps over dog " i % 7 "." }' >a.txt
# shellcheck disable=SC2086 # words
run $plain "$LOCKSTEP" import text a.txt -v character -o a.h5
clean "import"
cat >a.yaml <<END
directory: a
data:
  file: a.h5
  resident: no
model:
  layers: 1
  width: 32
  heads: 2
  context: 16
train:
  steps: 20
  batch: 8
  leaves: 4
  device: cpu
eval:
  every: 4
  batches: 2
checkpoint:
  every: 2
END
# shellcheck disable=SC2086
{
    run $plain "$LOCKSTEP" train a.yaml
    clean "train, streaming, ten saves beside it"
    run $plain "$LOCKSTEP" train a.yaml --resume --set train.steps=24
    clean "resume"
    ranks 2 $plain "$LOCKSTEP" train a.yaml --set directory=b
    clean "the same on 2 ranks"
    run $plain "$builddir/tests/test_io"
    clean "test_io"
    run $plain "$builddir/tests/test_checkpoint"
    clean "test_checkpoint"
    ranks 2 $plain "$builddir/tests/test_checkpoint"
    clean "test_checkpoint on 2 ranks"
}

# The instrument works: a race on purpose is found.
cat >race.c <<END
#include <pthread.h>
static int x;
static void *add(void *p) { for (int i = 0; i < 100000; i++) x++; return p; }
int main(void)
{
    pthread_t t;
    pthread_create(&t, 0, add, 0);
    add(0);
    pthread_join(t, 0);
    return 0;
}
END
if ${CC:-cc} -g -fsanitize=thread -pthread race.c -o race 2>/dev/null; then
    # shellcheck disable=SC2086
    run $plain ./race
    ok "a race on purpose is found" grep -q 'WARNING: ThreadSanitizer: data race' "$work/err"
else
    skip "a race on purpose is found" "no compiler here"
fi
finish
