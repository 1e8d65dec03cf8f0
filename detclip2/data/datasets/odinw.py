"""ODinW, "object detection in the wild": 35 small data sets in COCO's format, or the first 13.

A yaml file in ``resources/odinw`` describes each: its path under the folder of ODinW, its classes,
and the prompts that GLIP's authors wrote by hand. The layout is that of GLIP's download, which
mmdetection reads too.
"""

import difflib
import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from detclip2.data.datasets.detection import detection_set
from detclip2.data.few_shot import few_shot_file, few_shot_split
from detclip2.data.io.coco_json import read_coco_json
from detclip2.data.io.coco_parser import Content
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.data.text.clean import clean_phrase
from detclip2.utils.errors import UserError, shown
from detclip2.utils.files import write_whole

BENCHMARKS = (13, 35)
SPLITS = ("train", "valid", "mini_val", "test")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class OdinwSet:
    """One data set of ODinW."""

    name: str
    benchmarks: tuple[int, ...]
    """Those of 13 and 35 that include it."""
    folder: str
    """Path under the folder of ODinW."""
    splits: Mapping[str, str]
    """Split -> its annotations, under `folder`; the images are beside them. Large sets have a
    "mini_val", on which GLIP measures without training; of the others it takes "valid"."""
    classes: tuple[str, ...]
    """C names, by ascending category id."""
    source: tuple[str, ...]
    """Sources of the names and paths."""
    classes_of_13: tuple[str, ...] = ()
    """Names in ODinW-13, if ODinW-35 changed them."""
    written_prompts: tuple[str, ...] = ()
    """The prompt that GLIP's authors wrote for each class, if any."""
    scored_words: tuple[str, ...] = ()
    """The words of each written prompt whose scores are those of the class, in GLIP."""
    instead_of_names: Mapping[str, str] = field(default_factory=dict)
    """Class -> its prompt, for names that are blank or not unique."""

    def annotations(self, root: Path, split: str) -> Path:
        """The annotations of a split; "mini_val" is "valid" in a set without one."""
        if split == "mini_val":
            split = split if split in self.splits else "valid"
        return root / self.folder / self.splits[split]

    def prompts(self, benchmark: int = 35, written: bool = False) -> list[str]:
        """The C distinct phrases that a model detects.

        Args:
            benchmark: 13 or 35; the names of two data sets differ between them.
            written: whether hand-written prompts, if any, replace the names.
        """
        if written and self.written_prompts:
            return list(self.written_prompts)
        names = self.classes_of_13 if benchmark == 13 and self.classes_of_13 else self.classes
        asked = (self.instead_of_names.get(name, name) for name in names)
        return [clean_phrase(name.replace("_", " ")) for name in asked]

    def vocabulary(self, benchmark: int = 35, written: bool = False) -> Sequence[str]:
        """The `prompts`; hand-written ones as phrases of one caption, as GLIP reads them."""
        prompts = self.prompts(benchmark, written)
        if not (written and self.written_prompts):
            return prompts
        caption, spans = "", []
        for prompt, words in zip(prompts, self.scored_words, strict=True):
            caption += ". " if caption else ""
            begin = len(caption) + prompt.index(words)
            spans.append(((begin, begin + len(words)),))
            caption += prompt
        return CaptionPhrases(caption, tuple(prompts), tuple(spans))


def odinw_sets(benchmark: int, names: Sequence[str] = ()) -> list[OdinwSet]:
    """The data sets of ODinW-13 or ODinW-35, by name; only those of `names`, if it is not empty.

    Raises:
        UserError: there is no such benchmark, or it has no data set of a name.
    """
    if benchmark not in BENCHMARKS:
        raise UserError(f"there is no ODinW-{benchmark}; there are ODinW-13 and ODinW-35")
    sets = {one.name: one for one in _all_sets() if benchmark in one.benchmarks}
    for name in names:
        if name not in sets:
            near = difflib.get_close_matches(name, sets, n=1)
            hint = f"did you mean {near[0]!r}?" if near else f"known: {', '.join(sets)}"
            raise UserError(f"ODinW-{benchmark} has no data set {name!r}; {hint}")
    return [one for one in sets.values() if not names or one.name in names]


def _all_sets() -> list[OdinwSet]:
    folder = files("detclip2") / "resources" / "odinw"
    texts = (file.read_text("utf-8") for file in folder.iterdir() if file.name.endswith(".yaml"))
    contents: list[Any] = [OmegaConf.to_container(OmegaConf.create(text)) for text in texts]
    sets = [OdinwSet(**{key: _frozen(v) for key, v in of.items()}) for of in contents]
    return sorted(sets, key=lambda one: one.name.lower())


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


