from __future__ import annotations

import pytest
import torch

from metalearn_cli.models.common.decoders import ConvDecoder, make_decoder


@pytest.mark.parametrize("decoder", ["auto", "conv", "dense"])
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 17), (2, 7, 3), (1, 1, 64)])
def test_draws_images_of_every_size(shape: tuple[int, ...], decoder: str) -> None:
    network = make_decoder(5, shape, 8, decoder)
    assert network(torch.randn(2, 5)).shape == (2, *shape)
    assert isinstance(network, ConvDecoder) is (decoder != "dense")


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 33, 17), (2, 7, 3), (1, 1, 64)])
def test_one_that_is_fine_has_two_more_convolutions(shape: tuple[int, ...]) -> None:
    coarse, fine = (make_decoder(5, shape, 8, fine=fine) for fine in (False, True))
    assert fine(torch.randn(2, 5)).shape == (2, *shape)
    assert len(fine.convs) == len(coarse.convs) + 2


def test_draws_vectors() -> None:
    assert make_decoder(5, (7,), 8)(torch.randn(2, 5)).shape == (2, 7)


def test_refuses() -> None:
    with pytest.raises(ValueError, match=r"^decoder conv draws images \[C, H, W\], but items have the shape \(7,\)"):
        make_decoder(5, (7,), 8, "conv")
