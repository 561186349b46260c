#!/bin/sh
# The house is built as it says: folders are floors, includes go down only, and what is said of the
# floors below the commands holds: they do not end the process, print or read the environment.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

# Floor of a path relative to the top or to src/; empty: none is known.
floors='
function floor(path) {
    sub(/^src\//, "", path)
    if (path ~ /^(cmd\/|main\.c)/) return 9
    if (path ~ /^train\//) return 8
    if (path ~ /^(doctor|check)\//) return 7
    if (path ~ /^model\//) return 6
    if (path ~ /^io\//) return 5
    if (path ~ /^(metric|trace)\//) return 4
    if (path ~ /^program\//) return 3
    if (path ~ /^(backend|cpu|comm|cuda)\//) return 2
    if (path ~ /^(graph|ops)\//) return 1
    if (path ~ /^(base\/|version\.h$)/) return 0
    return ""
}
function room(path) {
    sub(/^src\//, "", path)
    return substr(path, 1, index(path, "/"))
}'

cd "$srcdir" || exit 99
product=$(find src io cuda -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.def' | sort)
# shellcheck disable=SC2086 # a list of names without spaces
every=$(find $product bench tests -name '*.[ch]' -o -name '*.cu' -o -name '*.cuh' -o -name '*.def' \
    -o -name '*.sh' -o -name '*.py' | sort -u)
[ "$(echo "$product" | wc -l)" -gt 50 ] || echo "Bail out! the sources are not in $srcdir"

# code FILE...: "FILE:LINE: TEXT" without comments and, but for includes, without strings.
code() {
    awk '
    FNR == 1 { inside = 0 }
    {
        out = ""
        line = $0
        include = line ~ /^[ \t]*#[ \t]*include/
        while (line != "") {
            if (inside) {
                at = index(line, "*/")
                if (!at) break
                line = substr(line, at + 2)
                inside = 0
            } else if (substr(line, 1, 2) == "/*") {
                inside = 1
                line = substr(line, 3)
            } else if (substr(line, 1, 2) == "//") {
                break
            } else if (!include && match(line, /^"([^"\\]|\\.)*"/)) {
                out = out "\"\""
                line = substr(line, RLENGTH + 1)
            } else {
                out = out substr(line, 1, 1)
                line = substr(line, 2)
            }
        }
        if (out !~ /^[ \t]*$/) print FILENAME ":" FNR ": " out
    }' "$@"
}
# shellcheck disable=SC2086
code $product >"$work/code"

# nothing DESCRIPTION FILE: the list of offences is empty.
nothing() {
    if [ ! -s "$2" ]; then
        pass "$1"
    else
        fail "$1"
        note_file "$2" 50
    fi
}

# ---- includes --------------------------------------------------------------------------------

grep '#[ 	]*include' "$work/code" >"$work/includes"
ok "includes are found" test "$(wc -l <"$work/includes")" -gt 200

grep '"' "$work/includes" | awk "$floors"'
{
    split($0, part, ":")
    file = part[1]
    split($0, quoted, "\"")
    from = floor(file)
    to = floor(quoted[2])
    if (from == "")
        print file ": no floor is known for this folder: doc/architecture.md, and floor() here"
    else if (to == "") print file ": " quoted[2] ": not a path from src/ or the top"
    else if (to > from) print file " (floor " from ") includes " quoted[2] " (floor " to ")"
    else if (to == from && (to == 7 || to == 4) && room(file) != room(quoted[2]))
        print file " includes " quoted[2] " from another room"
}' >"$work/up"
nothing "no file includes from a higher floor, or another room of 7 and 4" "$work/up"

grep '"' "$work/includes" | sed 's/^\([^:]*\):.*"\(.*\)".*/\1 \2/' | while read -r file header; do
    [ "$header" = version.h ] || [ -f "src/$header" ] || [ -f "$header" ] ||
        echo "$file: $header is not there"
done >"$work/missing"
nothing "every included file exists" "$work/missing"

# Who may know which library.
only() {
    grep "<$1>" "$work/includes" | grep -v -E "^($2)" >"$work/foreign"
    nothing "only $3 includes <$1>" "$work/foreign"
}
only 'hdf5\.h' 'io/' 'io/'
only 'mpi\.h' 'io/|src/comm/|cuda/reduce\.cu' 'comm, cuda/reduce and io'
only '(cuda|cublas|nccl|nv).*' 'cuda/|src/comm/nccl\.c' 'cuda/ and comm/nccl.c'
only '.*dnnl.*' 'src/cpu/' 'cpu'
only 'yaml\.h' 'src/train/run\.c' 'train/run.c'
only 'argp\.h' 'src/cmd/' 'cmd'
only '(png|jpeglib|jerror|zlib)\.h' 'io/' 'io'

# ---- messages --------------------------------------------------------------------------------

# What is wrong with a user's input is said with what to do, after a semicolon or as a question.
# Not so: what is a piece of another message, and the reasons for which an image is bad, listed as
# "bad: FILE: REASON".
# shellcheck disable=SC2046 # names without spaces
for file in io/*.c src/train/*.c src/check/*.c src/cmd/*.c; do
    [ "$file" != io/image_decode.c ] || continue
    tr '\n' ' ' <"$file" | sed 's/"  *"//g' | grep -oE 'lk_fail\(LK_E_INPUT, *"([^"\\]|\\.)*"' |
        sed "s|^lk_fail(LK_E_INPUT, *|$file: |"
done >"$work/messages"
ok "messages are found: $(grep -c '' "$work/messages")" \
    test "$(grep -c '' "$work/messages")" -gt 150
grep -v -e '[;?]' -e ': "%s"$' -e ': start ' -e ': give ' -e 'at least one [A-Za-z]* file' \
    -e ": \"%s: '\"\$" "$work/messages" >"$work/found"
nothing "every message about input says what to do" "$work/found"

# ---- what the floors below the commands do not do ------------------------------------------------

awk "$floors"'
{
    split($0, part, ":")
    if (floor(part[1]) < 9) print
}' "$work/code" >"$work/below"

never() {
    grep -E "(^|[^A-Za-z0-9_])($1)" "$work/below" >"$work/found"
    nothing "nothing below the commands $2" "$work/found"
}
never '(_exit|exit|_Exit|quick_exit|abort|assert|err|errx) *\(' 'ends the process'
never '((v?printf|puts|putchar|perror|warn|warnx) *\(|stdout|stderr)' 'prints'
never '(secure_)?getenv *\(|environ([^A-Za-z0-9_]|$)' 'reads the environment'

# The process ends in one place: the commands return an exit code, main returns it; what main finds
# out at the very end, that the output is lost, only _exit can tell, and only _exit ends a process
# whose main thread hangs. A child process ends where its work does.
grep -E '(^|[^A-Za-z0-9_])(_exit|exit|_Exit|abort) *\(' "$work/code" |
    grep -v -e '^src/main.c:[0-9]*: *_exit(LK_E_SYSTEM);' \
        -e '^src/cmd/cmd.c:[0-9]*: *_exit(LK_E_COMM);' \
        -e '^src/cmd/child.c:[0-9]*: *exit(work(context));' >"$work/found"
nothing "no file calls exit or abort" "$work/found"
grep -E '(^|[^A-Za-z0-9_])(s?rand|drand48|random) *\(' "$work/code" >"$work/found"
nothing "all randomness is base/philox.h" "$work/found"
grep -E '(^|[^A-Za-z0-9_])(gets|sprintf|vsprintf) *\(' "$work/code" >"$work/found"
nothing "no text is written without a bound" "$work/found"

# ---- size and shape ----------------------------------------------------------------------------

# shellcheck disable=SC2086
wc -l $every | awk '$2 != "total" && $1 > 800 { print }' >"$work/long"
nothing "no file is over 800 lines" "$work/long"
# shellcheck disable=SC2086
awk 'length($0) > 100 { print FILENAME ":" FNR ": " length($0) " columns" }' $every >"$work/wide"
nothing "no line is over 100 columns" "$work/wide"
# shellcheck disable=SC2086
grep -n -E '[ 	]+$' $every >"$work/blank"
nothing "no line ends in a blank" "$work/blank"

# automake names the log of tests/a and of tests/a.sh alike: of two such tests only one would run
awk '/\\$/ { sub(/\\$/, ""); line = line $0; next }
    { line = line $0 }
    line ~ /^(TESTS|script_tests|long_tests) =/ {
        n = split(line, word, /[ \t]+/)
        for (i = 3; i <= n; i++) {
            sub(/\.sh$/, "", word[i])
            if (word[i] ~ /^tests\// && seen[word[i]]++) print word[i]
        }
    }
    { line = "" }' tests/sources.am >"$work/twice"
nothing "every test has a log of its own" "$work/twice"

if [ -f "$builddir/liblockstep.a" ] && command -v nm >/dev/null; then
    # C++ names (_Z) are those of CUDA kernels; __ and DW. those nvcc and the C++ compiler make;
    # NVTX is a header whose functions are weak.
    nm -g "$builddir/liblockstep.a" 2>/dev/null |
        awk -v others='^(lk_|_Z|__|DW\\.|nvtx|InitializeInjectionNvtx)' \
            'NF == 3 && $2 ~ /[A-TV-Z]/ && $3 !~ others { print $3 }' >"$work/names"
    nm -g "$builddir/liblockstep.a" 2>/dev/null | grep -c ' T lk_' >"$work/count"
    nothing "all public names of liblockstep.a start with lk_" "$work/names"
    ok "and there are some" test "$(cat "$work/count")" -gt 100
else
    skip "all public names of liblockstep.a start with lk_" "no library or no nm here"
fi

# ---- lists kept by hand ------------------------------------------------------------------------

# shellcheck disable=SC2086
for file in $every; do
    grep -q "[ 	=]$file\( \|\$\|\\\\\)" ./*/sources.am ./src/*/sources.am Makefile.am ||
        echo "$file is in no sources.am"
done >"$work/unlisted"
nothing "every source file is in a sources.am (and so in the tarball)" "$work/unlisted"

finish
