"""What a command line with mistakes gets: every mistake at once, where it came from, exit 2, and nothing written."""

import shutil
from pathlib import Path

import pytest

from metalearn_cli import stages
from metalearn_cli.cli import choices
from metalearn_cli.core import places


def lines_of(text, key):
    return [line for line in text.splitlines() if line.strip().startswith(key)]


def check(mlx, stage, tmp_path, words, expected):
    """Run words that are wrong; `expected` maps the beginning of each line to what the line says."""
    answer = mlx(*words)
    assert (answer.code, answer.out) == (2, "")
    for key, parts in expected.items():
        (line,) = lines_of(answer.err, key)
        assert all(part in line for part in parts), line
    number = f"{len(expected)} problem{'s' * (len(expected) > 1)} in the settings of `mlx "
    assert number in answer.err
    assert "see all settings: mlx " in answer.err.splitlines()[-1]
    assert "To append to your" not in answer.err  # Hydra's advice, which makes a typo into a setting
    assert "Traceback" not in answer.err
    assert not stage
    assert not list(tmp_path.iterdir())


@pytest.mark.medium
def test_every_mistake_at_once(mlx, stage, tmp_path):
    words = {
        "=3": ("=3", "the name of the setting is missing"),
        "seed=x": ("seed ", "must be a whole number from 0 to 4294967295, got 'x'", "(from the command line)"),
        "algoritm=maml": ("algoritm = maml", "no such setting", "did you mean: algorithm=maml"),
        "+foo=3": ("foo = 3", "no such setting", "(from the command line)"),
        "way=0": ("way", "must be a whole number >= 1 or null, got 0"),
        "algorithm=mamll": ("algorithm ", "there is no algorithm 'mamll'", "protonet", "did you mean: algorithm=maml"),
        "algorithm.inner_lr=x": ("algorithm.inner_lr", "must be a number", "got 'x'"),
        "data.size=7": ("data.size", "must be a whole number from 8 to 128, got 7"),
        "optimizer.lrr=1": ("optimizer.lrr", "no such setting of Adam", "did you mean: optimizer.lr=1"),
        "optimizer=adan": ("optimizer ", "there is no optimizer 'adan'", "did you mean: optimizer=adam"),
        "scheduler@x=step": ("scheduler@x", "is chosen here with scheduler=step"),
        "model=gan": ("model", "mlx meta-train has no model; it has", "model is a setting of pretrain"),
        "b=c=d": ("b=c=d", "cannot be read"),
        "keep=[1,2": ("keep=[1,2", "cannot be read"),
        "maml": ("maml", "settings are written key=value", "did you mean: algorithm=maml"),
        "shot=1,2": ("shot", "1,2 has several values; add -m to run each"),
        "tasks.x=3": ("tasks", "must be a whole number >= 1, got {'x': 3}"),
        "~nothing": ("nothing", "'nothing' does not exist"),
        "~runs_dir": ("runs_dir", "is missing", "(from the command line)"),
        "hydra.none=1": ("hydra.none", "settings of Hydra cannot be changed"),
        "data=[1]": ("data ", "is chosen by name, got [1]"),
        "hydra.sweep.none=1": ("hydra.sweep.none", "mlx runs the jobs of a sweep itself"),
        "val_episodes=${nothing}": ("val_episodes", "cannot be filled in: Interpolation key 'nothing' not found"),
        "train_way=???": ("train_way", "has no value yet"),
        "runtime.precision=8": ("runtime.precision", "must be one of 32-true, 64-true"),
        "backbone._target_=os.system": ("backbone._target_", "may not be built from a config"),
    }
    check(mlx, stage, tmp_path, ("meta-train", *words), {key: parts for key, *parts in words.values()})


@pytest.mark.medium
def test_every_mistake_of_a_chain_at_once(mlx, stage, tmp_path):
    words = {
        "steps=3": ("steps", "has no effect, because every stage has its own; set pretrain.steps or transfer.steps"),
        "optimizer=sgd": ("optimizer ", "is chosen here with", "optimizer@meta_train.optimizer=sgd"),
        "optimizer@pretrain.optimizer=sgdd": ("optimizer@pretrain.optimizer", "there is no optimizer 'sgdd'", "sgd"),
        "meta_train.taskz=3": ("meta_train.taskz", "did you mean: meta_train.tasks=3"),
        "evaluate.normalisation=both": (
            "evaluate.norm",
            "must be a list of one of transductive, inductive, got 'both'",
        ),
        "stages=[transfer,meta-train,pretrain]": ("stages", "in this order"),
        "ckpt=latest": ("ckpt", "no such setting of run"),
        "experimnt=smok": ("experimnt", "did you mean: experiment=smoke"),
    }
    check(mlx, stage, tmp_path, ("run", *words), {key: parts for key, *parts in words.values()})


