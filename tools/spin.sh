#!/bin/sh
# Verify a Spin model and each of its mutants:  tools/spin.sh MODEL.pml
#
# A model is right when the search of all its states finds no error. It is worth something when it also notices every
# rule that is left out: each `MUTANT == n` in it names one, and with -DMUTANT=n the search must find an error.
# Depth and memory that do not suffice count as errors of ours. Prints TAP, which tools/summary.py adds up.
set -u
model=$(realpath "$1")
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
cd "$folder" || exit 1
for tool in spin gcc; do
    command -v $tool >/dev/null || { echo "$tool is not installed"; exit 77; }
done

mutants=$(grep -o 'MUTANT == [0-9][0-9]*' "$model" | awk '{ print $3 }' | sort -nu)
# Not optimized: for models of this size the compiler would take longer than all the searches.
# A model with properties over time needs the search for cycles.
if grep -q '^ltl ' "$model"; then flags=; search=-a; else flags=-DSAFETY; search=; fi

number=0
failed=0
verify() { # MUTANT WANTED ("0" errors, or "some") NAME
    number=$((number + 1))
    rm -f pan*
    # shellcheck disable=SC2086
    spin -a -DMUTANT="$1" "$model" >log 2>&1 &&
        gcc -O0 -w $flags -DVECTORSZ=8192 -DMEMLIM=8192 -o pan pan.c >>log 2>&1 &&
        ./pan $search -m100000 >>log 2>&1
    errors=$(sed -n 's/.*errors: \([0-9]*\).*/\1/p' log)
    if grep -q 'max search depth too small\|out of memory\|Search not completed' log && [ "$2" = 0 ]; then errors=incomplete; fi
    case $2:$errors in
    0:0 | some:[1-9]*) echo "ok $number - $3" ;;
    *)
        failed=1
        echo "not ok $number - $3"
        tail -n 30 log | sed 's/^/# /'
        ;;
    esac
}

# shellcheck disable=SC2086
set -- $mutants
echo "1..$(($# + 1))"
verify 0 0 "$(basename "$model")"
for mutant; do verify "$mutant" some "mutant $mutant"; done
exit $failed
