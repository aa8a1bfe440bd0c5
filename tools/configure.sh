#!/bin/sh
# Make a Meson build folder, or set options of one that exists:  tools/configure.sh FOLDER [-Doption=value...]
#
# Remembers the options that it was given, because `meson configure` reconfigures even when nothing changes.
set -eu
cd "$(dirname "$0")/.."
folder=$1
shift
given=$folder/.options-given

if [ ! -f "$folder/build.ninja" ]; then
    meson setup "$folder" "$@"
    : >"$given"
else
    new=
    for option; do grep -qxF -e "$option" "$given" || new=yes; done
    [ -n "$new" ] || exit 0
    meson configure "$folder" "$@"
fi
for option; do
    { grep -vF -e "${option%%=*}=" "$given" || true; echo "$option"; } >"$given.new"
    mv "$given.new" "$given"
done