@pytest.mark.parametrize(
    ("words", "key", "told"),
    [
        (("-m", "meta-train", "algorithm=maml,mamll", "seed=1,-1"), "algorithm", "there is no algorithm 'mamll'"),
        (("meta-train", "algorithm=mamll", "seed=-1", "--cfg", "job"), "algorithm", "did you mean: algorithm=maml"),
        (("validate", "meta-train", "algoritm=maml", "seed=-1"), "algoritm", "did you mean: algorithm=maml"),
    ],
)
def test_every_way_in_checks_the_same(mlx, stage, tmp_path, words, key, told):
    check(mlx, stage, tmp_path, words, {key: [told], "seed": ["got -1"]})


@pytest.mark.parametrize(
    ("line", "keys"),
    [
        ("meta-train runtime.threads=9999 way=1 shot=0", {"runtime.threads", "way", "shot"}),
        ("meta-train runtime.threads=9999 train_way=1", {"runtime.threads", "train_way"}),
        ("meta-train init_from=nope optimizer.lr=-1", {"init_from", "optimizer.lr"}),
        ("meta-train init_from=nope lr=1 --steps=3", {"init_from", "lr", "--steps=3"}),
        ("transfer teacher=nope steps=0 optimizer=x", {"init_from", "teacher", "steps", "optimizer"}),
        ("evaluate ckpt=nope shot=0", {"ckpt", "shot"}),
        ("evaluate shot=0", {"ckpt", "shot"}),
        ("evaluate init_from=x", {"init_from"}),  # ckpt=x is meant, so that the default is not
        ("run stages=[pretrian] init_from=nope transfer.batch_size=x", {"stages", "init_from", "transfer.batch_size"}),
        ("run pretrain.runtime.threads=9999 transfer.teacher=nope", {"pretrain.runtime.threads", "transfer.teacher"}),
        ("run optimizer.lr=-1", {"optimizer.lr"}),
        ("run stages=[meta-train] transfer.steps=5 meta_train.steps=x", {"transfer.steps", "meta_train.steps"}),
        ("pretrain steps=x", {"steps"}),  # and not scheduler.T_max, which follows it
        ("pretrain steps=x scheduler.T_max=y", {"steps", "scheduler.T_max"}),
        ("meta-train data=sinusoid way=1 shot=0", {"shot"}),
    ],
)
def test_what_needs_no_work_is_told_with_everything_else(mlx, stage, tmp_path, line, keys):
    check(mlx, stage, tmp_path, line.split(), {f"{key} ": [] for key in keys})


def test_checkpoint_and_data_at_once(mlx, tmp_path):
    answer = mlx("meta-train", "init_from=nope", "data=omniglot", "data.root=x")
    assert answer.code == 2 and not list(tmp_path.iterdir())
    assert "there is no run 'nope'" in lines_of(answer.err, "init_from")[0]
    assert "x is not a folder" in lines_of(answer.err, "data.root")[0]


def test_an_evaluation_takes_settings_for_the_learner_of_the_checkpoint(mlx, stage, monkeypatch):
    seen = []
    quick = stages.run
    monkeypatch.setattr(stages, "run", lambda *args, given, **facts: seen.append(given) or quick(*args, **facts))
    for words in (["algorithm.inner_steps=5"], ["algorithm=maml", "algorithm.inner_steps=5"], ["algorithm=maml"], []):
        assert mlx("evaluate", *words).code == 0
    assert seen == [{"inner_steps": 5}, {"inner_steps": 5}, {}, {}]
    assert [config.algorithm and config.algorithm["inner_lr"] for _, config in stage] == [None, 0.4, 0.4, None]
    refused = mlx("evaluate", "ckpt=null", "algorithm.inner_steps=5")
    assert "inner_steps is a setting of what algorithm=NAME chooses" in refused.err


def test_folder_that_is_not_there(mlx, stage):
    answer = mlx("meta-train", "--config-dir", "nowhere")
    assert answer.code == 2
    assert "--config-dir nowhere: there is no such folder" in answer.err


def test_a_dropped_choice_is_not_blamed_again(mlx, stage):
    answer = mlx("meta-train", "algorithm=zzz", "algorithm.inner_lr=0.1")  # protonet, the default, has no inner_lr
    assert "1 problem" in answer.err
    assert "inner_lr" not in answer.err


def test_origin_is_the_file_that_says_it(mlx, stage):
    own = Path("mine")
    (own / "algorithm").mkdir(parents=True)
    (own / "experiment").mkdir()
    (own / "algorithm" / "hasty.yaml").write_text("defaults:\n  - maml\n  - _self_\ninner_lr: fast\n")
    (own / "experiment" / "odd.yaml").write_text(
        "# @package _global_\ndefaults:\n  - override /method: linear_probe\n  - _self_\n"
        "query: none\nmeta_train:\n  tasks: 0\n"
    )
    answer = mlx("meta-train", "algorithm=hasty", "--config-dir", "mine")
    (line,) = lines_of(answer.err, "algorithm.inner_lr")
    assert line.endswith("got 'fast'   (from mine/algorithm/hasty.yaml)")
    answer = mlx("run", "experiment=odd", "-cd", "mine", "evaluate.episodes=1", "meta_train.steps=x")
    assert "(from mine/experiment/odd.yaml)" in lines_of(answer.err, "query")[0]
    assert "(from mine/experiment/odd.yaml)" in lines_of(answer.err, "meta_train.tasks")[0]
    assert "(from the command line)" in lines_of(answer.err, "evaluate.episodes")[0]
    assert "(from the command line)" in lines_of(answer.err, "meta_train.steps")[0]


