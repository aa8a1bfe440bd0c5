#!/bin/sh
# Print the strings of one array of a TOML file, one a line:  toml_list.sh FILE TABLE KEY
#
# Enough TOML for pyproject.toml, and in awk because a fresh machine may have no Python yet. Strings are
# "double-quoted" without escapes. An array that is not there is an error, so that a typing slip is seen.
exec awk -v table="$2" -v key="$3" '
    function fail(why) { printf "%s: [%s] %s: %s\n", FILENAME, table, key, why > "/dev/stderr"; failed = 1; exit 1 }
    # print the strings of one line up to the bracket that ends the array
    function take(line,   at) {
        while (line != "") {
            if (match(line, /^[ \t,]+/)) { line = substr(line, RLENGTH + 1) }
            else if (match(line, /^"[^"\\]*"/)) { print substr(line, 2, RLENGTH - 2); line = substr(line, RLENGTH + 1) }
            else if (line ~ /^#/) { return }
            else if (line ~ /^\]/) { inside = 0; return }
            else { fail("cannot read \"" line "\"") }
        }
    }
    inside { take($0); next }
    /^[ \t]*\[/ { here = ($0 ~ "^[ \t]*\\[" table "\\][ \t]*(#.*)?$"); next }
    here && $0 ~ "^[ \t]*" key "[ \t]*=" {
        found = 1
        sub(/^[^=]*=[ \t]*/, "")
        if (!sub(/^\[/, "")) fail("not an array")
        inside = 1
        take($0)
    }
    END { if (!failed && !found) fail("not found"); if (!failed && inside) fail("the array does not end") }
' "$1"
