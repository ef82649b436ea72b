"""Checkpoints: a folder of tensors (safetensors), what `resume` needs, and a readable manifest of everything else.

A checkpoint appears under its name only when it is whole (written aside, flushed, renamed), and is checked against the
sha256 of its manifest whenever it is read.
"""

from __future__ import annotations

import importlib.metadata
import math
import os
import pickle
import platform
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.types import Params
from metalearn_cli.engine.runs import now, read_json, sha256_of, write_json

FORMAT = 1
_TENSORS, _RESUME, _MANIFEST = "model.safetensors", "resume.pt", "manifest.json"


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was found and whose manifest was read.

    Attributes:
        folder: where it lies.
        manifest: its manifest.json.
        sha256: of the manifest, which holds the sha256 of every other file: one number for the whole checkpoint.
    """

    folder: Path
    manifest: dict[str, Any]
    sha256: str

    @property
    def parent_entry(self) -> dict[str, Any]:
        """What a run that starts from this checkpoint records of it."""
        kept = ("run", "stage", "step")
        return {**{k: self.manifest[k] for k in kept}, "checkpoint": str(self.folder), "sha256": self.sha256}


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's manifest.

    Raises:
        UserError: if it is missing, damaged or of another format.
    """
    manifest = read_json(folder / _MANIFEST)
    missing = {"data", "files", "format", "metrics", "model", "run", "signature", "stage", "step"} - manifest.keys()
    if manifest.get("format") != FORMAT or missing:
        what = f"format {manifest.get('format')!r}" if manifest.get("format") != FORMAT else f"no {min(missing)}"
        raise UserError(f"{folder} is no checkpoint that this version reads ({what}; it reads format {FORMAT})")
    return Checkpoint(folder, manifest, sha256_of(folder / _MANIFEST))


def read_tensors(checkpoint: Checkpoint) -> Params:
    """Read a checkpoint's tensors, on the CPU.

    Raises:
        UserError: if the file is not the one that was written.
    """
    try:
        return load_file(_verified(checkpoint, _TENSORS))
    except SafetensorError as error:
        raise UserError(f"{checkpoint.folder / _TENSORS} is damaged: {error}") from error


