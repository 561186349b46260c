#!/bin/sh
# The manual pages: there is one for every command, it has what the command says of itself, and
# readers of manual pages take it without a complaint.
# shellcheck source=tests/tap.sh source-path=SCRIPTDIR/..
. "${srcdir:-$(dirname "$0")/..}/tests/tap.sh"

if [ ! -f "$builddir/doc/lockstep.1" ] && [ ! -f "$srcdir/doc/lockstep.1" ]; then
    skip "manual pages" "none here: help2man was missing"
    finish
fi

# page NAME: its file.
page() {
    if [ -f "$builddir/doc/$1" ]; then echo "$builddir/doc/$1"; else echo "$srcdir/doc/$1"; fi
}

# As text, one paragraph a line, without what fonts need.
if command -v mandoc >/dev/null; then
    text() { mandoc -T ascii -O width=1000 "$1" | sed "s/.$(printf '\b')//g; s/^  */ /"; }
    complaints() { mandoc -T lint -W warning "$1"; }
elif command -v groff >/dev/null; then
    text() { groff -man -T ascii -rLL=2000n -P -cbou "$1" | sed 's/^  */ /'; }
    complaints() { groff -man -ww -z "$1" 2>&1; }
else
    skip "manual pages" "neither mandoc nor groff is here"
    finish
fi

# options COMMAND: each option of its --help, with its argument.
options() {
    "$LOCKSTEP" "$@" --help | awk '/^ +-/ && index($0, "-") < 10 {
        sub(/^ +/, "")
        sub(/   *.*/, "")
        print
    }'
}

# The list in the build is that of the program.
"$LOCKSTEP" --help | sed -n 's/^  \([a-z][a-z]*\)  *[a-z].*/\1/p' >commands
ok "the program has commands: $(grep -c '' commands)" test "$(grep -c '' commands)" -ge 12

while IFS= read -r command; do
    file=$(page "lockstep-$command.1")
    ok "$command has a page" test -s "$file"
    [ -s "$file" ] || continue
    text "$file" >text.out
    options "$command" >wanted
    while IFS= read -r option; do
        grep -qF -e " $option" text.out || echo "$option"
    done <wanted >absent
    ok "it has each of its $(grep -c '' wanted) options: $(tr '\n' ' ' <absent)" \
        test ! -s absent -a -s wanted
    ok "it says how it is called" grep -qxE " lockstep $command \[OPTION\.\.\.\].*" text.out
    for section in NAME SYNOPSIS DESCRIPTION OPTIONS 'EXIT STATUS' 'SEE ALSO'; do
        grep -qx "$section" text.out || echo "$section"
    done >absent
    ok "and all sections: $(tr '\n' ' ' <absent)" test ! -s absent
done <commands

text "$(page lockstep.1)" >text.out
while IFS= read -r command; do
    grep -q "^ $command" text.out && grep -qF "lockstep-$command(1)" text.out || echo "$command"
done <commands >absent
ok "lockstep(1) names all of them: $(tr '\n' ' ' <absent)" test ! -s absent

text "$(page lockstep-run-file.5)" >text.out
"$LOCKSTEP" help run-file | awk '
    /^[a-z_]+:$/ { section = $1; sub(/:/, ".", section) }
    /^[a-z_]+: / { print $1 }
    /^  [a-z_0-9]+:/ { print section $1 }' >keys
while IFS= read -r key; do
    grep -qF " $key " text.out || echo "$key"
done <keys >absent
ok "lockstep-run-file(5) has all $(grep -c '' keys) keys: $(tr '\n' ' ' <absent)" \
    test "$(grep -c '' keys)" -gt 50 -a ! -s absent

for name in lockstep.1 lockstep-run-file.5 $(sed 's/.*/lockstep-&.1/' commands); do
    complaints "$(page "$name")"
done >complained 2>&1
ok "readers of manual pages have no complaint: $(head -n 3 complained)" test ! -s complained

# A page that has lost an option is found: what is above can fail.
sed '/resume/d' "$(page lockstep-train.1)" >lost.1
text lost.1 >text.out
ok "a page without --resume would be found" sh -c '! grep -qF -e "-r, --resume" text.out'

finish
