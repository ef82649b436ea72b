import pytest

from metalearn_cli.core.claims import Expectation, Tier, check_tier, parse_tiers
from metalearn_cli.core.errors import ConfigError

ONE = {
    "learner": "protonet",
    "normalisation": "none",
    "metric": "accuracy",
    "value": 98.8,
    "tolerance": 1,
    "source": "Snell et al. 2017, table 1",
}
TIERS = {"smoke": {"settings": ["steps=2"], "minutes": 1}, "short": {"minutes": 9, "expect": [ONE]}}


def test_what_a_tier_does_not_name_is_empty():
    tiers = parse_tiers(TIERS)
    assert tiers == {
        "smoke": Tier(["steps=2"], 1, []),
        "short": Tier([], 9, [Expectation(**ONE, reruns=None)]),
    }


@pytest.mark.parametrize(
    ("tiers", "key", "told"),
    [
        (3, "tiers", "must be a group of smoke, short, full, got 3"),
        ({"long": {}}, "tiers.long", "no such tier; there are smoke, short, full"),
        ({"short": 3}, "tiers.short", "must be a group of settings, minutes and expect, got 3"),
        ({"short": {}}, "tiers.short.minutes", "is missing"),
        ({"short": {"minutes": 0}}, "tiers.short.minutes", "must be a number > 0, got 0"),
        ({"short": {"minutes": 1, "steps": 2}}, "tiers.short.steps", "no such setting"),
        ({"short": {"minutes": 1, "settings": ["steps=2"]}}, "tiers.short.settings", "must be empty"),
        ({"full": {"minutes": 1, "settings": "steps=2"}}, "tiers.full.settings", "must be a list of text"),
        ({"full": {"minutes": 1, "settings": ["steps 2"]}}, "tiers.full.settings", "as in steps=2, got 'steps 2'"),
        ({"full": {"minutes": 1, "settings": ["tier=smoke"]}}, "tiers.full.settings", "cannot choose another"),
        ({"full": {"minutes": 1, "expect": ONE}}, "tiers.full.expect", "must be a list of expectations, got"),
        ({"smoke": {"minutes": 1, "expect": [ONE]}}, "tiers.smoke.expect", "has nothing to meet"),
        ({"full": {"minutes": 1, "expect": [98.8]}}, "tiers.full.expect.0", "must be a group with learner"),
        ({"full": {"minutes": 1, "expect": [ONE, ONE | {"tolerance": -1}]}}, "tiers.full.expect.1.tolerance", ">= 0"),
        ({"full": {"minutes": 1, "expect": [ONE | {"metric": "f1"}]}}, "tiers.full.expect.0.metric", "accuracy, mse"),
    ],
)
def test_each_fault_has_its_key_and_a_sentence(tiers, key, told):
    with pytest.raises(ConfigError) as refused:
        parse_tiers(tiers)
    (problem,) = refused.value.problems
    assert problem.key == key
    assert told in problem.message


@pytest.mark.parametrize(
    ("name", "tiers", "told"),
    [
        ("tiny", {}, "must be one of smoke, short, full, got 'tiny'"),
        (None, {}, "must be one of smoke, short, full, got None"),
        ("tiny", TIERS, "there is no tier tiny; the experiment has only smoke, short"),
        ("full", TIERS, "there is no tier full; the experiment has only smoke, short"),
        ("smoke", {}, "there is no tier smoke; only an experiment has it: experiment=NAME"),
    ],
)
def test_a_tier_that_does_not_exist_is_refused(name, tiers, told):
    with pytest.raises(ConfigError, match=told):
        check_tier(name, parse_tiers(tiers))
    check_tier("short", parse_tiers(tiers))
