"""What a command does not use it does not import: torch takes a second or more, its compiler and matplotlib another."""

import subprocess
import sys

import pytest

LATE = ("torch._dynamo", "lightning_fabric", "matplotlib", "tensorboardX")
TOY = ["data=gaussian", "backbone=mlp", "way=2", "query=3"]


def run(tmp_path, *commands):
    """Give commands one after the other in one process.

    Returns:
        the exit code of each and the modules of interest that are there after it; and all of stderr.
    """
    code = f"""
import sys
from metalearn_cli.cli.main import main
for words in {commands}:
    print("@", main(words), *(name for name in ("torch", *{LATE}) if name in sys.modules), file=sys.stderr)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    return [line.split()[1:] for line in done.stderr.splitlines() if line.startswith("@ ")], done.stderr


TYPOS = [
    (["optmizer=sgd"], "optmizer = sgd  no such setting   (from the command line)   did you mean: optimizer=sgd"),
    (["algorithm=mamll"], "algorithm  there is no algorithm 'mamll'"),
    (["algorithm=maml", "algorithm.inner_stepz=3"], "no such setting of Maml"),
    (["optimizer.learning_rate=3"], "no such setting of Adam"),
    (["optimizer._target_=torch.optim.Adan"], "'torch.optim.Adan' does not exist: torch.optim has no Adan"),
    (["scheduler._target_=torch.optim.lr_scheduler.StepLR"], "StepLR needs this setting"),
    (["data.size=7", "optimizer.lr=fast"], "2 problems in the settings of `mlx meta-train`"),
    (["--config-dir", "mine", "algorithm=hasty"], "no such setting of Maml"),
]


@pytest.mark.medium
def test_typos_are_told_without_torch(tmp_path):
    own = tmp_path / "mine" / "algorithm"
    own.mkdir(parents=True)
    (own / "hasty.yaml").write_text("defaults: [maml]\ninner_stepz: 1\n")
    found, err = run(tmp_path, *(["meta-train", *words] for words, _ in TYPOS))
    assert found == [["2"]] * len(TYPOS), err
    for answer, (_, told) in zip(err.split("@ 2\n"), TYPOS, strict=False):
        assert told in answer


@pytest.mark.medium
def test_what_is_wrong_with_a_prediction_is_told_without_torch(tmp_path):
    names = ("predict", "export", "enrol", "explain", "stream", "classes", "serve")
    refused = [["predict", "suport=x"], ["serve"], *([name, "x"] for name in names)]
    found, err = run(tmp_path, *refused)
    assert found == [["2"]] * len(refused), err


@pytest.mark.medium
def test_what_does_not_train_takes_no_compiler_and_what_trains_takes_what_it_needs(tmp_path):
    commands = [
        ["validate", "pretrain", *TOY],
        ["validate", "run", *TOY],
        ["data", "check", "data=gaussian"],
        ["evaluate", "ckpt=null", "episodes=2", "runtime.precision=bf16-mixed", *TOY],
        ["doctor"],
        ["pretrain", "model=classifier", "val_episodes=2", "steps=1", *TOY],
    ]
    found, err = run(tmp_path, *commands)
    assert found == [*[["0", "torch"]] * 5, ["0", "torch", *LATE]], err
