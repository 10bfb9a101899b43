"""``fdlab explore``: what is on the page, what does not fit, what is refused."""

from __future__ import annotations

import base64
import json
import re
import sys
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch

sys.path.insert(0, str(Path(__file__).parent))  # importlib mode adds no folder by itself

from explored import MODELS

import fdlab
from fdlab.errors import FdlabError
from fdlab.study.explore import explore


def facts_in(path: Path) -> dict[str, Any]:
    text = path.read_text(encoding="utf-8")
    return json.loads(re.search(r'id="facts">(.*?)</script>', text, re.DOTALL)[1])  # type: ignore[index]


def chunk_in(path: Path, key: str) -> bytes:
    text = path.read_text(encoding="utf-8")
    packed = base64.b64decode(re.search(rf'id="{key}">(.*?)</script>', text)[1])  # type: ignore[index]
    return zlib.decompress(packed, -15)


def test_one_page_holds_models_of_every_kind(tmp_path: Path) -> None:
    models = {name: make() for name, make in MODELS.items()}
    made = explore(models, "photos", tmp_path, images=2, quiet=True)
    facts = facts_in(made.path)
    assert [model["label"] for model in facts["models"]] == list(MODELS)
    kinds = {key: one["kind"] for key, one in facts["chunks"].items()}
    assert len(kinds) == 2 * (3 + 2 + 4)
    assert {kind for key, kind in kinds.items() if key.startswith(("c-0", "c-1"))} == {"factors"}
    assert {kind for key, kind in kinds.items() if key.startswith("c-2")} == {"logs"}
    assert [block["bias"] for block in facts["models"][1]["blocks"]] == [0, 1]
    assert [block["windows"]["shift"] for block in facts["models"][2]["blocks"][:2]] == [[0, 0], [3, 3]]
    own = fdlab.measure("attention", {"plain": models["plain"]}, data="photos", images=2, random_control=False)
    rows = own[(own["metric"] == "distance") & own["head"].notna()].set_index(["block", "head"])["value"]
    shown = np.mean([[facts["chunks"][f"c-0-{i}-{b}"]["numbers"]["distance"] for b in range(3)] for i in range(2)], 0)
    assert shown.ravel() == pytest.approx(rows.sort_index().to_numpy(), rel=1e-4)
    assert made.errors["map_most"] <= 0.1 and made.errors["distance"] <= 0.002
    assert "iframe" in made._repr_html_()


def test_what_does_not_fit_is_left_out_and_said(tmp_path: Path) -> None:
    deep = timm.models.vision_transformer.VisionTransformer(
        img_size=96, patch_size=8, embed_dim=96, depth=12, num_heads=3, num_classes=0
    )
    whole = explore({"deep": deep.eval()}, "photos", tmp_path / "whole.html", images=2, quiet=True)
    size = whole.path.stat().st_size / 1e6
    assert size < 10 and not whole.notes
    smaller = explore({"deep": deep}, "photos", tmp_path / "small.html", images=2, max_mb=0.7 * size, quiet=True)
    assert smaller.path.stat().st_size / 1e6 <= 0.7 * size
    blocks = [block["number"] for block in facts_in(smaller.path)["models"][0]["blocks"]]
    assert blocks[0] == 1 and blocks[-1] == 12 and 3 <= len(blocks) < 12
    assert f"{len(blocks)} of 12 blocks of deep are stored" in smaller.notes[0]
    few = explore({"deep": deep}, "photos", tmp_path / "few.html", images=6, max_mb=0.35, quiet=True)
    assert few.path.stat().st_size <= 0.35e6
    assert 1 <= len(facts_in(few.path)["images"]) < 6 and "of 6 images fit into 0.35 MB" in few.notes[-1]
    with pytest.raises(FdlabError, match=r"One image needs .* MB") as refused:
        explore({"deep": deep}, "photos", tmp_path / "none.html", images=1, max_mb=0.11, quiet=True)
    assert "--max-mb" in str(refused.value)


def test_blocks_are_counted_from_one(tmp_path: Path) -> None:
    made = explore({"plain": MODELS["plain"]()}, "photos", tmp_path, images=1, blocks=[3], quiet=True)
    assert [block["number"] for block in facts_in(made.path)["models"][0]["blocks"]] == [3]
    with pytest.raises(FdlabError, match="no block 4"):
        explore({"plain": MODELS["plain"]()}, "photos", tmp_path, images=1, blocks=[4], quiet=True)


