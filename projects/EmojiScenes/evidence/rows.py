"""The rows of the benchmark: the sources of each, and how its config differs."""

from collections.abc import Mapping
from dataclasses import dataclass, field

DETECTION = ("detection",)
PAIRS = ("detection", "pairs")
ALL = ("detection", "grounding", "pairs")


@dataclass(frozen=True)
class Row:
    """One training, for any seed, in the benchmark of any size."""

    label: str
    """Its name in tables."""
    sources: tuple[str, ...] = PAIRS
    """Its training sources, of the three of the benchmark; the others' iterations are skipped."""
    overrides: tuple[str, ...] = ()
    """Of the config, as on the command line of train_net.py."""
    factors: Mapping[str, float] = field(default_factory=dict)
    """Source -> factor of its iterations after the shared start."""
    equal_steps: bool = False
    """Boxes get the iterations of the skipped sources."""
    more_tests: tuple[str, ...] = ()
    """Of the config's `benchmark.more_tests`, those it is measured on in sizes that have them."""
    teacher: str = ""
    """A row whose model first labels the images of the image-text pairs, which become boxes."""


ROWS = {
    # Paper Tab. 4: what each source adds.
    "detection": Row("boxes", DETECTION),
    "detection_steps": Row("boxes, as many steps as all three", DETECTION, equal_steps=True),
    "grounding": Row("boxes + grounding", ("detection", "grounding")),
    "pairs": Row("boxes + pairs"),
    "all": Row("boxes + grounding + pairs", ALL, more_tests=("synonyms",)),
    "pairs_clipped": Row("boxes + pairs, gradients clipped", overrides=("train.clip_grad=1.0",)),
    "all_clipped": Row(
        "boxes + grounding + pairs, gradients clipped", ALL, overrides=("train.clip_grad=1.0",)
    ),
    # The number of image-text pairs.
    "pairs_quarter": Row("a quarter of the pairs", factors={"pairs": 0.25}),
    "pairs_half": Row("half of the pairs", factors={"pairs": 0.5}),
    "pairs_double": Row("twice the pairs", factors={"pairs": 2}),
    # A text tower trained on WordNet (tools/make_text_tower.py).
    "wordnet": Row(
        "all three, and a text tower from WordNet",
        ALL,
        overrides=(
            "model.text_tower.model._target_=detclip2.modeling.text.text_tower.load_text_model",
            "model.text_tower.model.path=${oc.env:DETCLIP2_TEXT_TOWER}",
            "model.text_tower.identity=wordnet",
        ),
        more_tests=("synonyms",),
    ),
    # Alternatives of other papers.
    "detic": Row(
        "caption to the largest box (Detic)", overrides=("model.contrast.matching=largest_box",)
    ),
    "clip": Row(
        "caption to the whole image (CLIP)", overrides=("model.contrast.matching=whole_image",)
    ),
    "pseudo_labels": Row("pseudo-labels of a model of boxes (GLIP)", teacher="detection"),
    # Paper Tab. 2a: the proposal score.
    "score_class": Row(
        "class", overrides=("model.contrast.proposal_score=class", "model.head.objectness=class")
    ),
    "score_iou": Row(
        "IoU", overrides=("model.contrast.proposal_score=iou", "model.head.objectness=iou")
    ),
    "score_centerness": Row("centerness", overrides=("model.contrast.proposal_score=centerness",)),
    "score_sample": Row(
        "text of the sample", overrides=("model.contrast.proposal_score=text_sample",)
    ),
    "score_product": Row(
        "text of the batch x centerness",
        overrides=("model.contrast.proposal_score=text_batch_centerness",),
    ),
    # Tab. 2b: which regions a phrase is compared with. The largest box is `detic` above.
    "one_to_many": Row(
        "all regions, by softmax", overrides=("model.contrast.matching=one_to_many",)
    ),
    # Tab. 2c: the direction of the contrast.
    "image_to_text": Row("image to text", overrides=("model.contrast.direction=image_to_text",)),
    "both": Row("both", overrides=("model.contrast.direction=both",)),
    # Tab. 2d: R, regions an image.
    "regions_25": Row("25", overrides=("model.contrast.num_proposals=25",)),
    "regions_50": Row("50", overrides=("model.contrast.num_proposals=50",)),
    "regions_200": Row("200", overrides=("model.contrast.num_proposals=200",)),
    # Tab. 2e: the temperature.
    "temperature_1": Row("1", overrides=("model.contrast.temperature=1.0",)),
    "temperature_015": Row("0.15", overrides=("model.contrast.temperature=0.15",)),
    "temperature_007": Row("0.07", overrides=("model.contrast.temperature=0.07",)),
    # Tab. 2f: the weight; the paper's best is 0.1.
    "weight_003": Row("0.03", overrides=("model.contrast.weight=0.03",)),
    "weight_01": Row("0.1", overrides=("model.contrast.weight=0.1",)),
    "weight_1": Row("1", overrides=("model.contrast.weight=1.0",)),
    "weight_3": Row("3", overrides=("model.contrast.weight=3.0",)),
    # Tab. 12: the resolution of image-text pairs; in the quick size 96 is the default.
    "resolution_64": Row("64", overrides=("world.pairs_size=64",)),
    "resolution_80": Row("80", overrides=("world.pairs_size=80",)),
    "resolution_128": Row("128", overrides=("world.pairs_size=128",)),
}


