"""Objects of transformers: opened as their files are where both give one answer, else read where they lie."""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn import functional

import fdlab
from fdlab.encoders.hf_objects import colours_of, processor_size
from fdlab.errors import FdlabError


def images_of(info: Any, count: int = 2) -> Tensor:
    return torch.randn(count, 3, info.image_size, info.image_size, generator=torch.Generator().manual_seed(1))


def close(one: Tensor, other: Tensor, bound: float = 1e-5) -> bool:
    one, other = one.detach(), other.detach()
    return one.shape == other.shape and float((one - other).abs().max()) <= bound * max(1.0, float(other.abs().max()))


# --- without the library: a ViT written by hand over the tensors of a folder that it saved ------------------


class HandWritten(nn.Module):
    """The function of ``ViTModel`` under its own keys; ``heads`` is in no tensor."""

    heads: int | None = None

    def __init__(self, folder: Any) -> None:
        super().__init__()
        self.values = nn.ParameterDict()
        self.names = {}
        for number, (key, tensor) in enumerate(load_file(folder / "model.safetensors").items()):
            self.values[f"t{number}"] = nn.Parameter(tensor)
            self.names[key] = f"t{number}"
        words = json.loads((folder / "config.json").read_text())
        self.config = SimpleNamespace(**words, _name_or_path=str(folder), to_dict=lambda: dict(words))

    def state_dict(self, *_: Any, **__: Any) -> dict[str, Tensor]:  # type: ignore[override]
        return {key: self.values[name].detach() for key, name in self.names.items()}

    def forward(self, pixel_values: Tensor) -> Any:
        get: Callable[[str], Tensor] = lambda key: self.values[self.names[key]]  # noqa: E731
        config, eps = self.config, self.config.layer_norm_eps
        heads = self.heads or config.num_attention_heads

        def linear(x: Tensor, name: str) -> Tensor:
            return functional.linear(x, get(f"{name}.weight"), get(f"{name}.bias"))

        def norm(x: Tensor, name: str) -> Tensor:
            return functional.layer_norm(x, x.shape[-1:], get(f"{name}.weight"), get(f"{name}.bias"), eps)

        patch = "embeddings.patch_embeddings.projection"
        x = functional.conv2d(pixel_values, get(f"{patch}.weight"), get(f"{patch}.bias"), stride=config.patch_size)
        x = x.flatten(2).transpose(1, 2)
        x = torch.cat([get("embeddings.cls_token").expand(len(x), -1, -1), x], 1)
        x = x + get("embeddings.position_embeddings")
        for block in range(config.num_hidden_layers):
            name = f"encoder.layer.{block}"
            inner = norm(x, f"{name}.layernorm_before")
            parts = [linear(inner, f"{name}.attention.attention.{part}") for part in ("query", "key", "value")]
            q, k, v = (part.unflatten(2, (heads, -1)).transpose(1, 2) for part in parts)
            mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
            x = x + linear(mixed, f"{name}.attention.output.dense")
            inner = functional.gelu(linear(norm(x, f"{name}.layernorm_after"), f"{name}.intermediate.dense"))
            x = x + linear(inner, f"{name}.output.dense")
        self.last = norm(x, "layernorm")
        return Output(last_hidden_state=self.last)


class Output(dict):
    """As ModelOutput: a dict with attributes."""

    def __getattr__(self, name: str) -> Any:
        if name not in self:
            raise AttributeError(name)
        return self[name]


@pytest.fixture
def hand_written(shared: Any, monkeypatch: pytest.MonkeyPatch) -> HandWritten:
    library = ModuleType("transformers")
    library.PreTrainedModel = HandWritten  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", library)
    return HandWritten(shared("fixtures/hf_vit"))


def test_an_object_opens_as_its_folder_does(hand_written, shared) -> None:
    folder = fdlab.open_model(shared("fixtures/hf_vit"))
    encoder = fdlab.open_model(hand_written)
    images = images_of(encoder.info)
    assert encoder.info.family == "hf_vit" and encoder.info.container.startswith("transformers object")
    assert torch.equal(encoder.tokens(images), folder.tokens(images)) and encoder.info.sha256 == folder.info.sha256
    hand_written(images)
    assert close(encoder.tokens(images), hand_written.last)
    smaller = fdlab.open_model(hand_written, image_size=32)
    assert smaller.info.sha256 == fdlab.open_model(shared("fixtures/hf_vit"), image_size=32).info.sha256