def test_rows_of_a_biased_model_are_its_own(tmp_path: Path) -> None:
    encoder = MODELS["paper's student"]()
    made = explore({"x": encoder}, "photos", tmp_path, images=1, quiet=True, exact=True)
    steps = facts_in(made.path)["models"][0]["blocks"][0]["steps"]
    raw = np.frombuffer(chunk_in(made.path, "b-0-0"), np.uint8)
    half = len(raw) // 2
    whole = raw[:half].astype(np.int32) | (raw[half:].astype(np.int8).astype(np.int32) << 8)
    table = whole[: 2 * 15 * 15].reshape(2, 15, 15) * np.array(steps)[:, None, None]
    bias = encoder.module.rel_pos_bias.get_bias() if hasattr(encoder.module.rel_pos_bias, "get_bias") else None
    bias = encoder.module.rel_pos_bias() if bias is None else bias
    own = bias.detach().reshape(2, 65, 65)[:, 1:, 1:]
    assert table[:, 7, 7] == pytest.approx(own[:, 0, 0].numpy(), abs=1e-3)  # a patch to itself
    assert table[:, 7, 8] == pytest.approx(own[:, 0, 1].numpy(), abs=1e-3)  # to the one on its right
    assert table[:, 8, 7] == pytest.approx(own[:, 0, 8].numpy(), abs=1e-3)  # to the one below it


@pytest.mark.parametrize(
    ("models", "words"),
    [
        ({}, "0 models are asked for"),
        (dict.fromkeys("abcde", "random:vit_tiny_patch16_224"), "5 models are asked for"),
        ({"net": "random:resnet18"}, "has no attention"),
        ({"x": "nowhere.pt"}, "nowhere.pt"),
    ],
)
def test_refusals(tmp_path: Path, models: dict[str, str], words: str) -> None:
    with pytest.raises(FdlabError, match=words):
        explore(models, "photos", tmp_path, images=1, quiet=True)
    assert not list(tmp_path.iterdir())


def test_labels_cannot_leave_their_place(tmp_path: Path) -> None:
    label = "</script><img src=x onerror=alert(1)>"
    made = explore({label: MODELS["plain"]()}, "photos", tmp_path, images=1, quiet=True, command="fdlab <b>x</b>")
    text = made.path.read_text(encoding="utf-8")
    assert "<img src=x" not in text and "<b>x</b>" not in text
    assert facts_in(made.path)["models"][0]["label"] == label


def test_unreadable_images_are_left_out_and_counted(tmp_path: Path) -> None:
    from PIL import Image

    for number in range(3):
        Image.new("RGB", (64, 64), (50 * number, 80, 120)).save(tmp_path / f"{number}.png")
    (tmp_path / "1.png").write_bytes((tmp_path / "1.png").read_bytes()[:60])
    made = explore({"x": MODELS["plain"]()}, str(tmp_path), tmp_path / "out.html", images=3, quiet=True)
    assert len(facts_in(made.path)["images"]) == 2
    assert made.notes == ["2 of 3 images can be read."]


def test_the_module_and_the_random_state_are_left_as_they_were(tmp_path: Path) -> None:
    encoder = MODELS["plain"]()
    before = [p.clone() for p in encoder.module.parameters()]
    state = torch.get_rng_state()
    explore({"x": encoder}, "photos", tmp_path, images=1, quiet=True)
    assert torch.equal(torch.get_rng_state(), state)
    assert all(torch.equal(a, b) for a, b in zip(before, encoder.module.parameters(), strict=True))


def test_a_comparison_links_to_it_or_says_why_not(tmp_path: Path) -> None:
    from fdlab.study.comparison import compare

    models = ["a=random:test_vit", "b=random:test_vit2"]
    options: dict[str, Any] = {"probes": ("attention",), "images": 4, "control": False, "quiet": True, "explorer": True}
    result = compare(models, "photos", tmp_path / "both", **options)
    assert 'href="explore.html"' in result["page"].read_text(encoding="utf-8")
    assert len(facts_in(tmp_path / "both" / "explore.html")["models"]) == 2