def read_odinw(one: OdinwSet, root: Path, split: str) -> Content:
    """The annotations of a split, see `read_classes`.

    Raises:
        UserError: see there.
    """
    return read_classes(one, one.annotations(root, split))


def read_classes(one: OdinwSet, path: Path) -> Content:
    """Annotations of a data set, with its classes as ``categories``.

    Category i is class i with its id in the file. Names differ between copies of a data set. If the
    names in the file are those of the classes, in any order, they identify the classes; otherwise
    the ids 1 to C do, as in GLIP's and mmdetection's evaluations.

    Raises:
        UserError: the annotations cannot be read, lack a key, or have an id of no class.
    """
    content = read_coco_json(path)
    ids = {category["name"]: category["id"] for category in content["categories"]}
    for names in (one.classes, one.classes_of_13):
        if set(names) == set(ids):
            of_class = [ids[name] for name in names]
            break
    else:
        of_class = list(range(1, len(one.classes) + 1))
        logger.warning("%s: has other names, %s: ids 1 to %d are the classes of %s in order",
                       path, sorted(ids)[:5], len(of_class), one.name)  # fmt: skip
    known = set(of_class)
    for box in content["annotations"]:
        if box["category_id"] not in known:
            raise UserError(
                f"{path}: annotation {shown(box['id'])} has the category_id "
                f"{shown(box['category_id'])}; the classes of {one.name} have the ids "
                f"{sorted(known)}"
            )
    categories = [
        {"id": identity, "name": name} for identity, name in zip(of_class, one.classes, strict=True)
    ]
    return {**content, "categories": categories}


def read_few_shot(one: OdinwSet, root: Path, split: str, shots: int, seed: int) -> Content:
    """A few-shot split: GLIP's file beside the annotations, else `few_shot_split` of these.

    Raises:
        UserError: see `read_classes` and `few_shot_split`.
    """
    whole = one.annotations(root, split)
    published = whole.with_name(few_shot_file(split, shots, seed))
    if published.is_file():
        return read_classes(one, published)
    logger.warning("%s: there is no such file, so %d shots are drawn", published, shots)
    return few_shot_split(read_classes(one, whole), shots, seed)


def odinw_set(
    name: str,
    root: str,
    split: str,
    folder: str,
    benchmark: int = 13,
    written: bool = True,
    shots: int = 0,
    seed: int = 3,
    copies: int = 1,
) -> list[dict[str, Any]]:
    """Register a split for training, under ``name``_``split``, with prompts as its names.

    Args:
        name: name of the data set.
        root: the folder of ODinW.
        split: one of `SPLITS`.
        folder: output folder of the annotations with prompts as names.
        benchmark: see `OdinwSet.prompts`.
        written: see `OdinwSet.prompts`.
        shots: boxes of a class in a few-shot split, see `read_few_shot`; 0: all.
        seed: of a few-shot split; 3, 30 and 300 in GLIP.
        copies: how often each image counts in an epoch; 8, 4, 2 and 1 for 1, 3, 5 and 10 shots in
            GLIP.

    Raises:
        UserError: there is no such data set, or its annotations cannot be read.
    """
    (one,) = odinw_sets(benchmark, [name])
    if shots:
        content = read_few_shot(one, Path(root), split, shots, seed)
    else:
        content = read_odinw(one, Path(root), split)
    prompts = odinw_prompts(name, benchmark, written)
    position = {category["id"]: i for i, category in enumerate(content["categories"], 1)}
    content["categories"] = [{"id": i, "name": prompt} for i, prompt in enumerate(prompts, 1)]
    for number, box in enumerate(content["annotations"], 1):
        box["category_id"] = position[box["category_id"]]
        # COCO's evaluation reads area and iscrowd, and counts a box with the id 0 as not found.
        width, height = box["bbox"][2:]
        box.update(id=number, area=box.get("area", width * height), iscrowd=box.get("iscrowd", 0))
    path = Path(folder) / f"{name}_{split}.json"
    write_whole(path, lambda file: file.write(json.dumps(content).encode()))
    images = one.annotations(Path(root), split).parent
    return [*detection_set(f"{name}_{split}", str(path), str(images))] * copies


def odinw_prompts(name: str, benchmark: int = 13, written: bool = True) -> list[str]:
    """The names of `odinw_set`; see `OdinwSet.prompts`.

    Raises:
        UserError: there is no such data set.
    """
    return odinw_sets(benchmark, [name])[0].prompts(benchmark, written)
