"""Numbers in words, tables that fit, and the bar of a terminal."""

import logging
import re
from pathlib import Path

import pytest

from metalearn_cli.cli import phrases, study_views, telling, views
from metalearn_cli.cli.phrases import age, duration, next_command, number, over, spread, verdict, with_intervals
from metalearn_cli.core.metric import SAME_CLASSES
from metalearn_cli.records.sweeps import Outcome

ID = "20261123-170400-9f3a"


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        (number("val/accuracy", 0.9134), "91.3 %"),
        (number("train/loss", 0.41236), "0.4124"),
        (spread("test/accuracy", 0.5, 0.0061), "50.0 +- 0.6 %"),
        (spread("test/mse", 0.1234, 0.0561), "0.123 +- 0.056"),
        (spread("test/mse", 129.7, 261.2), "130 +- 261"),
        (spread("test/mse", 0.0, 0.0), "0.0000 +- 0.0000"),
        (spread("val/accuracy", 0.5, None), "50.0 %"),
        (duration(41.6), "42 s"),
        (duration(59.7), "1 min 0 s"),
        (duration(3661), "1 h 1 min"),
        (age(None), "-"),
    ],
)
def test_words(said, expected):
    assert said == expected


@pytest.mark.parametrize(
    ("stage", "words", "expected"),
    [
        (
            "pretrain",
            ["model=gan", "data=omniglot", "+runs_dir=x"],
            "mlx transfer init_from=a1 data=omniglot runs_dir=x",
        ),
        ("transfer", ["backbone.hidden=8", "steps=3"], "mlx meta-train init_from=a1 backbone.hidden=8"),
        ("meta-train", ["data=omniglot", "runtime=gpu"], "mlx evaluate ckpt=a1 runtime=gpu"),
        ("meta-train", ["data=sinusoid", "way=1", "shot=10"], "mlx evaluate ckpt=a1 way=1 shot=10"),
        (
            "pretrain",
            ["data.root=a b", "runtime.stop_on=[SIGHUP]"],
            "mlx transfer init_from=a1 'data.root=a b' 'runtime.stop_on=[SIGHUP]'",
        ),
        (
            "transfer",
            ["data@also.x=glyphs", "+data@also.x.y=z", "data=omniglot"],
            "mlx meta-train init_from=a1 data=omniglot",
        ),
        ("evaluate", ["data=omniglot"], "mlx show a1"),
        ("evaluate", ["runs_dir=my runs"], "mlx show a1 --runs-dir 'my runs'"),
        ("run", [], "mlx show a1"),
        ("run", ["runs_dir=\"my 'runs'\""], """mlx show a1 --runs-dir 'my '"'"'runs'"'"''"""),
    ],
)
def test_next_command(stage, words, expected):
    assert next_command({"stage": stage, "id": "a1"}, words) == expected


def test_next_command_names_the_folder_of_configs():
    assert next_command({"stage": "transfer", "id": "a1"}, [], "my own") == (
        "mlx meta-train init_from=a1 --config-dir 'my own'"
    )
    assert next_command({"stage": "run", "id": "a1"}, [], "own") == "mlx show a1"


def test_what_to_type_after_a_sweep_names_the_folder_of_runs(capsys):
    sweep(words=["seed=1,2", "runs_dir=my runs"])
    assert capsys.readouterr().out.endswith("next: mlx runs sweep=ab12cd34 --runs-dir 'my runs'\n")


@pytest.mark.parametrize(("split", "algorithms", "warned"), [("test", 2, True), ("val", 2, False), ("test", 1, False)])
def test_a_sweep_with_test_results_says_that_they_choose_nothing(capsys, split, algorithms, warned):
    run = {**RUN, "metric": {"name": f"{split}/accuracy", "value": 0.5, "interval": 0.1}}
    names = ["maml", "protonet"][:algorithms]
    sweep([Outcome({"algorithm": name, "seed": seed}, run=run) for name in names for seed in "12"])
    assert ("no setting may be chosen by them" in capsys.readouterr().out) == warned


