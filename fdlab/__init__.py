"""fdlab: why do some pre-trained vision transformers fine-tune better than others?

Open a checkpoint (``open_model``), measure it (``measure``), train one (``pretrain``, ``distill``,
``finetune``). Start reading at ``fdlab/study/``, where the rooms meet; docs/decisions.md says why.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fdlab import _timm
from fdlab._lazy import lazy_attributes
from fdlab.errors import FdlabError
from fdlab.version import __version__

__all__ = [
    "Encoder",
    "FdlabError",
    "Monitor",
    "__version__",
    "attention_metrics",
    "distill",
    "explore",
    "export",
    "figure",
    "finetune",
    "hessian_spectrum",
    "load_classifier",
    "measure",
    "open_model",
    "pretrain",
    "wrap",
]

if TYPE_CHECKING:
    from fdlab.checkpoints.open import open_model
    from fdlab.encoders.encoder import Encoder
    from fdlab.encoders.wrap import wrap
    from fdlab.measures.attention import attention_metrics
    from fdlab.measures.spectrum import hessian_spectrum
    from fdlab.probes.measure import measure
    from fdlab.report.drawing import figure
    from fdlab.study.classifier import load_classifier
    from fdlab.study.explore import explore
    from fdlab.study.exports.export import export
    from fdlab.study.monitor import Monitor
    from fdlab.study.training import distill, finetune, pretrain

_timm.install()
__getattr__, __dir__ = lazy_attributes(
    __name__,
    {
        "Encoder": "fdlab.encoders.encoder",
        "wrap": "fdlab.encoders.wrap",
        "open_model": "fdlab.checkpoints.open",
        "attention_metrics": "fdlab.measures.attention",
        "hessian_spectrum": "fdlab.measures.spectrum",
        "measure": "fdlab.probes.measure",
        "figure": "fdlab.report.drawing",
        "Monitor": "fdlab.study.monitor",
        "monitor": "fdlab.monitor",
        "pretrain": "fdlab.study.training",
        "distill": "fdlab.study.training",
        "finetune": "fdlab.study.training",
        "load_classifier": "fdlab.study.classifier",
        "explore": "fdlab.study.explore",
        "export": "fdlab.study.exports.export",
    },
)
