#!/bin/sh
# man.sh LOCKSTEP PAGE: a manual page on standard output, made from what the program LOCKSTEP says
# of itself. PAGE: lockstep.1, lockstep-COMMAND.1 (by help2man, from --help), or lockstep-run-file.5
# (the keys of a run file). Dated SOURCE_DATE_EPOCH, by default the day of the last commit.
set -eu

program=$1
page=${2%.[15]}
command=${page#lockstep}
command=${command#-}
version=$("$program" --version | sed -n '1s/^lockstep \([^ ]*\).*/\1/p')
seconds=${SOURCE_DATE_EPOCH:-$(git -C "$(dirname "$0")" log -1 --format=%ct 2>/dev/null ||
    date +%s)}
day=$(date -u -d "@$seconds" +%Y-%m-%d)
work=$(mktemp -d "${TMPDIR:-/tmp}/lockstep-man-XXXXXX")
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

# ---- the run file ------------------------------------------------------------------------------

run_file()
{
    printf '.TH LOCKSTEP-RUN-FILE 5 "%s" "lockstep %s" "File Formats"\n' "$day" "$version"
    cat <<'END'
.SH NAME
lockstep\-run\-file \- the keys of a run file
.SH DESCRIPTION
A run file says what to train, on what data, and how: YAML, two levels deep.
.PP
END
    "$program" help run-file | awk '
        function roff(text) {
            gsub(/\\/, "\\e", text)
            gsub(/-/, "\\-", text)
            return text ~ /^[.\047]/ ? "\\\\&" text : text
        }
        /^# / { print roff(substr($0, 3)); next }
        !keys++ { print ".SH KEYS" }
        /^[a-z_]+:$/ { section = substr($0, 1, length($0) - 1); print ".SS " section; next }
        /^[a-z_]+: / { section = "" }
        /^ *[a-z_0-9]+:/ {
            sub(/^ +/, "")
            print ".TP\n.B " roff((section == "" ? "" : section ".") $0)
            next
        }
        { sub(/^ +# /, ""); print roff($0) }'
    printf '.SH SEE ALSO\n.BR lockstep (1),\n.BR lockstep\\-train (1)\n'
}

# ---- a command ---------------------------------------------------------------------------------

# The same text with the headings that help2man takes for sections.
sections()
{
    awk -v main="$command" '
        function head(name) { if (section != name) print "*" name "*\n"; section = name }
        BEGIN { RS = ""; FS = "\n"; ORS = "\n\n" }
        /^Mandatory or optional arguments/ { after = 1; next }
        /^Exit status: / { head("Exit Status"); sub(/^Exit status: /, "") }
        /^Examples:/ { section = "Examples" }
        /^ +[a-z]+ +[a-z]/ && main == "" { head("Commands") }
        /^ +-/ && !options++ { print "Options:"; section = "" }
        /^ [a-z, ]+:\n/ { sub(/^ /, ""); sub(/\n +/, "&") }
        after && section == "" { head("Notes") }
        { print }'
}

summary()
{
    if [ -z "$command" ]; then
        echo 'train neural networks, HDF5 in, HDF5 out, on any number of ranks'
    else
        "$program" --help | sed -n "s/^  $command  *//p"
    fi
}

# What help2man runs: it is asked for --help and --version.
cat >"$work/$page" <<'END'
#!/bin/sh
cat "$0.text"
END
chmod +x "$work/$page"

if [ "$page" = lockstep-run-file ]; then
    run_file
    exit
fi
{
    "$program" ${command:+"$command"} --help
    if ! "$program" ${command:+"$command"} --help | grep -q '^Exit status: '; then
        echo
        "$program" --help | sed -n '/^Exit status: /,$p'
    fi
} | sections >"$work/$page.text"
cat >"$work/include" <<'END'
[SEE ALSO]
END
for other in $("$program" --help | sed -n 's/^  \([a-z][a-z]*\)  *[a-z].*/-\1/p') ''; do
    if [ "lockstep$other" != "$page" ]; then
        printf '.BR lockstep%s (1),\n' "$other" | sed 's/-/\\-/'
    fi
done | sort >>"$work/include"
echo '.BR lockstep\-run\-file (5)' >>"$work/include"
help2man --no-info --section 1 --name "$(summary)" --version-string "$version" \
    --source "lockstep $version" --include "$work/include" "$work/$page" >"$work/page"
# "lockstep COMMAND" is the name, the date one that sorts, and commands are not stretched
sed -e '/^\.SH EXAMPLES$\|^\.SH "SEE ALSO"$/a .nh\n.ad l' \
    -e "s/^\(\.TH [A-Z-]* \"1\"\) \"[^\"]*\"/\1 \"$day\"/" \
    -e "/^\.B lockstep\$/{N;s/\n\\\\fI\\\\,$command \\\\\/\\\\fR/ $command\n/;s/ \$//;}" \
    "$work/page"
