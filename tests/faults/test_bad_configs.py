"""Settings that cannot be meant: whatever is wrong with a command line, it gets sentences, exit 2, and leaves nothing.

`MLX_FAULTS=2000` sets how many command lines are generated.
"""

from __future__ import annotations

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.generating import generated
from hypothesis import given
from hypothesis import strategies as st

TINY = ["data=gaussian", "data.items=60", "data.classes=12", "backbone=mlp", "way=2", "query=2"]
TRAINING = ["steps=1", "val_episodes=2", "every.save=1"]
OF = {
    "pretrain": [*TINY, *TRAINING, "batch_size=4"],
    "transfer": [*TINY, *TRAINING, "batch_size=4", "init_from=null"],
    "meta-train": [*TINY, *TRAINING, "tasks=1", "train_query=2"],
    "evaluate": [*TINY, "episodes=2", "ckpt=null", "normalisation=[inductive]"],
    "run": [*TINY, *(f"{s}.{word}" for s in ("pretrain", "transfer", "meta_train") for word in TRAINING)],
    "data check": TINY,
}
COMMON = ["way", "shot", "query", "data.items", "data.features", "data.classes"]
TRAINED = [
    "steps",
    "keep",
    "val_episodes",
    "every.log",
    "every.evaluate",
    "every.save",
    "backbone.hidden",
    "backbone.layers",
]
COUNTS = {
    "pretrain": [*COMMON, *TRAINED, "batch_size", "model.hidden"],
    "transfer": [*COMMON, *TRAINED, "batch_size"],
    "meta-train": [*COMMON, *TRAINED, "tasks"],
    "evaluate": [*COMMON, "episodes"],
    "run": [
        *COMMON,
        "pretrain.steps",
        "transfer.keep",
        "meta_train.tasks",
        "evaluate.episodes",
        "meta_train.every.log",
    ],
    "data check": COMMON,
}
LEARNING = ["optimizer.lr", "optimizer.weight_decay", "optimizer.betas", "scheduler.eta_min", "scheduler.T_max"]
NUMBERS = {
    "pretrain": [*LEARNING, "model.noise", "model.jitter"],
    "transfer": [*LEARNING, "method.decay"],
    "meta-train": LEARNING,
    "evaluate": ["seed"],
    "run": ["meta_train.optimizer.lr", "transfer.scheduler.eta_min", "method.decay"],
    "data check": ["data.seed"],
}
CHOICES = ["runtime.accelerator", "runtime.precision", "runtime.devices"]
TARGETS = ["backbone._target_", "data._target_"]
GROUPS = {
    "pretrain": ["model", "backbone", "data", "optimizer", "scheduler", "runtime"],
    "transfer": ["method", "backbone", "data", "optimizer", "runtime"],
    "meta-train": ["algorithm", "backbone", "data", "scheduler"],
    "evaluate": ["algorithm", "backbone", "data", "runtime"],
    "run": ["algorithm", "model", "experiment", "optimizer@pretrain.optimizer"],
    "data check": ["data", "runtime"],
}
TORCH = [
    "optimizer._target_=torch.optim.LBFGS",
    "optimizer._target_=torch.optim.Optimizer",
    "optimizer={_target_: torch.optim.SparseAdam, lr: 0.1}",
    "optimizer={_target_: torch.optim.Adam, lr: 0.1, differentiable: true}",
    "optimizer={_target_: torch.optim.Adam, lr: 0.1, fused: true, foreach: true}",
    "optimizer={_target_: torch.optim.SGD, lr: 0.1, nesterov: true}",
    "optimizer={_target_: torch.optim.Rprop, lr: 0.1, etas: [2, 1]}",
    "optimizer={_target_: torch.optim.Muon, lr: 0.1}",
    "optimizer={_target_: torch.optim.RMSprop}",
    "scheduler._target_=torch.optim.lr_scheduler.LRScheduler",
    "scheduler={_target_: torch.optim.lr_scheduler.LambdaLR, lr_lambda: x}",
    "scheduler={_target_: torch.optim.lr_scheduler.ReduceLROnPlateau}",
    "scheduler={_target_: torch.optim.lr_scheduler.StepLR, step_size: 0}",
    "scheduler={_target_: torch.optim.lr_scheduler.StepLR}",
    "scheduler={_target_: torch.optim.lr_scheduler.MultiStepLR, milestones: 3}",
    "scheduler={_target_: torch.optim.lr_scheduler.SequentialLR, schedulers: [a], milestones: []}",
    "scheduler={_target_: torch.optim.lr_scheduler.OneCycleLR, max_lr: 0.1}",
    "scheduler={_target_: torch.optim.lr_scheduler.CyclicLR, base_lr: x, max_lr: 1}",
    "scheduler={_target_: torch.optim.lr_scheduler.CosineAnnealingWarmRestarts, T_0: -1}",
]
IMPOSSIBLE = ["way=1000000", "shot=50", "query=50", "way=13", "data.items=61", "data.classes=5", "way=1"]
NOWHERE = ["init_from=nothing", "init_from=latest:nothing", "init_from=latest", "init_from=/dev/null", "init_from=''"]

