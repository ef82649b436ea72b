"""Maps of the classes that a learner has learnt."""

from __future__ import annotations

import pytest
import torch
from sources import text
from trainings import meta_trained

from metalearn_cli.core.errors import UserError
from metalearn_cli.core.learning import principal
from metalearn_cli.deploy.deployed import Deployed, Support, deployed, predicted, reader_of
from metalearn_cli.deploy.inputs import Inputs
from metalearn_cli.deploy.mapping import mapped
from metalearn_cli.deploy.trained import of_checkpoint
from metalearn_cli.records.checkpoint import open_checkpoint


@pytest.fixture(scope="module")
def learner(tmp_path_factory: pytest.TempPathFactory) -> Deployed:
    trained = of_checkpoint(open_checkpoint(meta_trained("text", tmp_path_factory.mktemp("texts"))))
    x = reader_of(trained, {}).of_texts([text.sentence(k, i) for k in range(2) for i in range(3)])
    return deployed(trained, Support(tuple("abcdef"), ("food",) * 3 + ("music",) * 3, x))


def test_examples_and_files_lie_where_their_features_are(learner):
    x = reader_of(learner.trained, {}).of_texts([text.sentence(k, 7) for k in range(2)])
    found = mapped(learner, Inputs(("one", "two"), x), "pca")
    points = found["points"]
    assert [point["item"] for point in points] == [*"abcdef", "one", "two"]
    assert [point["new"] for point in points] == [False] * 6 + [True] * 2
    answers = [answer["class"] for answer in predicted(learner, Inputs(("one", "two"), x))]
    assert [point["class"] for point in points] == ["food"] * 3 + ["music"] * 3 + answers
    z = torch.cat([learner.enrolled.embedded, learner.enrolled.encoder(x)]).double()
    places, variance = principal(z)
    assert torch.allclose(torch.tensor([[p["x"], p["y"]] for p in points], dtype=torch.float64), places)
    assert found["variance"] == pytest.approx(variance.tolist())


def test_a_map_by_neighbours_keeps_classes_together(learner):
    far = torch.cat([torch.zeros(9, 8), torch.full((9, 8), 5.0)]) + torch.rand(18, 8)
    support = Support(tuple(map(str, range(18))), ("food",) * 9 + ("music",) * 9, far, embedded=True)
    found = mapped(deployed(learner.trained, support), None, "tsne")
    assert found["variance"] is None
    places = torch.tensor([[point["x"], point["y"]] for point in found["points"]])
    distances = torch.cdist(places, places)
    assert distances[:9, :9].max() < distances[:9, 9:].min()
    assert mapped(deployed(learner.trained, support), None, "tsne") == found


def test_few_items_make_no_map(learner):
    with pytest.raises(UserError, match="a map needs 4 items or more, and there are 2"):
        mapped(deployed(learner.trained, learner.support.of([0, 3])), None, "pca")
