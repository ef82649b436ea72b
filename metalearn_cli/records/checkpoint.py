"""Checkpoints: a folder of tensors (safetensors), the state for `resume`, and a readable manifest of everything else.

A checkpoint appears under its name only when it is complete (written under another name, flushed, renamed). Its
manifest has the sha256 of every other file and its own, and all of them are checked whenever it is opened.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import io
import json
import logging
import math
import pickle
import platform
import re
import shutil
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from safetensors.torch import save as to_safetensors
from torch import Tensor

from metalearn_cli import __version__
from metalearn_cli.core.build import SHARED
from metalearn_cli.core.check import shown
from metalearn_cli.core.config import digest
from metalearn_cli.core.errors import ConfigError, Problem, UserError
from metalearn_cli.core.metric import Metric
from metalearn_cli.core.network import Params
from metalearn_cli.records.runs import finite, flush, now, read_json, sha256_of, write_bytes
from metalearn_cli.records.shapes import CLASSES, MANIFEST, RESUME, misshapen

FORMAT = 2
_TENSORS, _RESUME, _CLASSES, MANIFEST_FILE = "model.safetensors", "resume.pt", "classes.json", "manifest.json"
_SEAL = "sha256"

log = logging.getLogger("metalearn_cli")


@dataclass(frozen=True)
class Checkpoint:
    """An opened checkpoint: its manifest was read, and the sha256 of every file was checked.

    Attributes:
        folder: its folder.
        manifest: its manifest.json, without the manifest's own sha256.
        sha256: of the manifest's file, which has the sha256 of every other file: one hash for the whole checkpoint.
    """

    folder: Path
    manifest: dict[str, Any]
    sha256: str

    @property
    def parent_entry(self) -> dict[str, Any]:
        """What a run that starts from this checkpoint records."""
        kept = ("run", "stage", "step")
        return {**{k: self.manifest[k] for k in kept}, "checkpoint": str(self.folder), "sha256": self.sha256}


def open_checkpoint(folder: Path) -> Checkpoint:
    """Read a checkpoint's manifest and check the sha256 of every file.

    Raises:
        UserError: if a file is missing or damaged, or the format is another.
    """
    manifest = read_json(folder / MANIFEST_FILE)
    manifest.pop(_SEAL, None)
    if manifest.get("format") != FORMAT:
        what = f"format {shown(manifest.get('format'))}"
        raise UserError(
            f"{folder / MANIFEST_FILE} has a format that this version does not read ({what}; it reads format {FORMAT})"
        )
    if wrong := misshapen(manifest, MANIFEST):
        raise UserError(f"{folder / MANIFEST_FILE} is damaged: {wrong}")
    if (folder / MANIFEST_FILE).read_bytes() != sealed(manifest):  # read again: the bytes are compared, not the values
        raise UserError(f"{folder / MANIFEST_FILE} is damaged: its contents have changed")
    checkpoint = Checkpoint(folder, manifest, sha256_of(folder / MANIFEST_FILE))
    for name in dict.fromkeys((_TENSORS, _RESUME, *manifest["files"])):  # those that are read, whatever it lists
        _verified(checkpoint, name)
    return checkpoint


def read_tensors(checkpoint: Checkpoint) -> Params:
    """Read a checkpoint's tensors, on the CPU.

    Raises:
        UserError: if the file is damaged.
    """
    return tensors_in(checkpoint.folder / _TENSORS)


def tensors_in(path: Path) -> Params:
    """Read a file of tensors, on the CPU.

    Raises:
        UserError: if it is damaged.
    """
    try:
        return load_file(path)
    except (SafetensorError, LookupError, ValueError, RuntimeError, OSError) as error:
        raise UserError(f"{path} is damaged: {error}") from error


def packed(tensors: Params) -> bytes:
    """Return the contents of a file of tensors."""
    return to_safetensors({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()})


def read_resume(checkpoint: Checkpoint) -> dict[str, Any]:
    """Read a checkpoint's state for `resume`: optimizer, scheduler and metrics.

    Raises:
        UserError: if the file has anything but tensors and plain values.
    """
    path = checkpoint.folder / _RESUME
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch's advice on other files, which are refused below
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # not torch's own message, which says how to load the file unsafely
        named = re.search(r"GLOBAL ([\w.]+)", str(error))
        what = f" ({named[1]})" if named else ""
        raise UserError(f"{path} is damaged: it holds more than tensors and plain values{what}") from error
    except Exception as error:  # torch's reader can raise almost any error on a file of another kind
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise UserError(f"{path} is damaged: {reason}") from error
    if wrong := misshapen(state, RESUME):
        raise UserError(f"{path} is damaged: {wrong}")
    return state


def read_classes(checkpoint: Checkpoint) -> list[dict[str, Any]]:
    """Return the records of the classes that a checkpoint was trained on, see `classes.trained_on`; [] if it has none.

    Raises:
        UserError: if the file is damaged.
    """
    if _CLASSES not in checkpoint.manifest["files"]:  # of an earlier version
        return []
    found = read_json(checkpoint.folder / _CLASSES)
    if wrong := misshapen(found, CLASSES):
        raise UserError(f"{checkpoint.folder / _CLASSES} is damaged: {wrong}")
    records: list[dict[str, Any]] = found["trained_on"]
    return records


def _verified(checkpoint: Checkpoint, name: str) -> None:
    path = checkpoint.folder / name
    expected = checkpoint.manifest["files"].get(name, {}).get("sha256")
    if not path.is_file():
        raise UserError(f"{path} is missing")
    try:
        found = sha256_of(path)
    except OSError as error:
        raise UserError(f"{path} cannot be read: {error.strerror}") from error
    if found != expected:
        raise UserError(f"{path} is damaged: its sha256 is {found[:12]}..., its manifest says {str(expected)[:12]}...")


def saved_steps(folder: Path) -> list[int]:
    """Return the steps of the existing checkpoints of a run, given its folder."""
    names = [path.name.removeprefix("step-") for path in (folder / "checkpoints").glob("step-*")]
    return sorted(int(name) for name in names if name.isdigit())


def load_into(
    params: Params,
    checkpoint: Checkpoint,
    prefixes: tuple[str, ...],
    reinit: Sequence[str] = (),
    setting: str = "init_from",
) -> tuple[Params, str]:
    """Replace the tensors of one part of a network by a checkpoint's, strictly.

    Args:
        params: freshly initialised tensors.
        checkpoint: the checkpoint to load from.
        prefixes: the parts to load, as prefixes of names ("backbone.",); ("",) loads everything.
        reinit: prefixes of names that keep their initial values, whatever the checkpoint has.
        setting: the setting that named the checkpoint, for messages.

    Returns:
        The tensors, loaded ones in their stored number format, and one line on what was loaded and what was not.

    Raises:
        ConfigError: if any tensor of the part is missing, additional or of another shape, and not named in `reinit`;
            or if a `reinit` names nothing.
    """
    stored = {name: t for name, t in read_tensors(checkpoint).items() if name.startswith(prefixes)}
    wanted = {name for name in params if name.startswith(prefixes)}
    fresh = {name for name in wanted | stored.keys() if name.startswith(tuple(reinit))} if reinit else set()
    problems = [
        Problem("reinit", f"no tensor's name begins with {r!r}; there are {', '.join(sorted(params))}")
        for r in reinit
        if not any(name.startswith(r) for name in params)
    ]
    differing = []
    for name in sorted((wanted | stored.keys()) - fresh):
        here, there = (_kind(source.get(name)) for source in (params, stored))
        if here != there:
            differing.append(f"{name} (here {here}, there {there})")
    if differing:
        shown = "; ".join(differing[:4]) + (f"; and {len(differing) - 4} more" if len(differing) > 4 else "")
        accept = sorted({name.rsplit(".", 1)[0] for name in wanted})
        own = [f"backbone.{key}={v}" for key, v in _settings(checkpoint).items()]
        message = f"{checkpoint.folder} has another architecture: {shown}; choose the same backbone settings"
        message += f", which are {' '.join(own)}" if own else ""
        if setting == "init_from" and wanted & {d.split(" ")[0] for d in differing}:
            message += f", or initialise tensors with reinit, of: {', '.join(accept)}"
        problems.append(Problem(setting, message))
    if problems:
        raise ConfigError(problems)
    loaded = wanted - fresh
    share = sum(params[n].numel() for n in loaded) / max(1, sum(params[n].numel() for n in wanted))
    others = sorted(set(params) - loaded)
    parts = " and ".join(prefix.rstrip(".") or "network" for prefix in prefixes)
    line = f"loaded {len(loaded)}/{len(wanted)} tensors, {100 * share:.1f} % of the {parts}"
    line += f", from {checkpoint.folder}" + (f"; fresh: {', '.join(others)}" if others else "")
    found = {n: stored[n].requires_grad_(t.requires_grad) if n in loaded else t for n, t in params.items()}
    return found, line


def _settings(checkpoint: Checkpoint) -> dict[str, Any]:
    """Return the settings of a checkpoint's backbone that its tensors depend on."""
    others = ("_target_", *SHARED["backbone"])
    return {key: v for key, v in checkpoint.manifest["model"].get("backbone", {}).items() if key not in others}


