"""A real Slurm of one node on loopback, in a folder of its own: munged, slurmctld and slurmd, ended by their pids."""

from __future__ import annotations

import atexit
import functools
import getpass
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "scontrol", "squeue", "sinfo", "scancel")
PACKAGES = "slurm-wlm munge"
_PATIENCE_SECONDS = 60.0

# A job that is requeued waits for cred_expire. No cgroups: they want rights that a container lacks.
_CONFIG = """\
ClusterName=dbrtest
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
SlurmctldPort={ctld_port}
SlurmdPort={d_port}
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket={folder}/run/munge.sock,cred_expire=5
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
KillWait=20
MinJobAge=3600
JobRequeue=1
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerType=sched/backfill
SchedulerParameters=batch_sched_delay=0,sched_interval=1,bf_interval=1,sched_min_interval=0
PriorityType=priority/basic
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
JobCompType=jobcomp/none
GresTypes=gpu
NodeName={host} NodeAddr=127.0.0.1 Port={d_port} CPUs={cpus} RealMemory=1000 Gres=gpu:1 State=UNKNOWN
PartitionName=low Nodes=ALL Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=60 MaxTime=60 DefaultTime=30
PartitionName=high Nodes=ALL PriorityTier=10 PreemptMode=OFF MaxTime=60 DefaultTime=10
PartitionName=short Nodes=ALL MaxTime=2
PartitionName=closed Nodes=ALL MaxTime=60 State=DOWN
"""


def missing_programs() -> list[str]:
    return [program for program in PROGRAMS if shutil.which(program) is None]


@dataclass(slots=True)
class Cluster:
    """Partitions: `low` (the default), `high` takes its node from it, `short`, and `closed`, where jobs wait."""

    folder: Path
    _daemons: list[subprocess.Popen[bytes]] = field(default_factory=list)

    @property
    def environment(self) -> dict[str, str]:
        return {"SLURM_CONF": str(self.folder / "slurm.conf")}

    def ask(self, *words: str) -> str:
        done = subprocess.run(
            words, capture_output=True, text=True, timeout=_PATIENCE_SECONDS, check=False,
            env={**os.environ, **self.environment},
        )  # fmt: skip
        assert done.returncode == 0, f"{' '.join(words)}: {done.stderr}"
        return done.stdout

    def job_state(self, number: str) -> str:
        return self.ask("squeue", "--noheader", "--states=all", f"--jobs={number}", "--format=%T").strip()

    def jobs(self) -> set[str]:
        """Those that Slurm has still to run, or runs."""
        return set(self.ask("squeue", "--noheader", "--format=%i").split())

    def start(self) -> None:
        # munged wants its socket's folder open to all and its key's to nobody else.
        self.folder.chmod(0o755)
        for name, mode in (("run", 0o755), ("key", 0o700), ("state", 0o755), ("spool", 0o755)):
            (self.folder / name).mkdir()
            (self.folder / name).chmod(mode)
        key = self.folder / "key" / "munge.key"
        key.write_bytes(os.urandom(1024))
        key.chmod(0o600)
        ctld_port, d_port = free_ports(2)
        (self.folder / "slurm.conf").write_text(
            _CONFIG.format(
                host=socket.gethostname().partition(".")[0],
                user=getpass.getuser(),
                folder=self.folder,
                ctld_port=ctld_port,
                d_port=d_port,
                cpus=os.cpu_count(),
            )
        )
        # A GPU is a device file to Slurm, whatever is behind it.
        (self.folder / "gres.conf").write_text("Name=gpu File=/dev/null\n")
        places = {
            "key-file": "key/munge.key",
            "socket": "run/munge.sock",
            "pid-file": "key/munged.pid",
            "log-file": "key/munged.log",
            "seed-file": "key/munged.seed",
        }
        self._run("munged", "--foreground", *(f"--{name}={self.folder / place}" for name, place in places.items()))
        self._wait("munged", lambda: (self.folder / "run" / "munge.sock").exists())
        self._run("slurmctld", "-D")
        self._run("slurmd", "-D")
        self._wait("the node", self._is_up)

    def stop(self) -> None:
        """Everything, and what still runs of the jobs."""
        for number in self.jobs():
            self.ask("scancel", "--full", "--signal=KILL", number)
            self.ask("scancel", number)
        self._wait("the end of the jobs", lambda: not self.jobs())
        # slurmctld has a helper, and slurmd's helpers end with their jobs.
        helpers = [child for daemon in self._daemons for child in psutil.Process(daemon.pid).children(recursive=True)]
        for daemon in reversed(self._daemons):
            daemon.kill()
            daemon.wait()
        for helper in helpers:
            if helper.is_running():
                helper.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _run(self, program: str, *words: str) -> None:
        with (self.folder / f"{program}.out").open("wb") as out:
            daemon = subprocess.Popen(
                [program, *words], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                env={**os.environ, **self.environment}, start_new_session=True,
            )  # fmt: skip
        self._daemons.append(daemon)

    def _is_up(self) -> bool:
        done = subprocess.run(
            ["sinfo", "--noheader", "--partition=low", "--format=%T"], capture_output=True, text=True, check=False,
            env={**os.environ, **self.environment}, timeout=_PATIENCE_SECONDS,
        )  # fmt: skip
        return done.stdout.strip() == "idle"

    def _wait(self, what: str, is_ready: Callable[[], bool]) -> None:
        deadline = time.monotonic() + _PATIENCE_SECONDS
        while not is_ready():
            ended = [daemon.args for daemon in self._daemons if daemon.poll() is not None]
            outs = "".join(
                path.read_text()[-1500:] for path in (*self.folder.glob("*.out"), *self.folder.glob("*.log"))
            )
            assert not ended, f"{ended} ended: {outs}"
            assert time.monotonic() < deadline, f"{what} did not come up: {outs}"
            time.sleep(0.05)


def free_ports(count: int) -> Sequence[int]:
    probes = [socket.socket() for _ in range(count)]
    try:
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [probe.getsockname()[1] for probe in probes]
    finally:
        for probe in probes:
            probe.close()


@functools.cache
def shared_cluster() -> Cluster:
    """One for all tests of this process."""
    cluster, owner = Cluster(Path(tempfile.mkdtemp(prefix="dbr-slurm-"))), os.getpid()

    def stop() -> None:
        # A forked child inherits what is to be done at exit.
        if os.getpid() == owner:
            cluster.stop()

    atexit.register(stop)
    cluster.start()
    return cluster