# never a value of any setting: of no type, or of one that no setting has
NOTHING = [
    "{x: 1}",
    "[[]]",
    "[{}]",
    "{}",
    "???",
    "${nothing}",
    "${oc.env:NOT_SET_ANYWHERE}",
    "${oops",
    "{a: {b: [1, {c: 2}]}}",
]
words = st.text(st.characters(exclude_categories=("Cs",)), min_size=1, max_size=12)
names = st.from_regex(
    r"[a-z_]{0,8}zz[a-z0-9_]{0,4}", fullmatch=True
)  # no setting, group or choice has two z's in a row
quoted = words.map(lambda text: "'x" + text.replace("\\", "").replace("'", "") + "'")
huge = st.sampled_from(["1e400", "nan", "-inf", "inf", "1" + "0" * 30, "-" + "9" * 40, "0x" + "f" * 4, "1" * 5000])
negative = st.integers(max_value=-1).map(str)
no_count = st.one_of(
    st.sampled_from(NOTHING),
    quoted,
    negative,
    huge.filter(lambda h: h != "0xffff"),
    st.sampled_from(["0", "0.5", "true"]),
)
no_number = st.one_of(
    st.sampled_from(NOTHING),
    quoted,
    huge.filter(lambda h: "e" in h or "n" in h),
    st.sampled_from(["true", "null", "[x, y]"]),
)
no_choice = st.one_of(st.sampled_from(NOTHING), quoted, negative, st.sampled_from(["0.5", "null", "[a]"]))


def mistakes(stage: str) -> st.SearchStrategy[tuple[str, str]]:
    """Return words each of which is reason enough to refuse a command, with the kind of mistake."""

    def value(kind: str, keys: list[str], values: st.SearchStrategy[str]) -> st.SearchStrategy[tuple[str, str]]:
        return st.builds(lambda key, text: (kind, f"{key}={text}"), st.sampled_from(keys), values)

    kinds = [
        value("count", COUNTS[stage], no_count),
        value("number", NUMBERS[stage], no_number),
        value("choice", CHOICES, no_choice),
        value(
            "target",
            TARGETS,
            st.one_of(
                names, words.map(lambda w: f"'{w.replace(chr(39), '')}'"), names.map(lambda n: f"torch.optim.{n}")
            ),
        ),
        value("group", GROUPS[stage], names),
        value(
            "whole component",
            ["data", "runtime"],
            st.sampled_from(["{x: 1}", "[1]", "{_target_: 3}", "{_target_: os.system}"]),
        ),
        st.builds(lambda name, text: ("unknown", f"{name}={text}"), names, st.one_of(quoted, negative)),
        st.builds(
            lambda name, sign: ("unknown in a component", f"{sign}data.{name}=1"),
            names,
            st.sampled_from(["", "+", "++"]),
        ),
        st.builds(lambda key: ("deleted", f"~{key}"), st.sampled_from(["way", "data", "seed", "runtime", "zz"])),
        st.sampled_from(
            [
                "way=[1",
                "way='",
                "way={",
                "=",
                "=3",
                "way=${",
                "way=)",
                "a b",
                "[",
                "{",
                "~",
                "+",
                "way=1,2",
                "seed=choice(1,2)",
                "way==",
                "way=\\",
                "@=",
                "/=1",
                "x/y=1",
                "seed=glob(*)",
                "hydra.x=1",
                "\x00=1",
                "seed='\x00'",
            ]
        ).map(lambda w: ("syntax", w)),
        st.builds(
            lambda w: ("no setting", w), words.filter(lambda w: "=" not in w and not w.startswith("-") and "~" not in w)
        ),
        st.builds(lambda w: ("no option", f"--{w}"), names),
        st.sampled_from(IMPOSSIBLE).map(lambda w: ("impossible", w)),
    ]
    if stage in ("pretrain", "transfer", "meta-train"):
        kinds.append(st.sampled_from(TORCH).map(lambda w: ("torch", w)))
        kinds.append(st.sampled_from(NOWHERE).map(lambda w: ("no checkpoint", w)))
    return st.one_of(kinds)


