import json

import numpy as np
import pytest
from detectron2.structures import BoxMode

from detclip2.data.datasets.grounding import (
    OdvgFile,
    mdetr_records,
    odvg_names,
    odvg_phrases,
    phrases_of_spans,
)
from detclip2.data.mappers import DetectionMapper, GroundingMapper, draw_sample
from detclip2.data.sample import SkipSample, check_sample
from detclip2.data.skips import SkipCounter
from detclip2.utils.errors import UserError

CAPTION = "A red apple, left of two dogs."


def span(text):
    begin = CAPTION.index(text)
    return [begin, begin + len(text)]


@pytest.mark.parametrize(
    ("spans", "phrases"),
    [
        ([span("red"), span("apple")], ["red apple"]),
        ([span("apple"), span("red")], ["red apple"]),
        ([span("A red apple"), span("two dogs")], ["A red apple", "two dogs"]),
        ([span("red apple"), span("apple")], ["red apple"]),
        ([span("apple"), span("left")], ["apple", "left"]),  # a comma is between them
        ([[0, len(CAPTION)]], [CAPTION]),
        ([], []),
    ],
)
def test_phrases_of_spans(spans, phrases):
    counter = SkipCounter()
    assert phrases_of_spans(CAPTION, spans, counter, "here") == phrases
    assert counter.total() == 0


@pytest.mark.parametrize(
    "bad", [[-1, 3], [5, 5], [9, 4], [0, len(CAPTION) + 1], [99, 120], [3], [1, 2, 3], []]
)
def test_spans_outside_the_caption(bad):
    counter = SkipCounter()
    assert phrases_of_spans(CAPTION, [bad, span("apple")], counter, "here") == ["apple"]
    assert counter.counts() == {"span-outside": 1}


def test_a_span_of_whitespace_is_skipped():
    assert phrases_of_spans(CAPTION, [[1, 2]], SkipCounter(), "here") == []


def mdetr(tmp_path, images, annotations):
    path = tmp_path / "grounding.json"
    path.write_text(json.dumps({"images": images, "annotations": annotations}))
    return str(path)


def image(identity=1, **fields):
    base = {"id": identity, "file_name": "a.jpg", "height": 20, "width": 30, "caption": CAPTION}
    return {**base, **fields}


def annotation(*spans, image_id=1, bbox=(1, 2, 10, 10), **fields):
    return {"image_id": image_id, "bbox": bbox, "tokens_positive": spans, "id": 1, **fields}


def test_mdetr_json_to_samples(tmp_path):
    path = mdetr(
        tmp_path,
        [image(), image(2, caption="nothing here")],
        [
            annotation(span("red"), span("apple")),
            annotation(span("two dogs"), bbox=[5, 5, 5, 5]),
            annotation(span("two dogs"), span("A red"), bbox=[15, 5, 5, 5]),
        ],
    )
    records = mdetr_records(path, "folder")
    assert records[0]["file_name"] == "folder/a.jpg"
    mapper = GroundingMapper(negatives=["Apples", "dog", "sea", "blue sea"])
    blank = np.zeros((20, 30, 3), np.uint8)
    sample = mapper({**records[0], "image": blank}, np.random.default_rng(0))
    check_sample(sample, 100)
    assert sample["phrases"][:3] == ["red apple", "two dogs", "A red"]
    assert sorted(sample["phrases"][3:]) == ["blue sea", "sea"]
    pairs = [sample["phrases"][i] for i in sample["instances"].gt_classes]
    assert pairs == ["red apple", "two dogs", "A red", "two dogs"]
    assert sample["instances"].gt_boxes.tensor[0].tolist() == [1, 2, 11, 12]
    with pytest.raises(SkipSample):
        mapper({**records[1], "image": blank})