def test_the_encoder_is_a_copy(hand_written) -> None:
    encoder = fdlab.open_model(hand_written)
    before = {key: value.clone() for key, value in hand_written.state_dict().items()}
    with torch.no_grad():
        for parameter in encoder.module.parameters():
            parameter.add_(1)
    assert all(torch.equal(value, before[key]) for key, value in hand_written.state_dict().items())


@pytest.mark.parametrize("what", ["heads", "hook"])
def test_an_object_that_computes_something_else_is_read_where_it_lies(hand_written, what) -> None:
    """Its tensors and its config are those of the file; what its class does with them is not."""
    if what == "heads":
        hand_written.heads = 4
    else:
        hand_written.register_forward_hook(lambda *given: Output(last_hidden_state=given[2].last_hidden_state * 2))
    encoder = fdlab.open_model(hand_written)
    assert encoder.module is hand_written and encoder.info.family == "module"
    assert any("not opened as its files are, since its tokens are others" in text for text in encoder.info.assumed)
    images = images_of(encoder.info)
    assert close(encoder.tokens(images), hand_written(images).last_hidden_state)


def test_an_object_is_left_as_it_was(hand_written) -> None:
    hand_written.train()
    torch.manual_seed(3)
    state, config = torch.get_rng_state(), hand_written.config.to_dict()
    weights = copy.deepcopy(hand_written.state_dict())
    for open_ in (fdlab.open_model, fdlab.wrap):
        open_(hand_written)
    assert hand_written.training and torch.equal(state, torch.get_rng_state())
    assert hand_written.config.to_dict() == config and not hand_written._forward_hooks
    assert all(torch.equal(value, weights[key]) for key, value in hand_written.state_dict().items())


def test_colours_come_from_the_processor_beside_the_weights(hand_written, shared) -> None:
    words = json.loads((shared("fixtures/hf_vit") / "preprocessor_config.json").read_text())
    for encoder in (fdlab.open_model(hand_written), fdlab.wrap(hand_written)):
        assert encoder.info.mean == tuple(words["image_mean"]) and encoder.info.std == tuple(words["image_std"])
    hand_written.config._name_or_path = ""
    assert any("mean" in text for text in fdlab.open_model(hand_written).info.assumed)


@pytest.mark.parametrize("name", ["heads", "activation", "encoder"])
def test_what_a_module_decides_itself_is_refused(hand_written, name) -> None:
    with pytest.raises(FdlabError, match=f"decides on {name}") as caught:
        fdlab.open_model(hand_written, **{name: 2})
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("words", "side"),
    [
        ({"crop_size": {"height": 224, "width": 224}, "do_center_crop": True, "size": {"shortest_edge": 256}}, 224),
        ({"crop_size": 192, "size": 256}, 192),
        ({"crop_size": 192, "do_center_crop": False, "size": {"height": 256, "width": 256}}, 256),
        ({"size": {"shortest_edge": 288}}, 288),
        ({"size": {"height": 32, "width": 64}}, None),
        ({"size": True}, None),
        ({}, None),
    ],
)
def test_the_size_that_a_processor_makes(words, side) -> None:
    assert processor_size(words) == side


def test_the_colours_of_a_processor() -> None:
    assert colours_of({"image_mean": [0.5] * 3, "image_std": [0.25] * 3}) == ((0.5,) * 3, (0.25,) * 3)
    assert colours_of({"do_normalize": False, "image_mean": [0.5] * 3}) == (
        (0.0,) * 3,
        (1.0,) * 3,
    )
    assert colours_of({"image_mean": [0.5] * 3, "image_std": [0.0] * 3}) is None and colours_of({}) is None


# --- the library itself -------------------------------------------------------------------------------------

