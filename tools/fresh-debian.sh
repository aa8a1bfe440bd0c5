#!/bin/sh
# Try make targets on a fresh Debian 12:  tools/fresh-debian.sh TARGET...     (as root)
#
# Makes a minimal Debian in a temporary folder, clones the checkout's HEAD into it, and runs `make TARGET` twice for each
# target inside: once with nothing of ours installed, and once more to show that a second run does no work again.
#
#   DEBIAN_MIRROR   default http://deb.debian.org/debian
#   KEEP=1          leave the folder for a look
#
# Uses the host's apt and pip configuration, so that it works behind the same proxies and mirrors as the host.
set -eu
cd "$(dirname "$0")/.."
[ "$(id -u)" = 0 ] || { echo "fresh-debian: needs root" >&2; exit 1; }
[ $# -gt 0 ] || set -- demo check

root=$(mktemp -d "${TMPDIR:-/tmp}/fresh-debian.XXXXXX")
chmod 755 "$root" # apt drops its privileges to download

# Nothing is removed while anything is still mounted below.
leave() {
    for place in dev proc; do
        ! mountpoint -q "$root/$place" || umount -R "$root/$place" || umount -R -l "$root/$place"
    done
    if [ -n "${KEEP-}" ] || grep -qF " $root/" /proc/mounts; then
        echo "fresh-debian: $root is left"
    else
        rm -rf --one-file-system "$root"
    fi
}
trap leave EXIT
trap 'exit 1' INT TERM HUP

# make and CA certificates are what one needs to fetch and start the checkout at all
debootstrap --variant=minbase --include=make,ca-certificates bookworm "$root" \
    "${DEBIAN_MIRROR:-http://deb.debian.org/debian}"

rm -f "$root/etc/apt/sources.list" # the host's follow
for file in /etc/apt/sources.list /etc/apt/sources.list.d /etc/apt/apt.conf.d /etc/apt/keyrings \
    /etc/ssl/certs/ca-certificates.crt /etc/resolv.conf /etc/hosts /etc/pip.conf; do
    [ ! -e $file ] || { mkdir -p "$root${file%/*}" && cp -rL $file "$root${file%/*}/"; }
done
[ ! -f "$HOME/.config/pip/pip.conf" ] || install -D "$HOME/.config/pip/pip.conf" "$root/root/.config/pip/pip.conf"

mount -t proc proc "$root/proc"
mount --rbind /dev "$root/dev"
mount --make-rslave "$root/dev"

git clone --quiet --no-hardlinks . "$root/manyhands"

inside() {
    env -i HOME=/root PATH=/usr/sbin:/usr/bin:/sbin:/bin TERM="${TERM:-dumb}" CI="${CI-}" \
        $(env | grep -E '^(PIP_|https?_proxy=|HTTPS?_PROXY=|no_proxy=|NO_PROXY=)' || true) \
        chroot "$root" "$@"
}
failed=0
for target; do
    for run in first second; do
        echo "==== fresh Debian: make $target, $run run ===="
        from=$(date +%s)
        inside make -C /manyhands "$target" </dev/null || failed=1
        echo "==== fresh Debian: make $target, $run run: $(($(date +%s) - from)) s ===="
    done
done
exit $failed