def test_seeds_of_a_sweep_are_one_row_and_the_best_point_is_the_first(capsys):
    def job(way, seed, value, half=0.01):
        return Outcome({"way": way, "seed": seed}, run={**RUN, "id": f"r{way}{seed}", "metric": scored(value, half)})

    def scored(value, half):
        return {"name": "val/accuracy", "value": value, "interval": half}

    sweep([job("5", "1", 0.5), job("5", "2", 0.6), job("3", "1", 0.7), job("9", "1", None, None)])
    lines = capsys.readouterr().out.splitlines()
    rows = [re.split(r"\s{2,}", line.strip()) for line in lines]
    assert rows[3:6] == [
        ["3", "1", "r31", "completed", "val accuracy 70.0 +- 1.0 %"],
        ["5", "1, 2", "2 runs", "completed", "val accuracy 55.0 +- 63.5 %"],  # t with one degree of freedom: 12.7
        ["9", "1", "r91", "completed", "val accuracy nan"],
    ]
    assert "+- is the half-width of a 95 % interval over seeds, or over episodes with one seed." in lines


def row(gained, half=0.005, classes=0.02, name="test/accuracy", **changes):
    """Return a row of a chain's table."""
    return {
        "after": "transfer",
        "learner": "protonet",
        "name": name,
        "value": 0.5,
        "interval": 0.006,
        "interval_classes": 0.021,
        "interval_trainings": None,
        "gain": gained,
        "gain_interval": half,
        "gain_interval_classes": classes,
        "gain_interval_trainings": None,
        "over": {"episodes": 1000, "classes": 112, "trainings": 1},
        "normalisation": "transductive",
        "way": 5,
        "shot": 1,
    } | changes


TWO = {"over": {"episodes": 600, "groups": 20, "trainings": 2}}
THREE = {"over": {"episodes": 600, "groups": 20, "trainings": 3}, "interval_trainings": 0.0123}
REGRESSION = {"name": "test/mse", "over": {"episodes": 1000, "trainings": 1}, "interval_classes": None, "classes": None}


@pytest.mark.parametrize(("found", "score", "gained", "said"), [
    (row(0.03), "50.0 +- 0.6 (2.1)", "+3.0 +- 0.5 (2.0)", "helps"),
    (row(-0.03), "50.0 +- 0.6 (2.1)", "-3.0 +- 0.5 (2.0)", "hurts"),
    (row(0.01), "50.0 +- 0.6 (2.1)", "+1.0 +- 0.5 (2.0)", "not clear"),  # over episodes it would be
    (row(0.003), "50.0 +- 0.6 (2.1)", "+0.3 +- 0.5 (2.0)", "not clear"),
    (row(0.0012, 0.0005, 0.0006), "50.0 +- 0.6 (2.1)", "+0.12 +- 0.05 (0.06)", "helps"),
    (row(0.0, 0.0, 0.0), "50.0 +- 0.6 (2.1)", "+0.0 +- 0.0 (0.0)", "no change"),
    (row(0.4, classes=None, interval_classes=None), "50.0 +- 0.6 (-)", "+40.0 +- 0.5 (-)", "not clear"),
    (row(0.03, **THREE, gain_interval_trainings=0.04), "50.0 +- 0.6 (2.1, 1.2)", "+3.0 +- 0.5 (2.0, 4.0)", "not clear"),
    (row(0.03, **THREE, gain_interval_trainings=0.02), "50.0 +- 0.6 (2.1, 1.2)", "+3.0 +- 0.5 (2.0, 2.0)", "helps"),
    (row(0.03, 0.01, **REGRESSION), "0.5000 +- 0.0060", "+0.030 +- 0.010", "helps"),
    (row(0.03, 0.05, **REGRESSION), "0.5000 +- 0.0060", "+0.030 +- 0.050", "not clear"),
])  # fmt: skip
def test_intervals_and_what_they_mean(found, score, gained, said):
    assert with_intervals(found) == score
    assert with_intervals(found, "gain_") == gained
    assert verdict(found) == said