@pytest.mark.parametrize(
    ("marked", "phrases", "counts"),
    [
        (span("red apple"), ["red apple"], {}),
        (None, [], {}),
        ([[span("red apple")]], [], {"span-outside": 1}),
        ([[2.0, 11.0]], [], {"span-outside": 1}),
        ("red apple", [], {"span-outside": 1}),
    ],
)
def test_spans_of_other_forms_are_read_or_counted(tmp_path, marked, phrases, counts):
    counter = SkipCounter()
    path = mdetr(tmp_path, [image()], [annotation(tokens_positive=marked)])
    (record,) = mdetr_records(path, "", counter, spans=True)
    assert record["annotations"][0]["phrases"] == phrases
    assert counter.counts() == counts
    region = {"bbox": [1, 2, 10, 10], "phrase": "apple", "tokens_positive": marked}
    (of_odvg,) = odvg(tmp_path, {**SIZE, "grounding": {"caption": CAPTION, "regions": [region]}})
    mapper = GroundingMapper(keep=["phrase_spans"])
    mapper({**of_odvg, "image": np.zeros((20, 30, 3), np.uint8)}, np.random.default_rng(0))
    assert mapper.counter.counts() == counts


@pytest.mark.parametrize("caption", [["a red apple"], 7, {"text": "a red apple"}])
def test_a_caption_that_is_no_text_is_counted(tmp_path, caption):
    counter = SkipCounter()
    path = mdetr(tmp_path, [image(caption=caption)], [annotation([2, 5])])
    (record,) = mdetr_records(path, "", counter, spans=True)
    assert record["annotations"][0]["tokens_positive"] == []
    assert counter.counts() == {"record-malformed": 1, "span-outside": 1}


@pytest.mark.parametrize(
    ("phrase", "read"),
    [
        ("apple", ["apple"]),
        (["apple", "dog"], ["apple", "dog"]),
        (3, None),
        (None, None),
        ({"text": "apple"}, None),
        ([{"text": "apple"}], None),
        (["apple", 3], None),
    ],
)
def test_phrases_of_a_region(tmp_path, phrase, read):
    region = {"bbox": [1, 2, 10, 10], "phrase": phrase}
    source = odvg(tmp_path, {**SIZE, "grounding": {"caption": CAPTION, "regions": [region]}})
    if read is not None:
        assert source[0]["annotations"][0]["phrases"] == read
        return
    with pytest.raises(SkipSample, match="record 0") as skip:
        source[0]
    assert skip.value.kind == "record-malformed"


def test_spans_are_kept_on_request(tmp_path):
    marks = [span("red"), span("apple"), [0, 500]]
    path = mdetr(tmp_path, [image()], [annotation(*marks)])
    (plain,) = mdetr_records(path, "folder")
    assert "tokens_positive" not in plain["annotations"][0]
    (kept,) = mdetr_records(path, "folder", spans=True)
    blank = np.zeros((20, 30, 3), np.uint8)
    mapper = GroundingMapper(keep=["phrase_spans"])
    sample = mapper({**kept, "image": blank}, np.random.default_rng(0))
    check_sample(sample, 100)
    assert sample["phrase_spans"] == [[[span("red")[0], span("apple")[1]]]]
    assert mapper.counter.total() == 0  # the reader has counted the span outside


def test_faults_in_mdetr_json(tmp_path):
    path = mdetr(
        tmp_path,
        [image(), image(1), {"id": 3}, {"file_name": "x"}, image(4, caption=None)],
        [
            annotation(span("red"), image_id=9),
            annotation([0, 500]),
            {"image_id": 1, "id": 5},
            annotation([0, 1], image_id=4),
            {"id": 6},
        ],
    )
    counter = SkipCounter()
    records = mdetr_records(path, "", counter)
    assert [r["image_id"] for r in records] == [1, 4]
    assert counter.counts() == {
        "image-unknown": 2,
        "image-duplicate": 1,
        "record-malformed": 2,
        "span-outside": 2,
    }
    mapper = GroundingMapper()
    assert draw_sample(records, 1, mapper, np.random.default_rng(0)) is None


def test_the_two_image_folders_of_goldg(tmp_path):
    path = mdetr(tmp_path, [image(1, data_source="vg"), image(2, data_source="coco")], [])
    records = mdetr_records(path, {"vg": "v", "coco": "c"})
    assert [r["file_name"] for r in records] == ["v/a.jpg", "c/a.jpg"]
    with pytest.raises(UserError, match="'coco'"):
        mdetr_records(path, {"vg": "v"})


def odvg(tmp_path, *lines):
    path = tmp_path / "odvg.jsonl"
    path.write_text("\n".join(x if isinstance(x, str) else json.dumps(x) for x in lines) + "\n")
    return OdvgFile(str(path), "folder")


SIZE = {"filename": "a.jpg", "height": 20, "width": 30}