@dataclass(frozen=True)
class Table:
    """Rows that are compared with each other."""

    title: str
    paper: str
    """The paper's numbers of the same comparison, on its own data."""
    rows: Mapping[str, str]
    """Row -> its name in this table; "" for its own label."""
    columns: tuple[str, ...] = ("AP", "APr (novel)", "APc", "APf", "APr / APf (%)", "names, novel")
    """Of `tables.COLUMNS`; all other metrics are in the json alone."""
    styles: bool = False
    """Whether its columns are the test sets in all art styles, in place of `columns`."""


TABLES = {
    "language": Table(
        "A text tower that knows English",
        "its text tower starts from that of FILIP (sec. 4.1)",
        {"all": "as every row: random vectors of tokens", "wordnet": "vectors from WordNet"},
        columns=(
            "AP",
            "APr (novel)",
            "AP, synonyms",
            "names, synonyms",
            "AP, unseen",
            "names, unseen",
        ),
    ),
    "sources": Table(
        "What each source adds",
        "Tab. 4 (APr, on LVIS minival): O365 24.2, + CC3M 29.4, + GoldG + CC3M 36.7",
        {
            "detection": "",
            "detection_steps": "",
            "grounding": "",
            "pairs": "",
            "all": "",
            "pairs_clipped": "",
            "all_clipped": "",
        },
    ),
    "styles": Table(
        "Other art styles, on which nothing is trained",
        "it has zero-shot ODinW instead (sec. 4.2)",
        {"detection": "", "detection_steps": "", "grounding": "", "pairs": "", "all": ""},
        styles=True,
    ),
    "amount": Table(
        "Number of image-text pairs",
        "Tab. 4: CC15M instead of CC3M, 38.4 -> 40.4 AP",
        {
            "detection": "none",
            "pairs_quarter": "a quarter",
            "pairs_half": "a half",
            "pairs": "all",
            "pairs_double": "twice as many",
        },
    ),
    "alternatives": Table(
        "Alternatives to the word-region contrast",
        "Tab. 2b: Detic's way 29.8 AP, the paper's 31.3, boxes alone 28.6",
        {
            "detection": "",
            "pairs": "word-region contrast",
            "detic": "",
            "clip": "",
            "pseudo_labels": "",
        },
    ),
    "score": Table(
        "Proposal score",
        "Tab. 2a: class 28.4, IoU 30.1, centerness 30.2, sample 29.6, batch 31.3, product 30.9 AP",
        {
            "score_class": "",
            "score_iou": "",
            "score_centerness": "",
            "score_sample": "",
            "pairs": "text of the batch (default)",
            "score_product": "",
        },
    ),
    "matching": Table(
        "Regions of a phrase",
        "Tab. 2b: largest box 29.8, best region 31.3, softmax 30.9 AP",
        {"detic": "largest box", "pairs": "the best region (default)", "one_to_many": ""},
    ),
    "direction": Table(
        "Direction of the contrast",
        "Tab. 2c: text to image 31.3, image to text 29.8, both 30.9 AP",
        {"pairs": "text to image (default)", "image_to_text": "", "both": ""},
    ),
    "regions": Table(
        "Regions an image (R)",
        "Tab. 2d: 25 30.6, 50 30.8, 100 31.3, 200 30.8 AP",
        {"regions_25": "", "regions_50": "", "pairs": "100 (default)", "regions_200": ""},
    ),
    "temperature": Table(
        "Temperature",
        "Tab. 2e: 1 30.1, 0.5 31.3, 0.15 30.8, 0.07 29.2 AP",
        {
            "temperature_1": "",
            "pairs": "0.5 (default)",
            "temperature_015": "",
            "temperature_007": "",
        },
    ),
    "weight": Table(
        "Weight of the contrast",
        "Tab. 2f: 0.03 30.5, 0.1 31.3, 0.3 30.9, 1 28.9 AP, with 6144 captions a batch",
        {
            "weight_003": "",
            "weight_01": "",
            "pairs": "0.3 (default)",
            "weight_1": "",
            "weight_3": "",
        },
    ),
    "resolution": Table(
        "Resolution of the pairs",
        "Tab. 12: 224 30.5, 256 30.5, 320 31.3, 384 31.5 AP",
        {
            "resolution_64": "",
            "resolution_80": "",
            "pairs": "96 (default)",
            "resolution_128": "",
        },
    ),
}