def read_resume(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read what a checkpoint keeps for `resume`: the states of optimizer, scheduler and metrics.

    Raises:
        UserError: if the file is not the one that was written, or holds anything but tensors and plain values.
    """
    try:
        state: dict[str, Any] = torch.load(_verified(checkpoint, _RESUME), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise UserError(f"{checkpoint.folder / _RESUME} is damaged: {error}") from error
    return state


def _verified(checkpoint: Checkpoint, name: str) -> Path:
    path = checkpoint.folder / name
    expected = checkpoint.manifest["files"].get(name, {}).get("sha256")
    if not path.is_file():
        raise UserError(f"{path} is missing")
    if (found := sha256_of(path)) != expected:
        raise UserError(f"{path} is damaged: its sha256 is {found[:12]}..., its manifest says {str(expected)[:12]}...")
    return path


def load_into(params: Params, checkpoint: Checkpoint, prefix: str, reinit: Sequence[str] = ()) -> tuple[Params, str]:
    """Replace the tensors of one part of a network by a checkpoint's, strictly.

    Args:
        params: freshly initialised tensors.
        checkpoint: where to take them from.
        prefix: the part that is handed over, as the beginning of names ("backbone."); "" hands over everything.
        reinit: beginnings of names that stay fresh, whatever the checkpoint has.

    Returns:
        The tensors, loaded ones in the number format they are stored in, and one line on what was loaded and what not.

    Raises:
        ConfigError: if any tensor of the part is missing, additional or of another shape, and not named in `reinit`;
            or if a `reinit` names nothing.
    """
    stored = {name: t for name, t in read_tensors(checkpoint).items() if name.startswith(prefix)}
    wanted = {name for name in params if name.startswith(prefix)}
    fresh = {name for name in wanted | stored.keys() if name.startswith(tuple(reinit))} if reinit else set()
    problems = [
        Problem("reinit", f"no tensor's name begins with {r!r}; there are {', '.join(sorted(params))}")
        for r in reinit
        if not any(name.startswith(r) for name in params)
    ]
    differing = []
    for name in sorted((wanted | stored.keys()) - fresh):
        here, there = (list(source[name].shape) if name in source else None for source in (params, stored))
        if here != there:
            described = [f"{shape}" if shape is not None else "absent" for shape in (here, there)]
            differing.append(f"{name} (here {described[0]}, there {described[1]})")
    if differing:
        shown = "; ".join(differing[:4]) + (f"; and {len(differing) - 4} more" if len(differing) > 4 else "")
        accept = sorted({name.rsplit(".", 1)[0] for name in wanted})
        message = f"{checkpoint.folder} has another architecture: {shown}; choose the same backbone settings"
        if wanted & {d.split(" ")[0] for d in differing}:
            message += f", or leave tensors fresh with reinit, of: {', '.join(accept)}"
        problems.append(Problem("init_from", message))
    if problems:
        raise ConfigError(problems)
    loaded = wanted - fresh
    share = sum(params[n].numel() for n in loaded) / max(1, sum(params[n].numel() for n in wanted))
    others = sorted(set(params) - loaded)
    line = f"loaded {len(loaded)}/{len(wanted)} tensors, {100 * share:.1f} % of the {prefix.rstrip('.') or 'network'}"
    line += f", from {checkpoint.folder}" + (f"; fresh: {', '.join(others)}" if others else "")
    return {name: stored[name] if name in loaded else t for name, t in params.items()}, line


class Checkpoints:
    """The checkpoints of one run: `step-000500` and so on, of which the best one and the `keep` newest stay.

    Args:
        folder: the run's folder.
        keep: how many of the newest stay, >= 1.
        metric: name of the validation metric that selects the best.
        higher_is_better: whether more of it is better.
        facts: what every manifest of the run says: run, stage, model, parent, data, config_hash.
    """

    def __init__(self, folder: Path, keep: int, metric: str, higher_is_better: bool, facts: Mapping[str, Any]) -> None:
        self.folder = folder / "checkpoints"
        self.best: dict[str, Any] = {}  # name, step and metrics of the best one so far
        self._keep = keep
        self._metric = metric
        self._sign = 1 if higher_is_better else -1
        self._facts = facts

    def save(self, step: int, params: Params, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Write a checkpoint, then remove those that are neither the best nor among the newest.

        Args:
            step: optimizer steps done.
            params: all tensors.
            state: what `resume` needs besides them; `self.best` is added to it.
            metrics: the validation metrics at this step; empty if there was no evaluation, then it cannot be the best.
        """
        name = f"step-{step:06d}"
        if metrics and self._improves(metrics[self._metric]):
            self.best = {"name": name, "step": step, "metrics": dict(metrics)}
        self.folder.mkdir(exist_ok=True)
        temporary = self.folder / f".{name}"
        shutil.rmtree(temporary, ignore_errors=True)
        try:
            temporary.mkdir()
            tensors = {n: p.detach().cpu().contiguous() for n, p in params.items()}
            save_file(tensors, temporary / _TENSORS)
            torch.save({**state, "best": self.best}, temporary / _RESUME)
            write_json(temporary / _MANIFEST, self._manifest(step, tensors, metrics, temporary))
            for entry in (*temporary.iterdir(), temporary):
                _flush(entry)
            shutil.rmtree(self.folder / name, ignore_errors=True)
            temporary.rename(self.folder / name)
            _flush(self.folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise
        for old in self.all()[: -self._keep]:
            if old.name != self.best.get("name"):
                shutil.rmtree(old)

    def all(self) -> list[Path]:
        """Return the checkpoint folders, oldest first."""
        steps = {path.name.removeprefix("step-"): path for path in self.folder.glob("step-*")}
        return [steps[step] for step in sorted(filter(str.isdigit, steps), key=int)]

    def restore(self, state: Mapping[str, Any]) -> None:
        """Go on from a checkpoint's resume state: which checkpoint is the best so far."""
        self.best = state["best"]

    def _improves(self, value: float) -> bool:
        if not self.best:
            return True
        best = self.best["metrics"][self._metric]
        return math.isnan(best) or self._sign * value > self._sign * best

    def _manifest(self, step: int, tensors: Params, metrics: Mapping[str, float], folder: Path) -> dict[str, Any]:
        files = {f.name: {"sha256": sha256_of(f), "bytes": f.stat().st_size} for f in sorted(folder.iterdir())}
        packages = ("metalearn-cli", "torch", "safetensors")
        return {
            "format": FORMAT,
            **self._facts,
            "step": step,
            "metrics": dict(metrics),
            "created_at": now(),
            "signature": {name: _signature(t) for name, t in tensors.items()},
            "versions": {"python": platform.python_version(), **{p: importlib.metadata.version(p) for p in packages}},
            "files": files,
        }


def _signature(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _flush(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