def test_origin_of_a_shipped_value(mlx, stage):
    own = Path("mine/algorithm")
    own.mkdir(parents=True)
    (own / "wrong.yaml").write_text(
        "defaults:\n  - maml\n  - _self_\n_target_: metalearn_cli.algorithms.protonet.ProtoNet\n"
    )
    answer = mlx("meta-train", "algorithm=wrong", "--config-dir=mine")
    assert "(from configs/algorithm/maml.yaml)" in lines_of(answer.err, "algorithm.inner_lr")[0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("inner_lr: [1\n", "is not valid YAML"),
        ("defaults:\n  - mamll\n", "there is no algorithm 'mamll'; there are "),
        ("- 1\n", "must name its class in `_target_`, got [1]"),
    ],
)
def test_broken_config_of_the_users(mlx, stage, text, told):
    own = Path("mine/algorithm")
    own.mkdir(parents=True)
    (own / "broken.yaml").write_text(text)
    answer = mlx("meta-train", "algorithm=broken", "--config-dir", "mine")
    assert answer.code == 2
    assert told.lower() in answer.err.lower()
    assert "Traceback" not in answer.err


def test_a_broken_config_of_the_command_is_no_fault_of_the_words(mlx, stage, monkeypatch, tmp_path):
    broken = tmp_path / "configs"
    shutil.copytree(places.config_dir(), broken)
    (broken / "optimizer" / "adam.yaml").write_text("lr: [1\n")
    monkeypatch.setattr(choices, "config_dir", lambda: broken)
    answer = mlx("meta-train", "seed=1")
    assert answer.code == 2
    assert "is not valid YAML" in answer.err
    assert "seed" not in answer.err


def test_recipe_that_chooses_what_is_not_there(mlx, stage):
    own = Path("mine/experiment")
    own.mkdir(parents=True)
    (own / "odd.yaml").write_text("# @package _global_\ndefaults:\n  - override /algorithm: mamll\n")
    answer = mlx("run", "experiment=odd", "seed=-1", "--config-dir", "mine")
    assert "there is no algorithm 'mamll'" in answer.err
    assert "(from mine/experiment/odd.yaml)   did you mean: maml" in answer.err
    assert "got -1" in answer.err


def test_settings_reach_the_stage(mlx, stage):
    words = (
        "meta-train",
        "algorithm=maml",
        "algorithm.inner_lr=0.1",
        "+seed=7",
        "++way=3",
        "init_from=latest:transfer",
        "reinit=[head,backbone.0]",
    )
    assert mlx(*words).code == 0
    ((name, config),) = stage[-1:]
    assert name == "meta-train"
    assert config.algorithm["inner_lr"] == 0.1
    assert (config.seed, config.way, config.init_from, config.reinit) == (
        7,
        3,
        "latest:transfer",
        ["head", "backbone.0"],
    )
    assert config.scheduler["T_max"] == config.steps


def test_recipe_beats_the_defaults_and_the_command_line_beats_the_recipe(mlx, stage):
    own = Path("mine/experiment")
    own.mkdir(parents=True)
    (own / "short.yaml").write_text("""# @package _global_
defaults:
  - override /algorithm: maml
  - override /optimizer@meta_train.optimizer: sgd
  - _self_
stages: [meta-train]
meta_train: {steps: 3, tasks: 2}
""")
    assert mlx("run", "experiment=short", "meta_train.tasks=5", "meta_train.way=20", "-cd", "mine").code == 0
    ((_, config),) = stage
    assert config.stages == ("meta-train",)
    trained = config.training["meta-train"]
    assert (trained.steps, trained.tasks, trained.way, config.evaluate.way) == (3, 5, 20, None)
    assert trained.algorithm["_target_"].endswith("Maml")
    assert trained.optimizer["_target_"] == "torch.optim.SGD"


def test_evaluate_takes_a_learner_or_leaves_it_to_the_checkpoint(mlx, stage):
    assert mlx("evaluate", "algorithm=protonet").code == 0
    ((_, config),) = stage
    assert config.algorithm["_target_"].endswith("ProtoNet")
    assert config.backbone is config.data is None


def test_a_number_without_end(mlx):
    answer = mlx("pretrain", "seed=" + 5000 * "1")
    assert answer.code == 2
    assert "seed  has a number with too many digits" in answer.err
