from __future__ import annotations

import pytest

from metalearn_cli.records.names import choices, name_of, recorded_name


@pytest.mark.parametrize(
    ("target", "settings", "name"),
    [
        ("maml.Maml", {"first_order": False, "inner_lr": 0.1}, "maml"),
        ("maml.Maml", {"first_order": True, "inner_lr": 0.1}, "fomaml"),
        ("anil.Anil", {"adapts": "body", "inner_lr": 0.1, "inner_steps": 5}, "boil"),  # the numbers are those of anil
        ("nearest_centroid.NearestCentroid", {}, "nearest_centroid"),  # as the floor has it
        ("nearest_centroid.NearestCentroid", {"transform": "cl2n"}, "simple_shot"),
        ("mine.Mine", {}, "Mine"),
    ],
)
def test_a_learner_is_called_as_it_is_typed(target, settings, name):
    assert name_of("algorithm", {"_target_": f"metalearn_cli.algorithms.{target}", **settings}) == name


@pytest.mark.parametrize(
    ("setting", "target", "name"),
    [
        ("meta-train.optimizer", "torch.optim.Adam", "adam"),
        ("backbone.parts.image", "metalearn_cli.backbones.conv4.Conv4", "conv4"),
        ("also.more", "metalearn_cli.data.glyphs.glyphs", "glyphs"),
        ("nothing", "metalearn_cli.data.table.Table", "Table"),
        ("/etc", "metalearn_cli.data.table.Table", "Table"),
    ],
)
def test_the_group_is_found_in_the_setting(setting, target, name):
    assert name_of(setting, {"_target_": target}) == name


def test_every_learner_is_called_by_its_config():
    assert {name: name_of("algorithm", spec) for name, spec in choices("algorithm").items()} == {
        name: name for name in choices("algorithm")
    }


@pytest.mark.parametrize("learner", ["Maml", "maml", "NearestCentroid", "Mine"])
def test_a_record_of_an_earlier_version_names_the_class(learner):
    assert recorded_name(learner) == {"Maml": "maml", "NearestCentroid": "nearest_centroid"}.get(learner, learner)


def test_a_damaged_config_of_a_plug_in_is_left_out(tmp_path, monkeypatch):
    (tmp_path / "method").mkdir()
    (tmp_path / "method" / "broken.yaml").write_text("a: [")
    (tmp_path / "method" / "mine.yaml").write_text("_target_: plugin.methods.mine.Mine\n")
    monkeypatch.setattr("metalearn_cli.core.plugins.config_dirs", lambda: [tmp_path])
    choices.cache_clear()
    try:
        assert name_of("method", {"_target_": "plugin.methods.mine.Mine"}) == "mine"
        assert "finetune" in choices("method") and "broken" not in choices("method")
    finally:
        choices.cache_clear()