@pytest.mark.parametrize(("found", "said"), [
    (row(0.1), "episodes;\nin brackets over 112 classes."),
    (row(0.1, **THREE), "episodes;\nin brackets over 20 groups of classes and over 3 trainings."),
    (row(0.1, **THREE, folds=4), " over 20 groups of classes and over 3 trainings of each fold."),
    (row(0.1, **TWO), "\nThe last \"-\": 2 trainings are too few for an interval over trainings; seeds=3 gives one."),
    (row(0.1, **REGRESSION), "episodes."),
])  # fmt: skip
def test_an_interval_says_over_what(found, said):
    assert over(found).startswith("+- is the half-width of a 95 % interval over ")
    assert over(found).endswith(said)


RUN = {
    "id": ID,
    "stage": "run",
    "status": "completed",
    "seconds": 200.0,
    "started_at": "2026-11-23T17:04:00+00:00",
    "parent": {"run": "20261123-170100-1111", "stage": "meta-train"},
    "metric": {"name": "test/accuracy", "value": 0.92, "interval": 0.005},
    "starts": {},
    "table": [
        row(gained, after=after, learner=learner, value=value, normalisation=protocol)
        for protocol in ("transductive", "inductive")
        for after, learner, value, gained in (
            ("nothing", "nearest_centroid", 0.36, None),
            ("pretrain", "nearest_centroid", 0.53, 0.17),
            ("transfer", "nearest_centroid", 0.532, 0.002),
            ("transfer", "protonet", 0.54, None),
            ("meta-train", "protonet", 0.5, -0.04),
        )
    ],
}
DESCRIBED = {**RUN, "learner": "prototypical", "way": 20, "shot": 5, "seed": 12, "sweep": "20261123-170000-abcd"}
DESCRIBED |= {"data": {"name": "omniglot"}, "status": "interrupted", "id": "20261123-170500-9f3a"}
LINEAGE = [{**RUN, "best": "step-000400"}, {**RUN, "checkpoint": "runs/x/checkpoints/step-000400", "sha256": "a" * 64}]
JOBS = [
    Outcome({"algorithm": "maml", "seed": "1"}, run=RUN),
    Outcome({"algorithm": "protonet", "seed": "1"}, "refused", "way: too many " * 9, 2),
]


def sweep(outcomes=JOBS, words=()):
    study_views.sweep("ab12cd34", Path("runs/sweeps/ab12cd34"), outcomes, words)


def test_table_of_a_chain(capsys):
    views.result(RUN)
    out = capsys.readouterr().out
    assert out.count("5-way 1-shot on 1000 episodes of test classes") == 2
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert ["untrained", "36.0 +- 0.6 (2.1)"] in rows
    assert ["pretrain", "53.0 +- 0.6 (2.1)", "+17.0 +- 0.5 (2.0)", "helps"] in rows
    assert ["transfer", "53.2 +- 0.6 (2.1)", "+0.2 +- 0.5 (2.0)", "not clear"] in rows
    assert ["meta-train", "50.0 +- 0.6 (2.1)", "-4.0 +- 0.5 (2.0)", "hurts"] in rows
    assert [line.strip() for line in out.splitlines()].count("protonet") == 2
    assert "All numbers are from one training" in out
    assert "starts from" not in out
    assert out.rstrip().endswith(f"next: mlx show {ID}")


@pytest.mark.parametrize(
    ("way", "unit", "count", "protocol", "cure"),
    [
        (3, "classes", 3, "classes, seed 0", "More test classes, or way=2, would change that."),
        (2, "classes", 2, "classes, seed 0", "More test classes would change that."),
        (5, "classes", 6, "groups, seed 0", "More episodes would change that, such as evaluate.episodes=1000."),
        (3, "classes", 3, f"{SAME_CLASSES} classes, seed 0", "More classes, or way=2, would change that."),
        (5, "groups", 10, "groups, seed 0", "More test groups, or way=4, would change that."),
    ],
)
def test_what_gives_an_interval_over_classes_if_there_is_none(capsys, way, unit, count, protocol, cure):
    over = {"episodes": 30, unit: count, "trainings": 1}
    found = row(0.1, way=way, over=over, interval_classes=None, gain_interval_classes=None)
    views.chain({**RUN, "table": [found], "data": {"name": "mine", "protocol": protocol}})
    out = capsys.readouterr().out
    assert "takes more classes than an episode has" in out
    assert cure in out.splitlines()


