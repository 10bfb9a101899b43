"""Folders for timm: stock timm, in a process that cannot import fdlab, gives fdlab's logits, tokens and pixels."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from sklearn.datasets import load_sample_images

from fdlab.checkpoints.open import open_model
from fdlab.data.files import Files
from fdlab.data.images import ImageSource
from fdlab.errors import FdlabError
from fdlab.study.exports import timm_folder
from fdlab.study.exports.export import export
from fdlab.study.exports.subject import Preprocessing
from fdlab.study.exports.timm_classes import forms
from tests.study.exports.making import DESIGNS, encoder, tuned, tuned_on

# What a fine-tuning can be -> whether a class of timm is told so.
HEADS = {
    ("standardise", True): set(DESIGNS) - {"swin"},  # a Swin of our own has another eps than timm's
    ("batchnorm", True): {"vit", "beit, shared"},
    ("none", True): {"vit", "relative, shared"},
    ("layernorm", False): {"vit", "vit with layer scale", "relative, shared", "beit, shared", "beit, a block"},
    ("standardise", False): {"vit", "vit without class token"},
    ("layernorm", True): {"vit", "vit without class token", "vit with layer scale"},
}
CHILD = """
import json, sys
import timm, torch
from PIL import Image
from safetensors.torch import load_file, save_file
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] == "fdlab":
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
root = sys.argv[1]
given, said, prepared = load_file(f"{root}/given.safetensors"), {}, {}
for folder in json.load(open(f"{root}/folders.json")):
    model = timm.create_model(f"local-dir:{root}/{folder}", pretrained=True).eval()
    with torch.no_grad():
        images = given[folder]
        said[folder] = model(images) if model.num_classes else model.forward_features(images)
    settings = timm.data.resolve_data_config({}, model=model)
    assert model.num_classes == 0 or model.pretrained_cfg["label_names"] == ["ant", "bee", "cat"], folder
    pixels = timm.data.create_transform(**settings)(Image.open(f"{root}/photo.png").convert("RGB"))
    std = torch.tensor(settings["std"])[:, None, None]
    prepared[folder] = (pixels * std + torch.tensor(settings["mean"])[:, None, None]) * 255
