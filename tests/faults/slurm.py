"""SLURM on this machine alone, from Debian's packages, which are unpacked into a folder and not installed."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = ("munge", "libmunge2", "slurmctld", "slurmd", "slurm-client", "slurm-wlm-basic-plugins")
NEEDED = ("libhwloc15", "liblua5.1-0")

CONF = """
ClusterName=one
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort=16817
SlurmdPort=16818
PluginDir={library}/slurm-wlm
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=sched_interval=1,bf_interval=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SwitchType=switch/none
NodeName={host} NodeAddr=127.0.0.1 CPUs=2 SocketsPerBoard=1 CoresPerSocket=2 RealMemory=1000 State=UNKNOWN
PartitionName=low Nodes={host} Default=YES PriorityTier=1 PreemptMode=REQUEUE GraceTime=0 State=UP
PartitionName=high Nodes={host} PriorityTier=10 PreemptMode=OFF State=UP
"""
"""Two cores; jobs in the partition `high` push those in `low` aside, which then wait for cred_expire seconds."""


class Missing(Exception):
    """Why SLURM cannot run here."""


@contextmanager
def one_node(folder: Path) -> Iterator[Path]:
    """Run SLURM within a block; yield the folder of its commands.

    Raises:
        Missing: if its packages cannot be had, or it does not start.
    """
    if os.geteuid() or shutil.which("apt-get") is None:
        raise Missing("SLURM's test needs root and apt-get")
    root, library = folder / "root", folder / "root" / "usr" / "lib" / "x86_64-linux-gnu"
    root.mkdir(parents=True)
    asked = ["apt-get", "download", *PACKAGES, *NEEDED]
    got = subprocess.run(asked, cwd=folder, capture_output=True, text=True)
    if got.returncode:
        raise Missing(f"no packages of SLURM: {got.stderr.strip()[-200:]}; try apt-get update")
    for package in folder.glob("*.deb"):
        subprocess.run(["dpkg", "-x", package, root], check=True)
    for name in ("state", "spool", "bin"):
        (folder / name).mkdir()
    conf, key = folder / "slurm.conf", folder / "munge.key"
    conf.write_text(CONF.format(host=socket.gethostname().partition(".")[0], folder=folder, library=library))
    key.write_bytes(secrets.token_bytes(1024))
    key.chmod(0o600)
    paths = f"LD_LIBRARY_PATH={library}/slurm-wlm:{library} SLURM_CONF={conf}"
    for path in (root / "usr" / "bin").glob("s*"):
        command = folder / "bin" / path.name
        command.write_text(f'#!/bin/sh\n{paths} exec {path} "$@"\n')
        command.chmod(0o755)
    sbin = root / "usr" / "sbin"
    munge = [f"--{name}={folder}/{file}" for name, file in
             {"key-file": "munge.key", "socket": "munge.socket", "pid-file": "munged.pid", "log-file": "munged.log",
              "seed-file": "munge.seed"}.items()]  # fmt: skip
    started = (
        ["munged", "--force", *munge],
        ["slurmctld-wlm", "-c"],
        ["slurmd-wlm", "-d", str(sbin / "slurmstepd-wlm")],
    )
    try:
        for name, *words in started:
            line = ["env", *paths.split(), str(sbin / name), *words]
            subprocess.run(line, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, timeout=30)
            time.sleep(1)
        end = time.monotonic() + 60
        while "idle" not in subprocess.run([folder / "bin" / "sinfo"], capture_output=True, text=True).stdout:
            if time.monotonic() > end:
                raise Missing(f"SLURM does not start: {(folder / 'slurmctld.log').read_text()[-300:]}")
            time.sleep(0.5)
        yield folder / "bin"
    finally:
        for name in ("slurmd", "slurmctld", "munged"):
            with suppress(OSError, ValueError):
                os.kill(int((folder / f"{name}.pid").read_text()), signal.SIGTERM)
