"""A Slurm cluster on this host, in one folder: munged, slurmctld and a slurmd for each of its nodes, at ports that were free, for this user alone."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scancel", "sinfo", "squeue")
SOON_S = 60
PLACES = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"

CONFIGURATION = """ClusterName=tests
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/munge.socket
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MpiDefault=none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/builtin
SchedulerParameters=batch_sched_delay=0,sched_interval=1,sched_min_interval=0
ReturnToService=2
KillWait=2
MinJobAge=300
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
"""


def why_not() -> str | None:
    """Which programs are missing, or None."""
    missing = [name for name in PROGRAMS if not shutil.which(name, path=PLACES)]
    return f"not installed: {', '.join(missing)}; tools/setup.sh test brings them" if missing else None


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]
    finally:
        for one in sockets:
            one.close()


class Slurm:
    """It runs from construction to close(). environment: what makes Slurm's commands and their children find it."""

    def __init__(self, folder: Path, nodes: int = 2, cpus: int = 2) -> None:
        self.folder = folder
        self.environment = {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": PLACES}
        self.daemons: list[subprocess.Popen[bytes]] = []
        folder.chmod(0o755)  # munged wants to know that nobody else may write where its socket is
        for name in ("state", *(f"spool.n{i}" for i in range(1, nodes + 1))):
            (folder / name).mkdir()
        self._configure(nodes, cpus)
        try:
            self._start("munged", "--foreground", "--force", f"--key-file={folder}/key", f"--socket={folder}/munge.socket", f"--pid-file={folder}/munged.pid",
                        f"--seed-file={folder}/seed", f"--log-file={folder}/munged.log", "--num-threads=2")
            self._wait(lambda: (folder / "munge.socket").exists(), "munged does not listen")
            self._start("slurmctld", "-D", "-c", "-f", self.environment["SLURM_CONF"])
            for i in range(1, nodes + 1):
                self._start("slurmd", "-D", "-N", f"n{i}", "-f", self.environment["SLURM_CONF"])
            self._wait(lambda: len(set(self.run("sinfo", "-h", "-N", "-t", "idle", "-o", "%N").split())) == nodes, "the nodes do not come up")
        except BaseException:
            print(self.logs())
            self.close()
            raise

    def _configure(self, nodes: int, cpus: int) -> None:
        import pwd

        host, user = socket.gethostname().partition(".")[0], pwd.getpwuid(os.getuid()).pw_name
        controller, *ports = free_ports(1 + nodes)
        lines = [f"NodeName=n{i} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=512 State=UNKNOWN" for i, port in enumerate(ports, 1)]
        lines.append("PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP")
        (self.folder / "slurm.conf").write_text(CONFIGURATION.format(host=host, port=controller, user=user, folder=self.folder) + "\n".join(lines) + "\n")
        (self.folder / "cgroup.conf").write_text("CgroupAutomount=no\n")
        (self.folder / "key").write_bytes(os.urandom(128))
        (self.folder / "key").chmod(0o400)

    def _start(self, name: str, *arguments: str) -> None:
        program = shutil.which(name, path=PLACES)
        assert program
        with open(self.folder / f"{name}.output", "ab") as log:
            self.daemons.append(subprocess.Popen([program, *arguments], env={**os.environ, **self.environment}, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                                 cwd=self.folder, start_new_session=True))

    def _wait(self, condition: object, what: str) -> None:
        until = time.monotonic() + SOON_S
        while not condition():  # type: ignore[operator]
            ended = [daemon.args for daemon in self.daemons if daemon.poll() is not None]
            assert not ended, f"{ended} ended"
            assert time.monotonic() < until, what
            time.sleep(0.05)

    def run(self, *command: str) -> str:
        """What one of Slurm's commands prints; "" when it fails."""
        return subprocess.run(command, env={**os.environ, **self.environment}, capture_output=True, text=True, timeout=SOON_S).stdout

    def jobs(self) -> list[str]:
        """The states of jobs that wait or run."""
        return self.run("squeue", "-h", "-o", "%T").split()

    def logs(self) -> str:
        return "".join(f"==== {path.name}\n{path.read_text(errors='replace')[-3000:]}\n" for pattern in ("*.log", "*.output") for path in sorted(self.folder.glob(pattern)))

    def close(self) -> None:
        """End the daemons, the newest first."""
        if len(self.daemons) > 1 and self.jobs():
            self.run("scancel", "--signal=KILL", "--full", *self.run("squeue", "-h", "-o", "%A").split())
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
