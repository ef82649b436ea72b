"""Results of a fixed set of small trainings, as sha256 of weights and of episodes.csv.

A change that is not meant to alter results changes no line:

    python scripts/witness.py > before.txt; ... ; python scripts/witness.py | diff before.txt -

The hashes hold for one kind of machine and one version of torch, because others round differently; `loss` and `score`
are the same everywhere, to the digits shown or nearly so. `tests/cli/test_witness.py` compares with witness.json, which
`python scripts/witness.py --write` updates.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import json
import os
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

from metalearn_cli.cli.main import WAITING, main

os.environ |= WAITING  # as `mlx` does it, before torch is loaded

import torch
from safetensors.torch import load_file

RECORD = Path(__file__).with_suffix(".json")

SMALL = ["backbone.hidden=8", "runtime.threads=1", "val_episodes=5", "every={log: 1, evaluate: 3, save: 3}", "steps=6"]
SCORED = ["runtime.threads=1", "episodes=12"]


def trainings() -> dict[str, list[str]]:
    """Return the command line of each training, by name."""
    found = {
        f"pretrain {model}": ["pretrain", f"model={model}", "batch_size=32", *SMALL] for model in ("autoencoder", "gan")
    }
    found["transfer finetune"] = ["transfer", "init_from=latest:pretrain", "batch_size=32", *SMALL]
    learners = {
        "maml": ["algorithm=maml", "algorithm.inner_steps=2"],
        "fomaml": ["algorithm=fomaml", "algorithm.inner_steps=2"],
        "protonet": ["algorithm=protonet"],
    }
    for name, words in learners.items():
        for protocol in ("transductive", "inductive"):
            own = [*words, f"normalisation={protocol}", "runtime.task_batching=loop", *SMALL]
            found[f"meta-train {name} {protocol}"] = ["meta-train", *own]
    for way in ("vmap", "groups"):
        own = ["algorithm=maml", f"runtime.task_batching={way}", *SMALL]
        found[f"meta-train maml {way}"] = ["meta-train", *own]
    found["meta-train handed over"] = ["meta-train", "init_from=latest:transfer", "shot=5", *SMALL]
    sinusoid = ["data=sinusoid", "backbone=mlp", "algorithm=maml", "algorithm.inner_lr=0.01", "way=1", "shot=10"]
    for protocol in ("transductive", "inductive"):
        own = [*sinusoid, f"normalisation={protocol}", "runtime.task_batching=loop", *SMALL]
        found[f"meta-train sinusoid {protocol}"] = ["meta-train", *own]
    return found


def testimony() -> list[dict[str, Any]]:
    """Train and evaluate everything in an empty folder, and return a line on each."""
    before = Path.cwd()
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        try:
            lines = [_trained(name, words) for name, words in trainings().items()]
            return [*lines, _chain()]
        finally:
            os.chdir(before)


def _trained(name: str, words: list[str]) -> dict[str, Any]:
    run = _mlx(*words)
    shape = [w for w in words if w.startswith(("way=", "shot="))]
    scored = _mlx("evaluate", f"ckpt={run['id']}", *shape, *SCORED)
    lines = [json.loads(line) for line in (Path(run["folder"]) / "metrics.jsonl").read_text().splitlines()]
    losses = [line for line in lines if "train/loss" in line]  # transfer scores its start before the first step
    return {
        "name": name,
        "weights": _weights(Path(run["checkpoint"])),
        "episodes": _sha256(Path(scored["folder"]) / "episodes.csv"),
        "loss": round(losses[0]["train/loss"], 4),
        "score": round(scored["metric"]["value"], 3),
    }


def _chain() -> dict[str, Any]:
    run = _mlx("run", "experiment=smoke", "runtime.threads=1", "runtime.task_batching=loop")
    scores = [Path(i["folder"]) / "episodes.csv" for i in _mlx("runs") if i["stage"] == "evaluate"]
    return {
        "name": "run experiment=smoke",
        "weights": _weights(Path(run["checkpoint"])),
        "episodes": hashlib.sha256("".join(map(_sha256, reversed(scores))).encode()).hexdigest(),
        "loss": round(run["table"][-1]["gain"], 4),
        "score": round(run["metric"]["value"], 3),
    }


def _mlx(*words: str) -> Any:
    out, told = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(told):
        code = main([*words, "--json"])
    if code:
        raise SystemExit(f"mlx {' '.join(words)} ended with {code}:\n{told.getvalue()}")
    return json.loads(out.getvalue())


def _weights(checkpoint: Path) -> str:
    """Return the sha256 of a checkpoint's tensors, whatever their order in the file."""
    state = hashlib.sha256()
    for name, tensor in sorted(load_file(checkpoint / "model.safetensors").items()):
        state.update(f"{name} {tensor.dtype} {list(tensor.shape)}".encode() + tensor.numpy().tobytes())
    return state.hexdigest()


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def machine() -> dict[str, str]:
    """Return the facts of the machine that decide how sums are rounded."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    flags = next((line for line in lines if line.startswith(("flags", "Features"))), platform.processor())
    return {
        "torch": torch.__version__,
        "processor": hashlib.sha256(" ".join(sorted(flags.split())).encode()).hexdigest()[:16],
        "dispatch": torch.backends.cpu.get_cpu_capability(),
    }


if __name__ == "__main__":
    found = testimony()
    for line in found:
        print(f"{line['name']:<36} {line['weights'][:16]} {line['episodes'][:16]} {line['loss']:>8} {line['score']:>7}")
    if "--write" in sys.argv:
        RECORD.write_text(json.dumps({"machine": machine(), "testimony": found}, indent=1) + "\n")