SHIPPED = sorted((Path(__file__).parents[2] / "configs").glob("*/*.yaml"))
yaml_values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(words, inner, max_size=3)),
    max_leaves=8,
)


@st.composite
def files(draw: st.DrawFn) -> tuple[str, str, str, bytes]:
    """Return a stage, a group of it and a file of this group that is none: no text, no YAML, of no form."""
    stage, group = draw(st.sampled_from([("pretrain", "model"), ("transfer", "method"), ("meta-train", "algorithm")]))
    kind = draw(st.sampled_from(["bytes", "text", "values", "cut", "changed"]))
    if kind == "bytes":
        content = draw(st.binary(max_size=60))
    elif kind == "text":
        content = draw(st.text(st.characters(exclude_categories=("Cs",)), max_size=60)).encode()
    elif kind == "values":
        import yaml

        content = yaml.safe_dump(draw(yaml_values), allow_unicode=True).encode()
    else:
        shipped = draw(st.sampled_from([path for path in SHIPPED if path.parent.name == group])).read_bytes()
        at = draw(st.integers(0, shipped.index(b"_target_") if b"_target_" in shipped else 0))
        content = (
            shipped[:at]
            if kind == "cut"
            else shipped.replace(b"metalearn_cli", b"\t" + draw(st.binary(min_size=1, max_size=3)))
        )
        if b"defaults" in content:
            content = b""
    return stage, group, kind, content


def check(mlx: Callable[..., Any], folder: Path, *command: str) -> None:
    code, out, err = mlx(*command)
    assert code == 2, f"exit {code} of mlx {' '.join(command)}\n{out}\n{err}"
    assert "Traceback" not in out + err and "crashed" not in err
    assert err.startswith("error: ") and out == ""
    left = [path for path in folder.iterdir() if path.name != "own"]
    assert not left, left


QUICK = 3
COUNT = int(os.environ.get("MLX_FAULTS", "0"))


def _bad_settings(mlx: Callable[..., Any], folder: Path, count: int) -> None:
    kinds: Counter[str] = Counter()

    @generated(count)
    @given(st.data())
    def one(data: st.DataObject) -> None:
        stage = data.draw(st.sampled_from(list(OF)))
        wrong = data.draw(st.lists(mistakes(stage), min_size=1, max_size=3))
        check(mlx, folder, *stage.split(), *OF[stage], *(word for _, word in wrong))
        kinds.update([wrong[0][0]])

    one()
    print(f"\n{kinds.total()} bad command lines: 0 tracebacks, 0 run folders, exit 2 each; {dict(kinds)}")


def _bad_files(mlx: Callable[..., Any], folder: Path, count: int) -> None:
    kinds: Counter[str] = Counter()

    @generated(count)
    @given(files())
    def one(drawn: tuple[str, str, str, bytes]) -> None:
        stage, group, kind, content = drawn
        path = folder / "own" / group / "evil.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        check(mlx, folder, stage, *OF[stage], f"{group}=evil", "-cd", "own")
        kinds.update([kind])
        shutil.rmtree(folder / "own")

    one()
    print(f"\n{kinds.total()} bad config files: 0 tracebacks, 0 run folders, exit 2 each; {dict(kinds)}")


@pytest.mark.medium
def test_bad_settings(mlx: Callable[..., Any], tmp_path: Path) -> None:
    _bad_settings(mlx, tmp_path, QUICK)


def test_bad_config_files(mlx: Callable[..., Any], tmp_path: Path) -> None:
    _bad_files(mlx, tmp_path, QUICK)


@pytest.mark.slow
def test_many_bad_settings(mlx: Callable[..., Any], tmp_path: Path) -> None:
    _bad_settings(mlx, tmp_path, (COUNT or 400) * 3 // 4)


@pytest.mark.slow
def test_many_bad_config_files(mlx: Callable[..., Any], tmp_path: Path) -> None:
    _bad_files(mlx, tmp_path, (COUNT or 400) // 4)