save_file({key: value.contiguous() for key, value in said.items()}, f"{root}/said.safetensors")
save_file(prepared, f"{root}/prepared.safetensors")
assert "fdlab" not in sys.modules
"""


def test_stock_timm_gives_the_same_logits_tokens_and_pixels(tmp_path: Path) -> None:
    given, wanted = {}, {}
    for (norm, final), kinds in HEADS.items():
        for kind in sorted(kinds):
            subject = tuned(kind, norm, final)
            name = f"{kind} {norm} {final}".replace(" ", "-").replace(",", "")
            folder = tmp_path / name
            folder.mkdir()
            written = timm_folder.write(subject, folder)
            assert written.difference is not None
            assert written.difference < 1e-6, name
            images = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(5))
            given[name], wanted[name] = subject.encoder.normalise(images), subject.expected(images)
    for kind in set(DESIGNS) - {"swin"}:
        made = encoder(kind)
        export(made, out=tmp_path / f"encoder {kind}", to="timm")
        images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
        given[f"encoder {kind}"], wanted[f"encoder {kind}"] = (
            made.normalise(images),
            made.tokens(made.normalise(images)).detach(),
        )

    photo = load_sample_images().images[0]  # 427 x 640: neither side a multiple of anything
    Image.fromarray(photo).save(tmp_path / "photo.png")
    save_file({key: value.detach() for key, value in given.items()}, tmp_path / "given.safetensors")
    (tmp_path / "folders.json").write_text(json.dumps(list(given)))
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=True, timeout=300)

    said, prepared = load_file(tmp_path / "said.safetensors"), load_file(tmp_path / "prepared.safetensors")
    ours = ImageSource(Files([tmp_path / "photo.png"]), "photo").stack([0], 16)[0][0] * 255
    for name, outputs in wanted.items():
        worst = float((said[name] - outputs).abs().max() / outputs.abs().max())
        assert worst < 1e-5, (name, worst)
        assert float((prepared[name] - ours).abs().max()) < 1.5, name  # of 255: Pillow and torch round apart


@pytest.mark.parametrize("size", [16, 24, 32, 96, 224, 384, 518])
@pytest.mark.parametrize("direct", [False, True])
def test_timm_resizes_to_the_same_short_side(size: int, direct: bool) -> None:
    short = size if direct else round(size * 256 / 224)
    done = Preprocessing((size, size), short, (0.5,) * 3, (0.5,) * 3, True)
    assert math.floor(size / json.loads(json.dumps(done.crop_share))) == short


@pytest.mark.parametrize("size", [96, 224, 384])
@pytest.mark.parametrize("direct", [False, True])
def test_timm_prepares_a_photograph_as_fdlab_does(size: int, direct: bool, tmp_path: Path) -> None:
    import timm

    short = size if direct else round(size * 256 / 224)
    done = Preprocessing((size, size), short, (0.0,) * 3, (1.0,) * 3, True)
    prepare = timm.data.create_transform(
        (3, size, size), crop_pct=done.crop_share, interpolation=done.interpolation, mean=done.mean, std=done.std
    )
    for number, photo in enumerate(load_sample_images().images):
        for turned in (Image.fromarray(photo), Image.fromarray(photo[:, :501]).transpose(Image.Transpose.ROTATE_90)):
            turned.save(tmp_path / f"{number}.png")
            ours = ImageSource(Files([tmp_path / f"{number}.png"]), "photo").stack([0], size, direct=direct)[0][0]
            assert float((prepare(turned) - ours).abs().max()) * 255 < 1.5


@pytest.mark.parametrize(
    ("name", "norm", "final"),
    [
        ("deit_distilled", "standardise", True),  # two tokens before the patches
        ("dinov2_giant_reg4", "batchnorm", True),  # registers and a gated MLP
        ("eva02_pretrained", "layernorm", True),  # rotary positions
        ("clip_openai", "layernorm", False),  # a norm before the blocks, eps 1e-5, quick GELU
        ("hf_siglip_full", "standardise", True),  # it pools by attention
    ],
)
def test_a_head_on_a_published_architecture(shared, tmp_path: Path, name: str, norm: str, final: bool) -> None:
    folder = shared(f"fixtures/{name}")
    meta = json.loads((folder / "meta.json").read_text())
    made = open_model(f"{folder if meta['open_folder'] else folder / meta['open_file']}", **meta["open_with"])
    written = timm_folder.write(tuned_on(made, norm, final), tmp_path)
    assert written.difference is not None
    assert written.difference < 1e-5
    said = any("it was trained with 1e-06" in note for note in written.notes)
    assert said == (made.info.norm_eps == 1e-5 and norm == "layernorm")


def test_the_outputs_of_an_encoder_alone_are_means_of_patches(tmp_path: Path) -> None:
    import timm

    made = encoder("vit")
    model = timm.create_model(f"local-dir:{export(made, out=tmp_path / 'out').folder}", pretrained=True).eval()
    images = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        assert torch.allclose(model(images), made.tokens(images)[:, 1:].mean(1), atol=1e-5)


def test_a_swin_of_the_authors_keeps_its_norm_before_the_mean(shared, tmp_path: Path) -> None:
    made = open_model(shared("fixtures/swin_v1_classifier/swin_tiny_patch4_window7_224.pth"))
    subject = tuned_on(made, "standardise", True)
    assert timm_folder.write(subject, tmp_path).difference < 1e-6
    assert json.loads((tmp_path / "config.json").read_text())["pretrained_cfg"]["classifier"] == "head.fc"


@pytest.mark.parametrize(("kind", "norm", "final"), [("beit, shared", "layernorm", True), ("swin", "none", False)])
def test_what_no_class_of_timm_computes_is_refused_in_words(tmp_path: Path, kind: str, norm: str, final: bool) -> None:
    with pytest.raises(FdlabError, match="timm has no class") as caught:
        timm_folder.write(tuned(kind, norm, final), tmp_path)
    assert caught.value.code == 2
    assert "norm" in caught.value.why
    assert "--to torch" in caught.value.fix


def test_the_bias_of_the_keys_changes_nothing_and_is_left_out() -> None:
    subject = tuned("vit", "layernorm", True)
    _, state = next(forms(subject))
    bias = subject.encoder.module.state_dict()["blocks.0.attn.qkv.bias"]
    assert torch.equal(state["blocks.0.attn.q_bias"], bias[:24])
    assert torch.equal(state["blocks.0.attn.v_bias"], bias[48:])
    assert float(bias[24:48].abs().max()) > 0.1
    assert not any("k_bias" in key for key in state)


def test_another_eps_is_said_or_refused(shared, tmp_path: Path) -> None:
    made = open_model(shared("fixtures/hf_vit"))
    done = export(made, out=tmp_path / "out")
    assert "eps 1e-06; the model was made with 1e-12" in done.written.notes[0]
    assert done.written.notes[0] in (tmp_path / "out" / "README.md").read_text()
    for norm in (m for m in made.module.modules() if isinstance(m, torch.nn.LayerNorm)):
        norm.eps = 0.1  # the module is no longer what its call makes
    with pytest.raises(FdlabError, match="timm has no class") as caught:
        export(made, out=tmp_path / "other")
    assert "differ by" in caught.value.why
    assert not (tmp_path / "other").exists()
