"""A Slurm for tests, of one node or several on this machine: its own munge, controller and node daemon, on ports and in a
folder of its own. Nothing of it outlives `stop`, nor the test if that is killed: neither daemons
nor jobs. Only processes that it started are stopped.
"""

import os
import pathlib
import shutil
import signal
import socket
import subprocess
import sys
import time

PROGRAMS = ["slurmctld", "slurmd", "sbatch", "srun", "scancel", "squeue", "munged"]

# Cores that the node claims: more than this machine may have, so that small graphs fit.
CPUS = 8

# Who sees to it that nothing is left.
KEEPER = str(pathlib.Path(__file__).with_name("slurm_keeper.py"))

# Longest wait for anything: far above what it takes.
PATIENCE = 60.0

NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=16000\n"

CONF = """
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CryptoType=crypto/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerType=sched/backfill
SchedulerParameters=bf_interval=1,sched_min_interval=500000
SlurmdParameters=config_overrides
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
MpiDefault=none
KillWait=20
InactiveLimit=0
ReturnToService=2
SwitchType=switch/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
PartitionName=test Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def missing():
    """Programs that are not installed."""
    return [program for program in PROGRAMS if not shutil.which(program, path=path())]


def path():
    """Where the programs are: daemons are not always on a user's PATH."""
    return os.environ.get("PATH", "") + ":/usr/sbin:/sbin"


def until(what, is_so):
    """Looks again and again until it is so."""
    deadline = time.monotonic() + PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < deadline, f"gave up waiting until {what}"
        time.sleep(0.05)
    return found


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


class Slurm:
    """The daemons, and commands that speak with them."""

    def __init__(self, folder, nodes=1):
        self.nodes = [f"node{number}" for number in range(1, nodes + 1)]
        self.folder = pathlib.Path(folder)
        self.daemons = []
        self.environment = {
            **os.environ,
            "PATH": path(),
            "SLURM_CONF": str(self.folder / "slurm.conf"),
        }
        try:
            self._start()
        except BaseException:
            self.stop()
            raise

    def _start(self):
        (self.folder / "state").mkdir(parents=True)
        # munged refuses folders that others may write to.
        self.folder.chmod(0o755)
        key = self.folder / "munge.key"
        key.write_bytes(os.urandom(128))
        key.chmod(0o600)
        self._daemon(
            ["munged", "--force", "--foreground"]
            + [f"--{what}={self.folder}/munge.{what.split('-')[0]}" for what in ["key-file", "socket", "pid-file", "log-file", "seed-file"]]
        )
        until("munge listens", (self.folder / "munge.socket").exists)
        host = socket.gethostname().split(".")[0]
        conf = CONF.format(host=host, folder=self.folder, controller=free_port())
        for name in self.nodes:
            conf += NODE.format(name=name, host=host, port=free_port(), cpus=CPUS)
        (self.folder / "slurm.conf").write_text(conf)
        self._daemon(["slurmctld", "-D", "-f", str(self.folder / "slurm.conf")])
        for name in self.nodes:
            (self.folder / f"spool.{name}").mkdir()
            self._daemon(["slurmd", "-D", "-N", name, "-f", str(self.folder / "slurm.conf")])
        until("the nodes are idle", self._are_idle)

    def _are_idle(self):
        states = self.run("sinfo", "-h", "-N", "-o", "%T", check=False).split()
        return states == ["idle"] * len(self.nodes)

    def _daemon(self, command):
        log = open(self.folder / f"{command[0]}.{len(self.daemons)}.out", "wb")
        # It ends with this process, however that ends, and what it started with it.
        command = [sys.executable, KEEPER, str(os.getpid()), *command]
        self.daemons.append(
            subprocess.Popen(command, env=self.environment, stdout=log, stderr=subprocess.STDOUT)
        )

    def run(self, *command, cwd=None, check=True, env=None):
        """What a command prints."""
        ended = subprocess.run(
            command,
            env={**self.environment, **(env or {})},
            cwd=cwd,
            check=False,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            timeout=PATIENCE,
        )
        assert not check or ended.returncode == 0, f"{command}: {ended.stdout}{ended.stderr}"
        return ended.stdout

    def stop(self):
        """Stops what was started, the node daemon first."""
        for daemon in reversed(self.daemons):
            daemon.send_signal(signal.SIGTERM)
            try:
                daemon.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