def _kind(tensor: Tensor | None) -> str:
    """Return the properties that two tensors must share for one to replace the other."""
    if tensor is None:
        return "absent"
    whole = "" if tensor.is_floating_point() else f"{str(tensor.dtype).removeprefix('torch.')} "
    return f"{whole}{list(tensor.shape)}"


class Checkpoints:
    """The checkpoints of one run: `step-000500` and so on; `tidy` keeps the best one and the `keep` newest.

    Args:
        folder: the run's folder.
        keep: how many of the newest are kept, >= 1.
        metric: the validation metric that selects the best.
        facts: entries of every manifest of the run: run, stage, model, parent, data, config_hash.
        classes: the records of `read_classes`, the same for every checkpoint.
    """

    def __init__(
        self,
        folder: Path,
        keep: int,
        metric: Metric,
        facts: Mapping[str, Any],
        classes: Sequence[Mapping[str, Any]] = (),
    ) -> None:
        self.folder = folder / "checkpoints"
        self.folder.mkdir(exist_ok=True)  # only here: a run whose checkpoints disappear must stop
        flush(folder)
        self.best: dict[str, Any] = {}  # name, step and metrics of the best one so far
        self._keep = keep
        self._metric = f"val/{metric.name}"
        self._sign = 1 if metric.higher_is_better else -1
        self._facts = facts
        self._classes = json.dumps({"trained_on": list(classes)}, indent=1).encode()  # once: it may be long

    def save(self, step: int, params: Params, state: Mapping[str, Any], metrics: Mapping[str, float]) -> None:
        """Write a checkpoint.

        Args:
            step: optimizer steps done.
            params: all tensors.
            state: what `resume` needs besides the tensors; `self.best` is added to it.
            metrics: the validation metrics at this step; empty if there was no evaluation, then it cannot be the best.
        """
        name = _name(step)
        if metrics and self._improves(metrics[self._metric]):
            self.best = {"name": name, "step": step, "metrics": dict(metrics)}
        resume = io.BytesIO()
        torch.save({**state, "best": self.best}, resume)
        # built here and written by `write_bytes`, because the libraries' own errors do not say that a disk is full
        files = {_TENSORS: packed(params), _RESUME: resume.getvalue(), _CLASSES: self._classes}
        temporary = self.folder / f".{name}"
        try:
            shutil.rmtree(temporary, ignore_errors=True)
            temporary.mkdir()
            for file, data in files.items():
                write_bytes(temporary / file, data)
            write_bytes(temporary / MANIFEST_FILE, sealed(self._manifest(step, params, metrics, files)))
            temporary.rename(self.folder / name)
            flush(self.folder)
        except BaseException:
            shutil.rmtree(temporary, ignore_errors=True)
            raise

    def tidy(self) -> None:
        """Remove unfinished checkpoints of killed processes, and those that are neither the best nor the newest."""
        for old in self.all()[: -self._keep]:
            if old.name != self.best.get("name"):
                old.rename(self.folder / f".{old.name}")  # in one step: no incomplete checkpoint has this name
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover)

    def all(self) -> list[Path]:
        """Return the checkpoint folders, oldest first."""
        return [self.folder / _name(step) for step in saved_steps(self.folder.parent)]

    def newest(self) -> tuple[Checkpoint, dict[str, Any]] | None:
        """Return the newest undamaged checkpoint with its resume state, None if there is no checkpoint.

        Damaged newer ones are named in a warning and renamed to `step-000500.damaged`; `best` is what it was then.

        Raises:
            UserError: if all are damaged, or the best one is.
        """
        damaged: dict[Path, UserError] = {}
        for folder in reversed(self.all()):
            try:
                checkpoint = open_checkpoint(folder)
                state = read_resume(checkpoint)
                read_tensors(checkpoint)
            except UserError as error:
                damaged[folder] = error
                continue
            self.best = state["best"]
            if _CLASSES in checkpoint.manifest["files"]:  # those of a parent that may be gone since
                self._classes = (folder / _CLASSES).read_bytes()
            if self.best and self.best["name"] != folder.name:
                open_checkpoint(self.folder / self.best["name"])
            for bad, reason in damaged.items():
                log.warning("%s; resuming from %s instead", reason, folder.name)
                aside = bad.with_name(f"{bad.name}.damaged")
                shutil.rmtree(aside, ignore_errors=True)
                bad.rename(aside)
            return checkpoint, state
        if damaged:
            raise next(iter(damaged.values()))
        return None

    def summary(self, step: int) -> dict[str, Any]:
        """Return the entries of run.json on checkpoints after `step` steps: the steps, the last and the best one."""
        return {"step": step, "last": _name(step), "best": self.best.get("name") or _name(step)}

    def stale(self, step: int, every: int) -> int:
        """Return how many evaluations, one after each `every` steps, there were since the best one."""
        return step // every - self.best["step"] // every if self.best else 0

    def _improves(self, value: float) -> bool:
        if not self.best:
            return True
        best = self.best["metrics"][self._metric]
        if self.best["step"] == 0 and value == best:
            return True  # of two equally good ones the one with a trained head
        return math.isnan(best) or self._sign * value > self._sign * best

    def _manifest(
        self, step: int, tensors: Params, metrics: Mapping[str, float], files: Mapping[str, bytes]
    ) -> dict[str, Any]:
        return {
            "format": FORMAT,
            **self._facts,
            "step": step,
            "metrics": finite(metrics),
            "created_at": now(),
            "signature": {name: _signature(t) for name, t in tensors.items()},
            "versions": _versions(),
            "files": {n: {"sha256": hashlib.sha256(b).hexdigest(), "bytes": len(b)} for n, b in files.items()},
        }


@cache
def _versions() -> dict[str, str]:
    """Return the versions of what wrote a checkpoint; to look them up takes longer than to save a small one."""
    installed = {package: importlib.metadata.version(package) for package in ("torch", "safetensors")}
    return {"python": platform.python_version(), "metalearn-cli": __version__, **installed}


def _signature(tensor: Tensor) -> str:
    return f"{str(tensor.dtype).removeprefix('torch.')} {list(tensor.shape)}"


def _name(step: int) -> str:
    return f"step-{step:06d}"


def sealed(manifest: Mapping[str, Any]) -> bytes:
    """Return the bytes of a manifest, with its own sha256; they are the same each time, so any other byte is damage."""
    return (json.dumps({**manifest, _SEAL: digest(manifest)}, indent=2) + "\n").encode()