@pytest.mark.parametrize(("count", "cure"), [
    (5, "More test classes would change that."),  # all of them are in every episode
    (9, "More episodes would change that, such as episodes=2000."),
])  # fmt: skip
def test_what_gives_one_to_an_evaluation_of_varying_way(capsys, count, cure):
    over = {"episodes": 200, "classes": count, "trainings": 1}
    found = {**row(0.1, over=over, interval_classes=None), "varying": True}
    views.evaluation({"results": [found], "data": {"name": "mine", "protocol": "classes, seed 0"}})
    assert cure in capsys.readouterr().out.splitlines()


def test_candidates_of_a_damaged_record_are_shown_as_far_as_they_are_there(capsys):
    score = {
        "name": "val/accuracy",
        "learner": "maml",
        "value": 0.5,
        "interval": 0.1,
        "over": {"episodes": 9, "trainings": 1},
    }
    found = [{**score, "values": values, "chosen": bool(values)} for values in ({"a": True, "b": None}, {})]
    views.evaluation({"results": [{**row(0.1), "normalisation": "none"}], "selected": found, "data": {"name": "mine"}})
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[3:5]]
    assert rows == [["true", "null", "50.0", "+-", "10.0", "chosen"], ["-", "-", "50.0", "+-", "10.0"]]


def test_a_chain_says_what_its_evaluations_selected(capsys):
    two = [{"algorithm.inner_steps": 1}, {"algorithm.inner_steps": 3}]
    table = [
        row(0.1, learner="maml", after="nothing", selected=two[:1]),
        row(0.1, learner="maml", after="meta-train", selected=two),
    ]
    views.chain({**RUN, "table": table})
    lines = capsys.readouterr().out.splitlines()
    assert "maml, untrained: inner_steps=1, selected on validation episodes." in lines
    assert "maml, meta-train: inner_steps=1 or 3, selected on validation episodes." in lines
    assert "A gain of maml is one between different settings." in lines
    views.chain({**RUN, "table": [{**each, "selected": two} for each in table]})
    assert "between different settings" not in capsys.readouterr().out


def test_transfer_is_shown_beside_its_start(capsys):
    scores = {key: {"name": "val/accuracy", "value": v, "interval": 0.01, "step": step}
              for key, v, step in (("baseline", 0.61, 0), ("trained", 0.58, 150))}  # fmt: skip
    views.result({"stage": "transfer", "id": ID, "steps": 300, "seconds": 3, "metric": scores["baseline"], **scores})
    out = capsys.readouterr().out
    rows = [re.split(r"\s{2,}", line.strip()) for line in out.splitlines()]
    assert ["val accuracy", "61.0 +- 1.0 % (95 % over the validation episodes)"] in rows
    assert [
        "after training",
        "58.0 +- 1.0 % (95 % over the validation episodes)",
    ] in rows and "before training" not in out
    assert ["best step", "0 of 300"] in rows


def test_table_of_a_chain_says_where_it_starts(capsys):
    views.chain({**RUN, "starts": {"transfer": {"teacher": "t"}, "meta-train": {"init_from": "runs/x/step-000300"}}})
    assert "The chain starts from runs/x/step-000300.\n" in capsys.readouterr().out


