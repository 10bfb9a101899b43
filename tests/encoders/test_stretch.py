"""Other weights, the same function; and what that does to measures of flatness."""

from __future__ import annotations

from typing import Any

import pytest
import torch

import fdlab
from fdlab.encoders.encoder import Encoder
from fdlab.encoders.stretch import REPARAMETRISATIONS, reparametrised
from fdlab.errors import FdlabError
from fdlab.records.metrics.names import MAPS


def small(name: str = "random:vit_tiny_patch16_224") -> Encoder:
    return fdlab.open_model(name, image_size=32)


@pytest.mark.parametrize("name", REPARAMETRISATIONS)
def test_the_function_stays_and_the_weights_do_not(name: str) -> None:
    encoder = small()
    encoder.module.double()
    before = {key: value.clone() for key, value in encoder.module.state_dict().items()}
    copied = reparametrised(encoder, name)
    images = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.no_grad():
        first, second = (model.module.forward_features(images) for model in (encoder, copied))
    assert float((first - second).abs().max() / first.abs().max()) < 1e-12
    own = copied.module.state_dict()
    assert any(not torch.equal(own[key], value) for key, value in before.items())
    assert all(torch.equal(encoder.module.state_dict()[key], value) for key, value in before.items())
    assert copied.info.sha256 != encoder.info.sha256


def test_powers_of_two_keep_every_bit() -> None:
    encoder = small()
    images = encoder.normalise(torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0)))
    for name in ("queries_keys", "values_projection", "norms"):
        assert torch.equal(encoder.tokens(images), reparametrised(encoder, name).tokens(images)), name


def test_the_table_names_every_map() -> None:
    assert list(MAPS) == list(REPARAMETRISATIONS)


def test_a_model_without_such_weights_is_refused(monkeypatch: Any) -> None:
    encoder = small()
    monkeypatch.setattr("fdlab.encoders.stretch.attention_parts", lambda _attention: None)
    with pytest.raises(FdlabError, match="has no weights for the map queries_keys"):
        reparametrised(encoder, "queries_keys")
