"""The commands of pages in docs/, run one after the other in a folder that has what they name."""

from __future__ import annotations

import importlib.util
import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest
from sources import arrays, audio, images, mixed, table

ROOT = Path(__file__).parents[2]
SHORT = [
    f"{stage}.{short}" for stage in ("pretrain", "transfer", "meta_train") for short in ("steps=1", "val_episodes=2")
]
SMALL = [*SHORT, "pretrain.batch_size=4", "transfer.batch_size=4", "meta_train.tasks=1", "evaluate.episodes=2"]
SIZES = {
    "images": ["data.size=16", "backbone.hidden=4"],
    "audio": ["data.seconds=0.1", "data.mels=16", "data.hop=0.005", "backbone.hidden=4"],
    "mixed": ["data.size=16", "data.length=8"],
}
LAST_STAGE = ("text", "audio", "table")
"""Data of which a page's chain is not run whole: tests/unit/stages/test_modalities.py has one of each kind."""


def commands(page: str) -> list[list[str]]:
    """Return the words of each command of a page that begins with mlx, recipes apart: they need their data."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines() if re.match("mlx (?!run experiment=)", line)]
    return [shlex.split(line, comments=True)[1:] for line in lines]


@pytest.fixture
def sources() -> None:
    """Write what the page names into the current folder."""
    images.fill(Path("my_photos"), 12, 15)
    for number, speaker in enumerate(("ann", "bob", "eve")):
        for digit in range(3):
            for n in range(4):
                audio.save(Path("recordings") / f"{digit}_{speaker}_{n}.wav", number * 100 + digit * 10 + n)
    Path("more_photos").symlink_to("my_photos")
    table.fill(Path("my_plants.csv"), 12, 4)
    arrays.fill(Path("my_vectors.npz"), 6, classes=12, items=4)
    mixed.fill(Path("my_things.csv"), 12, 2)
    runs = [f"m{k},{n},{k * n}" for k in range(8) for n in range(12)]
    Path("machines.csv").write_text("\n".join(["machine,load,speed", *runs]))
    topics = "weather travel money music food sport health books school garden trains films".split()
    ways = ("tell me of", "what is new in", "more of", "show me", "ask for", "no more of")
    rows = [f'"{way} {topic}, please",{topic}' for topic in topics for way in ways]
    Path("my_questions.csv").write_text("\n".join(["question,topic", *rows]) + "\n")


@pytest.mark.slow
def test_the_commands_of_the_page_on_own_data(mlx: Callable, sources: None) -> None:
    found = commands("own-data.md")
    assert len(found) >= 8
    for words in found:
        kind = next((word.removeprefix("data=") for word in words if word.startswith("data=")), "")
        small = [*SMALL, *SIZES.get(kind, ["backbone.hidden=4"])]
        if kind in LAST_STAGE:
            small = [word for word in small if not word.startswith(("pretrain.", "transfer."))] + [
                "stages=[meta-train]"
            ]
        short = {"run": small, "meta-train": ["steps=1", "val_episodes=2"]}.get(words[0], [])
        code, _, err = mlx(*words, *short)
        assert code == 0, f"mlx {shlex.join(words)}\n{err}"


@pytest.mark.slow
@pytest.mark.parametrize(("page", "least"), [("configs.md", 10), ("trackers.md", 2)])
def test_the_commands_of_the_pages_on_configs_and_trackers(mlx: Callable, page: str, least: int) -> None:
    toy = ["data=gaussian", "backbone=mlp", "way=2", "query=2"]
    short = {"run": [*SMALL, *toy], "meta-train": ["steps=1", "val_episodes=2", *toy]}
    found = commands(page)
    assert len(found) >= least
    for typed in found:
        words = typed[: typed.index(">")] if ">" in typed else typed
        code, _, err = mlx(*words, *short.get(words[0], []))
        assert code == 0, f"mlx {shlex.join(words)}\n{err}"


@pytest.mark.slow
def test_the_commands_of_the_page_on_comparing(mlx: Callable, tmp_path: Path) -> None:
    found = commands("compare.md")
    assert {"run", "compare", "ablate"} <= {word for words in found for word in words}
    tiny = ["data=gaussian", "backbone=mlp", "model=classifier", "way=2", "query=2", *SMALL]
    for words in found:
        # as many seeds as an interval over trainings needs, or one
        seeds = "seeds=1" if "ablate" in words else "seeds=3"
        words = [seeds if word.startswith("seeds=") else word for word in words]
        short = tiny if {"run", "ablate"} & set(words) else []
        if "run" in words:  # its stages are given
            short = [word for word in tiny if not word.startswith(("pretrain.", "transfer.", "model="))]
        code, out, err = mlx(*words, *short)
        assert code == 0, f"mlx {shlex.join(words)}\n{err}"
        if words == ["compare", "stage=run"]:
            assert "protonet" in out and "anil" in out and "over 2 episodes and 3 seeds" in out
        if "ablate" in words:
            assert "scored by protonet" in out
    assert list(tmp_path.glob("runs/run/*/ablate.json"))


@pytest.mark.slow
def test_the_commands_of_the_page_on_sweeps(mlx: Callable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    tiny = ["data=gaussian", "backbone=mlp", "way=2", "query=2"]
    own = {"meta-train": [*tiny, "steps=1", "val_episodes=2"], "run": [*tiny, *SMALL]}
    installed = importlib.util.find_spec("optuna") is not None
    found = [words for words in commands("sweeps.md") if installed or "sweep=optuna" not in words]
    assert len(found) >= 4
    for words in found:
        stage = next(word for word in words if not word.startswith("-"))
        code, _, err = mlx(*words, *own.get(stage, []))
        assert code == 0, f"mlx {shlex.join(words)}\n{err}"


@pytest.mark.slow
def test_the_commands_of_the_page_on_reports(mlx: Callable, tmp_path: Path) -> None:
    found = commands("report.md")
    assert len(found) >= 5
    tiny = ["data=gaussian", "backbone=mlp", "model=classifier", "way=2", "query=2", *SMALL]
    for words in found:
        code, out, err = mlx(*words, *tiny if words == ["run"] else [])
        assert code == 0 and out, f"mlx {shlex.join(words)}\n{err}"
    told = (tmp_path / "report.html").read_text()
    assert "Gains of the stages" in told and "mlx run data=gaussian" in told