@pytest.mark.parametrize("columns", [80, 140])
@pytest.mark.parametrize(
    "draw",
    [
        lambda: views.result(RUN),
        lambda: views.runs([RUN, DESCRIBED], "runs"),
        lambda: views.lineage(LINEAGE),
        sweep,
    ],
    ids=["chain", "runs", "lineage", "sweep"],
)
def test_tables_fit_the_terminal(capsys, monkeypatch, draw, columns):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", str(columns))
    monkeypatch.setenv("TERM", "xterm")
    draw()
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert max(map(len, lines)) <= columns
    assert any(ID in line for line in lines)  # what has to be typed again is never broken


def test_checksum_in_full_where_there_is_room(capsys):
    views.lineage(LINEAGE)  # no terminal: nothing is cut
    assert "a" * 64 in capsys.readouterr().out


def test_a_teacher_is_shown_with_the_run_that_it_taught(capsys):
    teacher = {"run": "t1", "stage": "transfer", "checkpoint": "runs/transfer/t1/checkpoints/step-000300"}
    views.lineage([{"id": ID, "stage": "transfer", "teacher": {**teacher, "sha256": "ab" * 32}}])
    assert f"teacher of {ID}: transfer t1, step-000300, {'ab' * 32}\n" in capsys.readouterr().out


def test_bar_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    with telling.reporting() as reporter:
        reporter.start("meta-train", "runs/meta-train/x", 10, 20)
        reporter.advance(15)
        reporter.metrics(15, {"train/loss": 0.5, "train/accuracy": 0.9, "train/lr": 0.1})
        reporter.metrics(15, {"val/accuracy": 0.8, "val/accuracy_interval": 0.1})
        reporter.note("a note")
    err = capsys.readouterr().err
    assert "meta-train step 15/20, loss 0.5, acc 90.0 %, val acc 80.0 %, eta" in err
    assert "a note\n" in err
    assert "lr" not in err


def test_warnings_of_the_package_are_shown(capsys):
    with telling.reporting():
        logging.getLogger("metalearn_cli.data").warning("the cache is damaged")
        logging.getLogger("metalearn_cli.data").error("told by who catches it")
    assert capsys.readouterr().err == "warning: the cache is damaged\n"


def test_a_run_of_an_earlier_version_is_shown(capsys):
    new = ("over", "interval_classes", "interval_trainings", "gain_interval_classes", "gain_interval_trainings")
    table = [{name: value for name, value in row.items() if name not in new} for row in RUN["table"]]
    views.chain({"id": ID, "table": [{**row, "episodes": 1000} for row in table]})
    out = capsys.readouterr().out
    assert "on 1000 episodes" in out and "+17.0 +- 0.5   helps" in out


def test_a_table_names_the_data_and_its_protocol(capsys):
    views.chain({**RUN, "data": {"name": "glyphs", "protocol": "scripts, within scripts"}})
    assert "test classes, glyphs (scripts, within scripts)" in " ".join(capsys.readouterr().out.split())


def test_a_run_of_a_chain_is_shown_with_its_table_and_its_settings(capsys):
    views.lineage([{**RUN, "folder": "runs/run/x"}], ["seed=3", "reinit=[a, b]"])
    out = capsys.readouterr().out
    assert "5-way 1-shot" in out and "the stage" in out
    assert "settings that differ from the defaults: seed=3 'reinit=[a, b]'\nfolder: runs/run/x\n" in out


def test_the_worst_episodes_and_the_hardest_classes_are_told() -> None:
    hardest = [
        {"name": "Greek/07", "value": 0.631, "interval": 0.03, "episodes": 10},
        {"name": "a", "value": 0.7, "interval": 1.434, "episodes": 9},
    ]
    one = {"name": "test/accuracy", "worst_decile": 0.712, "hardest": hardest, "normalisation": "inductive"}
    assert phrases.hardest([one]) == (
        "worst tenth of episodes 71.2 %;\n"
        "hardest classes (+- over their episodes, from 10 on): "
        "Greek/07 63.1 +- 3.0 % in 10 episodes, a 70.0 % in 9 episodes"
    )
    error = {"name": "test/mse", "worst_decile": 2.5, "hardest": [], "normalisation": "none"}
    assert phrases.hardest([error]) == "worst tenth of episodes 2.5"
    other = {**one, "normalisation": "transductive", "worst_decile": 0.5}
    assert "71.2 % inductive, 50.0 % transductive;" in phrases.hardest([one, other])


