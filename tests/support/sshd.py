"""A real sshd for one test: keys, a user and a configuration of its own in a folder; run it in a mount namespace, so that the machine's accounts are not touched."""

from __future__ import annotations

import os
import shlex
import shutil
import subprocess
from pathlib import Path

PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

CONFIGURATION = """Port {port}
ListenAddress {address}
HostKey {folder}/hostkey
PidFile none
AuthorizedKeysFile {folder}/key.pub
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
Subsystem sftp internal-sftp
"""

CLIENT = """Host *
  IdentityFile {folder}/key
  IdentitiesOnly yes
  UserKnownHostsFile {folder}/known_hosts
  StrictHostKeyChecking yes
  BatchMode yes
  ConnectTimeout 10
"""


def why_not() -> str | None:
    """Which programs are missing, or None."""
    missing = [name for name in ("sshd", "ssh", "scp", "ssh-keygen") if not shutil.which(name, path=PLACES)]
    return f"not installed: {', '.join(missing)}; tools/setup.sh test brings them" if missing else None


class Sshd:
    """The files of one: for a user (of root's number: nothing else can be there without an account) with a home of its own.

    script: what a shell in a new mount namespace does to become the server, as root. client_file: for ssh -F. key: the private key.
    """

    def __init__(self, folder: Path, user: str, home: Path, *, port: int = 22, address: str = "0.0.0.0", hosts: tuple[str, ...] = ("*",)) -> None:
        self.folder, self.user, self.home = folder, user, home
        home.mkdir(parents=True, exist_ok=True)
        for name in ("key", "hostkey"):
            if not (folder / name).exists():
                subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)], check=True)
        public = (folder / "hostkey.pub").read_text()
        (folder / "known_hosts").write_text("".join(f"{host} {public}" for host in hosts))
        self.client_file = folder / "ssh_config"
        self.client_file.write_text(CLIENT.format(folder=folder))
        self.key = folder / "key"
        configuration = folder / f"sshd_config.{home.name}"
        configuration.write_text(CONFIGURATION.format(port=port, address=address, folder=folder))
        accounts = folder / f"passwd.{home.name}"
        accounts.write_text(f"{user}:x:0:0::{home}:/bin/sh\n" + Path("/etc/passwd").read_text())
        sshd = shutil.which("sshd", path=PLACES) or "sshd"
        self.script = "; ".join(["set -e", "mkdir -p /run/sshd", f"mount --bind {shlex.quote(str(accounts))} /etc/passwd",
                                 f"exec {sshd} -D -e -f {shlex.quote(str(configuration))}"])
