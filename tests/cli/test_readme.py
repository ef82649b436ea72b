"""The commands that README.md and scripts/ tell people to type, run as they stand but for their size."""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TINY = [
    "data=gaussian",
    "backbone=mlp",
    "way=2",
    "query=2",
]
OF_TRAINING = ["steps=2", "val_episodes=2", "every.save=1"]
SMALLER = {
    "pretrain": [*TINY, *OF_TRAINING, "batch_size=4"],
    "transfer": [*TINY, *OF_TRAINING, "batch_size=4"],
    "meta-train": [*TINY, *OF_TRAINING],
    "evaluate": ["way=2", "query=2", "episodes=2"],
    "run": [
        *TINY,
        *(f"{s}.{o}" for s in ("pretrain", "transfer", "meta_train") for o in OF_TRAINING),
        "evaluate.episodes=2",
    ],
}


def commands(text: str) -> list[list[str]]:
    """Return the words of each line of shell code that begins with mlx."""
    return [shlex.split(line, comments=True)[1:] for line in text.splitlines() if line.startswith("mlx ")]


def readme() -> list[list[str]]:
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    return commands("\n".join(blocks))


def smaller(words: list[str]) -> list[str]:
    """Add what makes a command quick; what it shows, validates or lists is left as it is."""
    stage = next(word for word in words if not word.startswith("-"))
    return words if "--cfg" in words else [*words, *SMALLER.get(stage, [])]


@pytest.mark.medium
def test_the_readmes_commands_run_one_after_the_other(mlx: Callable) -> None:
    found = readme()
    assert len(found) >= 9
    for words in found:
        code, _, err = mlx(*smaller(words))
        assert code == 0, f"mlx {shlex.join(words)}\n{err}"


@pytest.mark.parametrize("script", sorted((ROOT / "scripts").glob("*.sh")), ids=lambda path: path.stem)
def test_the_scripts_commands_run_one_after_the_other(mlx: Callable, script: Path) -> None:
    found = [words for words in commands(script.read_text()) if words[0] != "show"]
    for words in found:
        sized = [w for w in smaller([w for w in words if w != "$@"]) if w != "data=omniglot"]
        code, _, err = mlx(*sized)
        assert code == 0, f"mlx {shlex.join(words)}\n{err}"