def test_calibration_is_told_before_and_after() -> None:
    measured = {"before": {"ece": 0.055, "nll": 1.573}, "after": {"ece": 0.028, "nll": 1.4}}
    found = {"normalisation": "inductive", "calibration": {"temperature": 0.347, "episodes": 50, **measured}}
    assert phrases.calibration(found, "") == (
        "calibration: ECE 5.5 %, negative log-likelihood 1.573;\n"
        "with temperature 0.347, fitted on 50 validation episodes: ECE 2.8 %, negative log-likelihood 1.400"
    )
    found["calibration"]["after"]["nll"] = 1.6
    assert phrases.calibration(found, "").endswith(
        "negative log-likelihood 1.600;\nthis temperature makes the log-likelihood of test answers worse; "
        "calibration=500 may fit a better one, on more validation episodes"
    )
    found["calibration"]["temperature"] = None
    told = phrases.calibration(found, "inductive")
    assert told.startswith("calibration, inductive: ECE 5.5 %") and "; no temperature fits the answers of 50" in told


TRAINED = {**RUN, "stage": "meta-train", "steps": 400, "parent": None}
TRAINED = {name: value for name, value in TRAINED.items() if name != "table"}


@pytest.mark.parametrize(("more", "told"), [({"over": {"episodes": 200, "trainings": 1}}, "200"), ({}, "the")])
def test_an_interval_of_a_training_is_over_validation_episodes(more, told, capsys) -> None:
    views.result({**TRAINED, "metric": {"name": "val/accuracy", "value": 0.9, "interval": 0.01, "step": 2, **more}})
    assert f"90.0 +- 1.0 % (95 % over {told} validation episodes)" in capsys.readouterr().out


def test_a_metric_without_an_interval_has_no_words_on_it(capsys) -> None:
    views.result({**TRAINED, "metric": {"name": "val/accuracy", "value": 0.9, "interval": None, "step": 2}})
    out = capsys.readouterr().out
    assert "90.0 %" in out and "95 %" not in out


def test_tables_of_runs_say_over_what_intervals_are(capsys) -> None:
    said = "+- is the half-width of a 95 % interval over the episodes of that run."
    for show in (lambda: views.runs([RUN], "runs"), lambda: views.lineage(LINEAGE[1:]), sweep):
        show()
        assert said in capsys.readouterr().out
    views.runs([{**RUN, "metric": {"name": "val/perplexity", "value": 2.0}}], "runs")
    assert said not in capsys.readouterr().out


def test_fixed_episodes_have_an_error_rate(capsys) -> None:
    found = row(None, name="test/accuracy", value=0.907, interval=0.035, over={"episodes": 20, "trainings": 1})
    assert phrases.error_rates([found]) == "error rate over the 20 fixed episodes (runs): 9.3 +- 3.5 %"
    views.evaluation({"results": [{**found, "fixed": True}]})
    assert "error rate over the 20 fixed episodes" in capsys.readouterr().out
    views.evaluation({"results": [found]})
    assert "error rate" not in capsys.readouterr().out


@pytest.mark.parametrize(("more", "told"), [({"over": {"episodes": 2, "trainings": 1}}, "2"), ({}, "the")])
def test_the_last_line_of_a_stage_says_over_how_many_episodes(capsys, more, told) -> None:
    metric = {"name": "val/accuracy", "value": 0.417, "interval": 3.177, "step": 2, **more}
    telling.Progress().finish({"stage": "meta-train", "seconds": 1, "metric": metric})
    assert f"val accuracy 41.7 +- 317.7 % (95 % over {told} episodes) in 1 s" in capsys.readouterr().err