PLAIN = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 48}
VIT = {**PLAIN, "image_size": 32, "patch_size": 8}
SWIN = {"image_size": 32, "patch_size": 4, "embed_dim": 12, "depths": [1, 2], "num_heads": [1, 2], "window_size": 4}
TEXT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16, "vocab_size": 30}
TEXT |= {"bos_token_id": 1, "eos_token_id": 2}
TWO = {"vision_config": VIT, "text_config": TEXT}
MASKED = {**VIT, "decoder_hidden_size": 12, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 2}
OWN: dict[str, tuple[str, dict[str, Any], str]] = {  # class -> (config's class, its settings, family)
    "ViTModel": ("ViTConfig", VIT, "hf_vit"),
    "ViTForImageClassification": ("ViTConfig", VIT, "hf_vit"),
    "ViTMAEModel": ("ViTMAEConfig", VIT, "hf_vitmae"),
    "ViTMAEForPreTraining": ("ViTMAEConfig", {**MASKED, "decoder_intermediate_size": 12}, "hf_vitmae"),
    "ViTMSNModel": ("ViTMSNConfig", VIT, "hf_vit"),
    "DeiTModel": ("DeiTConfig", VIT, "hf_vit"),
    "DeiTForImageClassificationWithTeacher": ("DeiTConfig", VIT, "hf_vit"),
    "IJepaModel": ("IJepaConfig", VIT, "hf_vit"),
    "Dinov2Model": ("Dinov2Config", {**VIT, "use_swiglu_ffn": True}, "hf_dinov2"),
    "Dinov2Backbone": ("Dinov2Config", VIT, "hf_dinov2"),
    "Dinov2WithRegistersModel": ("Dinov2WithRegistersConfig", VIT, "hf_dinov2"),
    "DINOv3ViTModel": ("DINOv3ViTConfig", {**VIT, "num_register_tokens": 2}, "hf_dinov3_vit"),
    "BeitModel": ("BeitConfig", {**VIT, "use_relative_position_bias": True}, "hf_beit"),
    "BeitForImageClassification": ("BeitConfig", {**VIT, "use_shared_relative_position_bias": True}, "hf_beit"),
    "Data2VecVisionModel": ("Data2VecVisionConfig", {**VIT, "use_relative_position_bias": True}, "hf_beit"),
    "CLIPModel": ("CLIPConfig", TWO, "hf_clip_vision"),
    "CLIPVisionModel": ("CLIPVisionConfig", {**VIT, "hidden_act": "gelu"}, "hf_clip_vision"),
    "SiglipModel": ("SiglipConfig", TWO, "hf_siglip"),
    "SiglipVisionModel": ("SiglipVisionConfig", VIT, "hf_siglip"),
    "Siglip2VisionModel": ("Siglip2VisionConfig", {**PLAIN, "patch_size": 8, "num_patches": 16}, "hf_siglip2"),
    "Aimv2VisionModel": ("Aimv2VisionConfig", VIT, "hf_aimv2"),
    "SwinModel": ("SwinConfig", SWIN, "hf_swin"),
    "Swinv2Model": ("Swinv2Config", SWIN, "hf_swinv2"),
}
# What transformers itself gives is no reference: Swin's maps lack half of the blocks, Data2Vec's are None.
NO_MAPS = {"SwinModel", "Swinv2Model", "Data2VecVisionModel", "ViTMAEForPreTraining", "Dinov2Backbone"}


def made(name: str, config: str, settings: dict[str, Any]) -> nn.Module:
    """Trained as far as tests go: no tensor is where an initialiser leaves it."""
    transformers = pytest.importorskip("transformers", reason="transformers is not installed")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        module = getattr(transformers, name)(getattr(transformers, config)(**copy.deepcopy(settings)))
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.add_(0.05 * torch.randn_like(parameter))
    return module


def own_run(module: nn.Module, images: Tensor, **more: Any) -> Any:
    """The object as its library runs it, on all patches, in eval mode: written apart from fdlab's own way."""
    module.eval()
    module.set_attn_implementation("eager")  # type: ignore[operator]
    kind = module.config.model_type  # type: ignore[union-attr]
    with torch.no_grad():
        if kind == "vit_mae":
            part: Any = getattr(module, "vit", module)
            part.config.mask_ratio = 0.0
            return part(images, noise=torch.linspace(0, 1, 16).expand(len(images), -1), **more)
        if "siglip2" in kind:
            cut = images.reshape(len(images), 3, 4, 8, 4, 8).permute(0, 2, 4, 3, 5, 1).reshape(len(images), 16, -1)
            ones = torch.ones(len(images), 16, dtype=torch.int64)
            return module(cut, ones, torch.tensor([[4, 4]] * len(images)), **more)
        return (module.vision_model if hasattr(module, "text_model") else module)(images, **more)  # type: ignore[operator]


