"""Programs: torch alone runs the .pt2, ONNX Runtime the .onnx, for any number of images."""

from __future__ import annotations

import json
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from fdlab.errors import FdlabError
from fdlab.study.exports import onnx_file, torch_program
from fdlab.study.exports.export import export
from tests.study.exports.making import CLASSES, encoder, tuned

# One that timm cannot hold, a hierarchical one, and an encoder alone.
CASES = {"beit, shared": ("layernorm", True), "swin": ("none", True)}
CHILD = """
import json, sys, torch
from safetensors.torch import load_file, save_file
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("fdlab", "timm"):
            raise ImportError("blocked")
sys.meta_path.insert(0, Blocked())
given, said = load_file(f"{sys.argv[1]}/given.safetensors"), {}
for folder in json.load(open(f"{sys.argv[1]}/folders.json")):
    extra = {"preprocessing.json": ""}
    program = torch.export.load(f"{sys.argv[1]}/{folder}/model.pt2", extra_files=extra).module()
    assert json.loads(extra["preprocessing.json"]) == json.load(open(f"{sys.argv[1]}/{folder}/preprocessing.json"))
    images = given[folder]
    said[folder] = torch.cat([program(images[:1]), program(images[1:])]).detach()
save_file(said, f"{sys.argv[1]}/said.safetensors")
assert not {"fdlab", "timm"} & set(sys.modules)
"""


def test_a_program_takes_any_number_of_images(tmp_path: Path) -> None:
    subject = tuned("relative, shared", "layernorm", True)  # of two norms, which timm cannot hold
    assert torch_program.write(subject, tmp_path).difference < 1e-6
    program = torch.export.load(tmp_path / "model.pt2").module()
    images = torch.rand(7, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    for count in (1, 7):
        said, wanted = program(subject.encoder.normalise(images[:count])), subject.expected(images[:count])
        assert float((said - wanted).abs().max() / wanted.abs().max()) < 1e-5
    facts = json.loads((tmp_path / "preprocessing.json").read_text())
    assert facts["class_names"] == list(CLASSES)
    assert (facts["resize_short_side"], facts["centre_crop"]) == (18, [16, 16])


@pytest.mark.slow
def test_torch_alone_gives_the_same_logits_and_tokens(tmp_path: Path) -> None:
    given, wanted = {}, {}
    images = torch.rand(6, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    for kind, (norm, final) in CASES.items():
        subject, name = tuned(kind, norm, final), kind.replace(", ", "-")
        (tmp_path / name).mkdir()
        assert torch_program.write(subject, tmp_path / name).difference < 1e-6
        given[name], wanted[name] = subject.encoder.normalise(images), subject.expected(images)
    made = encoder("vit")
    done = export(made, out=tmp_path / "encoder", to="torch")
    assert done.output == "tokens (batch, 17, 24), the first 1 of them before the patches"
    given["encoder"], wanted["encoder"] = made.normalise(images), made.tokens(made.normalise(images)).detach()
    save_file(given, tmp_path / "given.safetensors")
    (tmp_path / "folders.json").write_text(json.dumps(list(given)))
    subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], check=True, timeout=300)
    said = load_file(tmp_path / "said.safetensors")
    for name, outputs in wanted.items():
        assert float((said[name] - outputs).abs().max() / outputs.abs().max()) < 1e-5, name


@pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason='onnx, onnxscript and onnxruntime are not installed (pip install "fdlab[onnx]")',
)
@pytest.mark.parametrize("kind", CASES)
def test_onnx_runtime_gives_the_same_logits(tmp_path: Path, kind: str) -> None:
    import onnx
    import onnxruntime

    subject = tuned(kind, *CASES[kind])
    written = onnx_file.write(subject, tmp_path)
    assert written.difference is not None
    assert written.difference < 1e-4
    images = torch.rand(5, 3, 16, 16, generator=torch.Generator().manual_seed(5))
    session = onnxruntime.InferenceSession(str(tmp_path / "model.onnx"), providers=["CPUExecutionProvider"])
    said = torch.from_numpy(session.run(["logits"], {"images": subject.encoder.normalise(images).numpy()})[0])
    wanted = subject.expected(images)
    assert float((said - wanted).abs().max() / wanted.abs().max()) < 1e-4
    held = {entry.key: json.loads(entry.value) for entry in onnx.load(tmp_path / "model.onnx").metadata_props}
    assert held["fdlab.class_names"] == list(CLASSES)
    assert held["fdlab.mean"] == list(subject.encoder.info.mean)
    assert json.loads((tmp_path / "preprocessing.json").read_text())["class_names"] == list(CLASSES)


def test_without_the_libraries_three_lines_name_the_extra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(onnx_file, "find_spec", lambda name: None)
    with pytest.raises(FdlabError) as caught:
        export(encoder("vit"), out=tmp_path / "out", to="onnx")
    assert caught.value.code == 2
    assert "onnx and onnxscript are not installed" in caught.value.why
    assert 'pip install "fdlab[onnx]"' in caught.value.fix
    assert not list(tmp_path.iterdir())


def test_a_program_that_computes_something_else_is_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from fdlab.study.exports.subject import Answering

    monkeypatch.setattr(Answering, "forward", lambda self, images: self.network.forward_features(images) * 1.001)
    with pytest.raises(FdlabError, match="computes something else") as caught:
        export(encoder("vit"), out=tmp_path / "out", to="torch")
    assert caught.value.code == 5
    assert "differ by 1.0e-03" in caught.value.why
    assert not list(tmp_path.iterdir())
