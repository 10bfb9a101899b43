"""Every metric by name: what its number is, its unit, formula and source, what it says and what it does not.

Captions, axis labels, tables and ``fdlab explain NAME`` all read this. Plain data, no torch.
"""

from __future__ import annotations

from dataclasses import dataclass

from fdlab.errors import USAGE, FdlabError, nearest
from fdlab.records.metrics.attribution import ATTRIBUTION
from fdlab.records.metrics.curvature import CURVATURE
from fdlab.records.metrics.features import FEATURES
from fdlab.records.metrics.landscape import LANDSCAPE
from fdlab.records.metrics.maps import MAPS
from fdlab.records.metrics.predict import PREDICT
from fdlab.records.metrics.prefix import PREFIX
from fdlab.records.metrics.sharpness import SHARPNESS
from fdlab.records.metrics.trainability import TRAINABILITY


@dataclass(frozen=True)
class Metric:
    """One metric.

    ``label`` stands on axes; ``low`` and ``high`` bound the possible values (None: no bound); ``formula`` is
    plain text; ``says`` and ``not_says`` are one sentence each; ``source`` names the paper or the rule.
    """

    name: str
    label: str
    unit: str
    formula: str
    low: float | None
    high: float | None
    says: str
    not_says: str
    source: str

    @property
    def axis(self) -> str:
        """The axis label with its unit in brackets, where it has one."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


_Y = "y_ij: attention of patch i to patch j, renormalised over the patches; N patches; p_j = mean_i y_ij"

_ATTENTION = (
    Metric(
        "distance",
        "mean attention distance",
        "px",
        f"(1/N) sum_i sum_j y_ij |c_i - c_j|, c = patch centres in pixels of the model's input; {_Y}",
        0.0,
        None,
        "How far away a head looks on average.",
        "A large value may only mean uniform attention (the dashed line): read entropy and nmi with it.",
        "Dosovitskiy et al. 2021 (ViT), figure 7; prefix tokens left out and rows renormalised here",
    ),
    Metric(
        "distance_ratio",
        "attention distance / uniform",
        "",
        "distance / distance of uniform attention on the same grid",
        0.0,
        None,
        "How far a head looks, comparable between input sizes and grids.",
        "1 means uniform attention or attention that does not depend on the query: nmi tells which.",
        "distance after Dosovitskiy et al. 2021, divided by the uniform line",
    ),
    Metric(
        "distance_spread",
        "spread of distance over heads",
        "px",
        "max - min over the heads of a block of their image-averaged distance",
        0.0,
        None,
        "How differently the heads of one block look near and far.",
        "It grows with the number of heads, and it is no test that heads do different work.",
        "range over heads of the distances that Wei et al. 2022 (feature distillation) plot head by head",
    ),
    Metric(
        "distance_sd",
        "standard deviation of distance over heads",
        "px",
        "standard deviation (n - 1) over the heads of a block of their image-averaged distance",
        0.0,
        None,
        "How differently the heads of one block look near and far, without resting on the two extreme heads.",
        "Heads of equal distance may still look in different directions.",
        "standard deviation over heads of the distances that Wei et al. 2022 plot head by head",
    ),
    Metric(
        "entropy",
        "attention entropy / ln N",
        "",
        f"-(1/N) sum_ij y_ij ln y_ij / ln N; {_Y}",
        0.0,
        1.0,
        "How broad a head's attention is: 0 for one patch, 1 for all patches alike.",
        "It does not say where the attention lies: near and far neighbourhoods of one size have one entropy.",
        "Shannon entropy per head as in Xie et al. 2023 (revealing masked image modeling), over ln N",
    ),
    Metric(
        "nmi",
        "normalised mutual information",
        "",
        f"I(q;k) / sqrt(H(q) H(k)), p(q) = 1/N, so I = H(p) - mean_i H(y_i) and H(q) = ln N; {_Y}",
        0.0,
        1.0,
        "How much the attention depends on the query.",
        "Sharp maps without structure are far from 0 too (0.3 for random logits of deviation 2).",
        "Park et al. 2023 (what do self-supervised vision transformers learn?)",
    ),
    Metric(
        "nmi_shuffled",
        "mutual information, keys shuffled",
        "",
        "nmi of the same map after the keys of each query are permuted, by a fixed permutation of its own",
        0.0,
        1.0,
        "The part of nmi that sharp rows have whatever they look at; nmi beyond it is dependence on the query.",
        "nmi below it is no error: queries that share their keys have less than independent ones.",
        "permutation control for Park et al. 2023; one fixed draw for all heads, images and models",
    ),
    Metric(
        "prefix_mass",
        "attention on prefix tokens",
        "",
        "(1/N) sum_i (attention of patch i to class, distillation and register tokens)",
        0.0,
        1.0,
        "What share of the patches' attention goes to tokens that are no patch.",
        "A large share is not a fault: such tokens serve as a place to look at nothing.",
        "Darcet et al. 2024 (registers) for the phenomenon; mean over patch queries",
    ),
    Metric(
        "diagonality",
        "attention on the own token",
        "",
        f"(1/N) sum_i y_ii; {_Y}",
        0.0,
        1.0,
        "What share of its patch attention a patch gives itself; 1/N under uniform attention.",
        "The diagonal stripes of a relative-position pattern are not on the main diagonal: see r2_relative.",
        "diagonal of the maps shown in Wei et al. 2022 (feature distillation)",
    ),
    Metric(
        "column_concentration",
        "column concentration",
        "",
        f"N sum_j p_j^2; {_Y}",
        1.0,
        None,
        "Whether the queries share a few keys: 1 when all keys get alike, N when one key gets all.",
        "It does not tell a content-based choice of keys from a fixed position: see r2_absolute over images.",
        "inverse participation ratio of the key marginal",
    ),
    Metric(
        "r2_relative",
        "share explained by relative position",
        "",
        "1 - sum_ij (y_ij - mean over pairs of equal offset)^2 / sum_ij (y_ij - 1/N)^2",
        0.0,
        1.0,
        "How much of a map is one pattern moved along with the query.",
        "It is not 0 by chance (offsets seen once are fitted exactly), and it is undefined for uniform maps.",
        "one-way analysis of variance over offsets; the pattern that Wei et al. 2022 show",
    ),
    Metric(
        "r2_absolute",
        "share explained by the key's position",
        "",
        "N sum_j (p_j - 1/N)^2 / sum_ij (y_ij - 1/N)^2",
        0.0,
        1.0,
        "How much of a map is the same for every query: vertical stripes.",
        "A stripe may follow an object in the image: within one image, position and content look alike.",
        "one-way analysis of variance over keys; the stripes that Wei et al. 2022 show",
    ),
    Metric(
        "head_similarity",
        "cosine between heads",
        "",
        "mean over head pairs and queries of cos(y_i of head a, y_i of head b)",
        0.0,
        1.0,
        "How alike the heads of one block attend.",
        "It mostly measures sharpness: broad independent heads have a cosine near 1; see the centred form.",
        "Wei et al. 2022 (feature distillation), head diversity",
    ),
    Metric(
        "head_similarity_shuffled",
        "cosine between heads, keys shuffled",
        "",
        "mean over head pairs a, b and queries of 1 / (N |y^a_i| |y^b_i|): the mean over all permutations of keys",
        0.0,
        1.0,
        "The part of head_similarity that broad rows have whatever they look at.",
        "A similarity equal to it does not mean different work: it means no more overlap than by chance.",
        "permutation control for the cosine between heads, in closed form",
    ),
    Metric(
        "head_similarity_centred",
        "cosine between heads, centred",
        "",
        "the same with 1/N taken from every entry; rows that are exactly uniform are left out",
        -1.0,
        1.0,
        "How alike heads attend beyond what both share with uniform attention; independent heads are near 0.",
        "For nearly uniform maps it compares small remainders.",
        "head_similarity with uniform attention as the origin",
    ),
    Metric(
        "head_divergence",
        "KL divergence between heads",
        "nats",
        "mean over ordered head pairs a, b and queries of sum_j y^a_ij ln(y^a_ij / y^b_ij)",
        0.0,
        None,
        "How differently the heads of one block attend, in nats.",
        "Sharp maps have large values whatever they look at; infinite values are left out and lower n.",
        "Xie et al. 2023 (revealing masked image modeling); from log-probabilities, without an epsilon",
    ),
)

_OTHERS = (
    Metric(
        "teacher_r2",
        "teacher features explained (R2)",
        "",
        "1 - |t - ridge(tokens)|^2 / |t - position mean|^2 on held-out images, t = whitened teacher features",
        None,
        1.0,
        "How much of the teacher's features can be read linearly from these on images not seen in the fit.",
        "The value of an untrained model is not 0; only the gain over it is owed to training. Intervals, also of "
        "differences, are over the images that the ridges are tested on, with the ridges as they were fitted.",
        "ridge regression, the same for every model: fitted on other images; in the features probe over 4 folds, "
        "its strength searched inside the other folds",
    ),
    Metric(
        "accuracy",
        "accuracy",
        "",
        "correct test images / test images",
        0.0,
        1.0,
        "How often the fine-tuned model names the right class.",
        "The interval of one run holds the test images' scatter, not that between training seeds.",
        "Wilson 1927 for the interval",
    ),
    Metric(
        "diverged",
        "diverged",
        "",
        "1: the loss was not a number at some step, and the run ended there; 0: it came to its end",
        0.0,
        1.0,
        "Whether, and over seeds how often, a training broke down.",
        "Runs that diverged have no accuracy: a mean over the others is of the lucky ones.",
        "the run's own log",
    ),
    Metric(
        "final_loss",
        "loss at the end of training",
        "nats",
        "mean training loss over the last steps",
        None,
        None,
        "How well the objective was met.",
        "Losses of different objectives cannot be compared, and a low training loss is no accuracy.",
        "the run's own log",
    ),
    Metric(
        "knn",
        "k-nearest-neighbour accuracy",
        "",
        "vote of the 20 nearest training images by cosine, weights exp(cosine / 0.07)",
        0.0,
        1.0,
        "How well frozen features group the classes without any training.",
        "A low value does not mean poor fine-tuning: masked image models have low ones and fine-tune well.",
        "Wu et al. 2018; settings of Caron et al. 2021 (DINO)",
    ),
    Metric(
        "linear_probe",
        "linear probe accuracy",
        "",
        "multinomial logistic regression on standardised frozen features; attentive pooling: on the mean of the "
        "tokens t weighted by softmax(t . q / sqrt C) with one learnt query q",
        0.0,
        1.0,
        "How well a linear classifier separates the classes in frozen features.",
        "It is a solver's answer, not the published training recipes, which differ by points; pooling changes it.",
        "logistic regression by L-BFGS; the features probe searches its penalty inside the folds, alike for all",
    ),
)

_ATTRIBUTION = tuple(Metric(*fields) for fields in ATTRIBUTION)

_TRAINABILITY = tuple(Metric(*fields) for fields in TRAINABILITY)

_HESSIAN = tuple(Metric(*fields) for fields in CURVATURE)

_FEATURES = tuple(Metric(*fields) for fields in FEATURES)

_LANDSCAPE = tuple(Metric(*fields) for fields in LANDSCAPE)

_MAPS = tuple(Metric(*fields) for fields in MAPS)

_PREFIX = tuple(Metric(*fields) for fields in PREFIX)

_PREDICT = tuple(Metric(*fields) for fields in PREDICT)

_SHARPNESS = tuple(Metric(*fields) for fields in SHARPNESS)

METRICS: dict[str, Metric] = {
    entry.name: entry
    for entry in (
        *_ATTENTION,
        *_PREFIX,
        *_MAPS,
        *_OTHERS,
        *_FEATURES,
        *_HESSIAN,
        *_SHARPNESS,
        *_LANDSCAPE,
        *_ATTRIBUTION,
        *_TRAINABILITY,
        *_PREDICT,
    )
}


def find_metric(name: str) -> Metric:
    """The metric of this name.

    Raises:
        FdlabError: code 2, there is none; the nearest name is given.
    """
    if name in METRICS:
        return METRICS[name]
    raise FdlabError(
        f"No metric is called '{name}'.{nearest(name, METRICS)}", "", f"Known: {', '.join(METRICS)}.", USAGE
    )