@pytest.mark.parametrize(("protocol", "told"), [("inductive", "0.5 % inductive"), ("none", "0.5 %"), (None, "0.5 %")])
def test_a_score_is_told_with_its_protocol_everywhere(capsys, protocol, told) -> None:
    metric = {"name": "val/accuracy", "value": 0.6, "interval": 0.005, "step": 5, "normalisation": protocol}
    run = {"id": ID, "stage": "pretrain", "status": "completed", "metric": metric, "steps": 9, "seconds": 3}
    with telling.reporting() as reporter:
        reporter.finish(run)
    assert f"val accuracy 60.0 +- {told} (95 % over the episodes)" in capsys.readouterr().err
    for show in (
        lambda: views.result(run),
        lambda: views.runs([run], "runs"),
        lambda: views.lineage([run]),
        lambda: sweep([Outcome({"way": "5"}, run=run)]),
    ):
        show()
        (line,) = (line for line in capsys.readouterr().out.splitlines() if "60.0 +- " in line)
        assert told in line and ("inductive" in line) == (protocol == "inductive")


def test_the_result_of_several_trainings_has_the_interval_over_them(capsys) -> None:
    metric = row(0.1, **THREE, folds=3)
    run = RUN | {"metric": metric, "table": [metric]}
    with telling.reporting() as reporter:
        reporter.finish(run)
    assert (
        "test accuracy 50.0 +- 1.2 % transductive (95 % over 600 episodes and 3 trainings)" in capsys.readouterr().err
    )
    sweep([Outcome({"way": "5"}, run=run)])
    views.lineage([run])
    views.runs([run | {"seed": 4, "seeds": 3}], "runs")
    out = capsys.readouterr().out
    assert out.count("50.0 +- 1.2 % transductive") == 3
    assert "seeds 4 to 6" in out
    assert "over the episodes and, if it has three or more, trainings of that run." in out
    assert "The result is that of 9 trainings (3 seeds and 3 folds), of which one is listed." in out
    assert "in one of 3 folds, each with 3 trainings of its own." in out


@pytest.mark.parametrize(("changes", "told", "again"), [
    ({"stage": "meta-train", "status": "failed", "error": "the loss is nan"}, "failed: the loss is nan", "resume x"),
    ({"stage": "run", "status": "interrupted", "typed": ["folds=3", "a=b c"]}, "interrupted", "run folds=3 'a=b c'"),
    ({"stage": "evaluate", "status": "died"}, "died", "evaluate seed=3"),
])  # fmt: skip
def test_a_run_that_is_not_completed_says_why_and_what_completes_it(capsys, changes, told, again) -> None:
    views.lineage([{"id": ID, "folder": "x", **changes}], ["seed=3"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[lines.index(told) + 1] == f"complete it with: mlx {again}"


def test_no_number_is_cut_on_a_narrow_terminal(capsys, monkeypatch) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setenv("COLUMNS", "30")
    monkeypatch.setenv("TERM", "xterm")
    views.runs([RUN | {"id": ID}], "runs")
    assert f"{ID} " in (out := capsys.readouterr().out) and "test 92.0 +- 0.5 %" in out


def test_an_evaluation_is_shown_as_it_was_printed(capsys) -> None:
    run = {"id": ID, "stage": "evaluate", "status": "completed", "results": [row(None, query=15)], "metric": row(None)}
    views.evaluation(run)
    printed = capsys.readouterr().out
    assert "5-way 1-shot 15-query on 1000 episodes of test classes" in printed
    views.lineage([run])
    assert printed in capsys.readouterr().out


def test_the_picture_of_the_first_fits_is_named(capsys, tmp_path) -> None:
    result = row(None, name="test/mse", normalisation="none", **{k: v for k, v in REGRESSION.items() if k != "name"})
    run = {"id": ID, "stage": "evaluate", "results": [result], "folder": str(tmp_path)}
    views.evaluation(run)
    assert "picture" not in capsys.readouterr().out
    picture = tmp_path / "plots" / "fits.png"
    picture.parent.mkdir()
    picture.touch()
    views.evaluation(run)
    assert f"picture of the first fits: {picture}\n" in capsys.readouterr().out
