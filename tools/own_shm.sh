#!/bin/sh
# Run a command with a /dev/shm of its own:  tools/own_shm.sh COMMAND...
#
# So that tests which look for things left there can run beside each other. In the background, too, the command gets SIGINT and SIGHUP:
# what a script puts there ignores the one, and what nohup runs the other; tests send both. It fails where mounting is not allowed.
# shellcheck disable=SC2016  # expanded by the inner shell
exec env --default-signal=INT,HUP unshare -m sh -c 'mount -t tmpfs -o mode=1777 tmpfs /dev/shm && exec "$@"' own_shm "$@"