@pytest.mark.parametrize("name", OWN)
def test_objects_of_known_families_are_exact(name) -> None:
    config, settings, family = OWN[name]
    module = made(name, config, settings).train()
    encoder = fdlab.open_model(module)
    assert encoder.info.family == family and all(part.training for part in module.modules())
    live = fdlab.wrap(module)
    assert live.info.attention == "complete"
    images = images_of(encoder.info)
    maps = {way: each.attention(images, blocks=(0, 1)) for way, each in (("own", encoder), ("live", live))}
    given = own_run(module, images, output_attentions=True, output_hidden_states=True)
    hidden = given.get("last_hidden_state")
    final = family == "hf_clip_vision" or hidden is None  # these give what enters the final norm
    expected = given.hidden_states[-1] if hidden is None and "hidden_states" in given else hidden
    if expected is not None:
        assert close(encoder.tokens(images, norm=not final), expected)
        if name != "Dinov2Backbone":  # where it lies, it shows what enters its final norm alone
            assert close(live.tokens(images), encoder.tokens(images) if hidden is None else expected)
    if name not in NO_MAPS:
        assert len(given.attentions) == 2
        for block, expected in enumerate(given.attentions):
            assert close(maps["own"][block], expected) and close(maps["live"][block], expected)
    if encoder.info.classes:
        assert close(encoder.logits(images), given.logits)


@pytest.mark.parametrize("way", ["eager", "sdpa"])
def test_maps_are_the_same_whichever_way_attention_is_computed(way) -> None:
    module = made("ViTModel", "ViTConfig", VIT)
    module.set_attn_implementation(way)  # type: ignore[operator]
    encoder = fdlab.wrap(module)
    images = images_of(encoder.info)
    maps = encoder.attention(images, blocks=(0, 1))
    expected = own_run(module, images, output_attentions=True).attentions
    assert all(close(maps[block], expected[block]) for block in (0, 1))


def test_the_untrained_control_is_the_classes_own_start() -> None:
    from fdlab.probes.measure import CONTROL

    module = made("Dinov2Model", "Dinov2Config", VIT)
    table = fdlab.measure("attention", {"mine": module}, "locality:1", images=2, random_control=True)
    assert set(table["model"]) == {"mine", CONTROL}
    fresh = fdlab.open_model(module).untrained
    assert fresh is not None
    one, same, other = fresh(1), fresh(1), fresh(2)
    drawn = "embeddings.patch_embeddings.projection.weight"
    assert torch.equal(one.state_dict()[drawn], same.state_dict()[drawn])
    assert not torch.equal(one.state_dict()[drawn], other.state_dict()[drawn])


NARROW = {"image_size": 64, "hidden_sizes": [8, 16, 24, 32]}
OTHERS = {  # class -> (settings, what is said of its attention)
    "ConvNextModel": ({**NARROW, "depths": [1, 1, 1, 1]}, "none: "),
    "PvtModel": ({**NARROW, "num_attention_heads": [1, 2, 3, 4], "depths": [1, 1, 1, 1]}, "refused: "),
    "VitDetModel": ({key: VIT[key] for key in VIT if key != "intermediate_size"}, "complete"),
}


@pytest.mark.parametrize("name", OTHERS)
def test_objects_of_other_families_are_read_where_they_lie(name) -> None:
    settings, attention = OTHERS[name]
    module = made(name, name.replace("Model", "Config"), settings)
    encoder = fdlab.open_model(module)
    assert encoder.module is module and encoder.info.attention.startswith(attention)


def test_a_size_that_nothing_states_is_asked_for() -> None:
    settings = {"embedding_size": 8, "hidden_sizes": [8, 12], "depths": [1, 1]}
    module = made("ResNetModel", "ResNetConfig", settings)
    with pytest.raises(FdlabError, match="runs at several image sizes") as caught:
        fdlab.open_model(module)
    assert "image_size=" in caught.value.fix
    assert fdlab.open_model(module, image_size=64).info.attention.startswith("none: ")