def test_odvg_grounding(tmp_path):
    regions = [
        {"bbox": [1, 2, 11, 12], "phrase": "the apple"},
        {"bbox": [[0, 0, 5, 5], [5, 5, 9, 9]], "phrase": ["dogs", "two dogs"]},
    ]
    source = odvg(tmp_path, {**SIZE, "grounding": {"caption": CAPTION, "regions": regions}})
    record = source[0]
    assert record["caption"] == CAPTION
    assert [a["bbox_mode"] for a in record["annotations"]] == [BoxMode.XYXY_ABS] * 3
    record["image"] = np.zeros((20, 30, 3), np.uint8)
    sample = GroundingMapper()(record, np.random.default_rng(0))
    check_sample(sample, 100)
    assert sample["phrases"] == ["the apple", "dogs", "two dogs"]
    assert sample["instances"].gt_classes.tolist() == [0, 1, 2, 1, 2]
    assert sample["instances"].gt_boxes.tensor[0].tolist() == [1, 2, 11, 12]


def test_odvg_detection_with_its_label_map(tmp_path):
    instances = [{"bbox": [1, 2, 11, 12], "label": 2, "category": "cat"}]
    source = odvg(tmp_path, {**SIZE, "detection": {"instances": instances}}, "", "{oops")
    label_map = tmp_path / "labels.json"
    label_map.write_text('{"0": "person", "2": "cat"}')
    names = odvg_names(str(label_map))
    assert names == ["person", "", "cat"]
    record = {**source[0], "image": np.zeros((20, 30, 3), np.uint8)}
    sample = DetectionMapper(names)(record, np.random.default_rng(0))
    check_sample(sample, 150)
    assert sample["phrases"] == ["cat", "person"]
    label_map.write_text('["person"]')
    with pytest.raises(UserError, match=r"labels\.json"):
        odvg_names(str(label_map))


@pytest.mark.parametrize("label", [-1, 10**6, 10**18])
def test_a_label_that_would_need_a_huge_list_is_refused(tmp_path, label):
    (tmp_path / "labels.json").write_text(json.dumps({"0": "person", str(label): "cat"}))
    with pytest.raises(UserError, match=rf"the label {label} is not below 1,000,000"):
        odvg_names(str(tmp_path / "labels.json"))


@pytest.mark.parametrize(
    "line",
    ["{oops", "3", '"text"', "[]", {"height": 3}, SIZE, {**SIZE, "grounding": {"caption": "a"}}],
)
def test_invalid_odvg_lines_are_skipped_and_counted(tmp_path, line):
    source = odvg(tmp_path, line, {**SIZE, "grounding": {"caption": "a", "regions": []}})
    assert len(source) == 2
    with pytest.raises(SkipSample, match="record 0"):
        source[0]
    mapper = GroundingMapper()
    assert draw_sample(source, 0, mapper, np.random.default_rng(0)) is None
    assert mapper.counter.counts() == {"record-malformed": 1}
    assert source[1]["annotations"] == []


def test_line_files_are_sequences(tmp_path):
    source = odvg(tmp_path, *({**SIZE, "detection": {"instances": []}} for _ in range(3)))
    assert [r["image_id"] for r in source] == [0, 1, 2]
    assert len(source[1:]) == 2
    with pytest.raises(IndexError):
        source[3]
    with pytest.raises(UserError, match=r"nowhere\.jsonl"):
        OdvgFile(str(tmp_path / "nowhere.jsonl"), "")


def test_phrases_of_an_odvg_file(tmp_path):
    regions = [{"bbox": [0, 0, 4, 4], "phrase": ["dog", "red dog"]}]
    regions += [{"bbox": [[0, 0, 4, 4], [2, 2, 8, 8]], "phrase": "cat"}]
    line = {"filename": "a.jpg", "height": 9, "width": 9}
    line["grounding"] = {"caption": "", "regions": regions}
    other = {**line, "grounding": {"caption": "", "regions": regions[1:]}}
    boxes = {**line, "detection": {"instances": [{"bbox": [0, 0, 4, 4], "label": 0}]}}
    del boxes["grounding"]
    path = tmp_path / "lines.jsonl"
    path.write_text("".join(json.dumps(x) + "\n" for x in (line, other, boxes)))
    assert odvg_phrases(str(path)) == ["dog", "red dog", "cat"]
