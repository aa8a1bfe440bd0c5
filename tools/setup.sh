#!/bin/sh
# Install what is missing:  tools/setup.sh [GROUP...]   groups: build (the default) test bench docs apps peers long fresh
#
# Debian packages and Python packages of each group come from pyproject.toml; the latter go into .venv, made
# with $PYTHON (default python3). A stamp keyed to pyproject.toml makes a second run do nothing.
set -euf
cd "$(dirname "$0")/.."
venv=.venv
[ $# -gt 0 ] || set -- build

list() { tools/toml_list.sh pyproject.toml "$@"; }
die() { echo "setup: $*" >&2; exit 1; }

# A stamp holds what its group was installed from; another Python or another pyproject.toml makes it stale.
recipe="$(cksum pyproject.toml tools/setup.sh) ${PYTHON:-python3}"
is_done() { [ "$(cat "$venv/.setup-$1" 2>/dev/null)" = "$recipe" ]; }

groups=
for group; do is_done "$group" || groups="$groups $group"; done
[ -n "$groups" ] || exit 0

# ---- Debian packages ----

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null; then sudo "$@"
    else die "cannot install$missing: neither root nor sudo; install them and run this again"
    fi
}

# Status by package; a package that only left its configuration behind counts as missing.
is_installed() { dpkg-query -W -f '${db:Status-Status}' "$1" 2>/dev/null | grep -qx installed; }
is_known() { apt-cache show --no-all-versions "$1" >/dev/null 2>&1; }

# Tests start the servers that they need (sshd, Slurm, PostgreSQL) themselves: those of the packages neither start now, unless the
# machine has a policy of its own, nor with the machine.
policy=/usr/sbin/policy-rc.d
with_services_off() {
    made=false
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 755 $policy
        made=true
    fi
    status=0
    "$@" || status=$?
    if $made; then as_root rm -f $policy; fi
    return $status
}
turn_off() {
    command -v systemctl >/dev/null || return 0
    case " $missing " in *" openssh-server "*) as_root systemctl --quiet disable ssh || true ;; esac
    for service in munge slurmctld slurmd; do
        case " $missing " in *" $service "*) as_root systemctl --quiet disable $service || true ;; esac
    done
}

missing=
for group in $groups; do
    packages=$(list tool.manyhands.debian "$group")
    for package in $packages; do is_installed "$package" || missing="$missing $package"; done
done
if [ -n "$missing" ]; then
    command -v apt-get >/dev/null || die "not a Debian system: install what corresponds to$missing"
    echo "setup: installing$missing"
    # Lists are refreshed only when they know nothing of a package, or when what they name is gone from the mirror.
    update=false
    for package in $missing; do is_known "$package" || update=true; done
    if $update; then as_root apt-get update -q; fi
    install="env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends"
    # shellcheck disable=SC2086  # lists of words
    with_services_off as_root $install $missing </dev/null || {
        $update && die "apt-get could not install$missing"
        as_root apt-get update -q
        with_services_off as_root $install $missing </dev/null
    }
    turn_off
fi

# ---- Python packages ----

python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || die "$python is older than 3.10: set PYTHON"
# A virtual environment whose Python is another one, or gone, is made anew.
wanted=$("$python" -c 'import sys; print(sys.version, sys.base_prefix)')
if [ "$wanted" != "$("$venv/bin/python" -c 'import sys; print(sys.version, sys.base_prefix)' 2>/dev/null || true)" ]; then
    echo "setup: making $venv with $("$python" --version)"
    "$python" -m venv --clear "$venv"
fi

requirements=
for group in $groups; do
    case $group in
    build) requirements="$requirements $(list build-system requires) $(list project dependencies)" ;;
    test | bench | docs | apps | peers) requirements="$requirements $(list project.optional-dependencies "$group")" ;;
    esac
done
# shellcheck disable=SC2086
set -- $requirements
[ $# = 0 ] || "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"

for group in $groups; do printf '%s\n' "$recipe" >"$venv/.setup-$group"; done
