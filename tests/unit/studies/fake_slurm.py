"""sbatch, squeue and scancel as far as studies/slurm.py uses them: fake_slurm.py QUEUE NAME ARGUMENTS.

A job is a process on this machine. Of the files in the folder QUEUE, those that end in .job are the queue; a job whose
number is in `preempt` comes back when it ends; while there is a file `down`, the queue gives no answer.
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

QUEUE = Path(sys.argv[1] if __name__ == "__main__" else "")


def sbatch(script: str) -> int:
    if 'partition="none"' in Path(script).read_text():
        print("sbatch: error: invalid partition specified: none", file=sys.stderr)
        return 1
    number = len([*QUEUE.glob("*.job")]) + 1
    (QUEUE / f"{number}.job").write_text(f"PENDING|{script}|")
    words = [sys.executable, *sys.argv[:2], "run", str(number), script]
    none = subprocess.DEVNULL
    subprocess.Popen(words, stdin=none, stdout=none, stderr=none, start_new_session=True)
    print(number)
    return 0


def run(number: str, script: str) -> int:
    entry, preempt = QUEUE / f"{number}.job", QUEUE / "preempt"
    output = re.search(r'--output="(.*)"', Path(script).read_text())[1].replace("%%", "%")
    while True:
        with open(output, "a") as log:
            job = subprocess.Popen(["bash", script], stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        entry.write_text(f"RUNNING|{script}|{job.pid}")
        code = job.wait()
        if not (preempt.exists() and preempt.read_text() == number):
            entry.write_text(f"{'COMPLETED' if code == 0 else 'FAILED'}|{script}|")
            return 0
        preempt.unlink()


def squeue(*words: str) -> int:
    if (QUEUE / "down").exists():
        print("slurm_load_jobs error: Unable to contact slurm controller", file=sys.stderr)
        return 1
    asked = dict(word.removeprefix("--").partition("=")[::2] for word in words)
    for path in QUEUE.glob("*.job"):
        state, script, _ = path.read_text().split("|")
        if asked.get("jobs", path.stem) == path.stem and ("states" in asked or state in ("PENDING", "RUNNING")):
            print(asked["format"].replace("%i", path.stem).replace("%T", state).replace("%o", script))
    return 0


def scancel(*words: str) -> int:
    state, _, pid = (QUEUE / f"{words[-1]}.job").read_text().split("|")
    if f"--state={state}" in words and pid:
        os.kill(int(pid), signal.SIGTERM)
    return 0


def install(folder: Path) -> None:
    """Write the commands into a folder, which is the queue, too."""
    for name in ("sbatch", "squeue", "scancel"):
        path = folder / name
        path.write_text(f'#!/bin/sh\nexec {sys.executable} -I -S {__file__} {folder} {name} "$@"\n')
        path.chmod(0o755)


if __name__ == "__main__":
    commands = {"sbatch": sbatch, "run": run, "squeue": squeue, "scancel": scancel}
    sys.exit(commands[sys.argv[2]](*(word for word in sys.argv[3:] if word != "--parsable")))
