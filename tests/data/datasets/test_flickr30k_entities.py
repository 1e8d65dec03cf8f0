"""The reader against a slow scanner, on synthetic files in the data set's format."""

import re
from xml.etree import ElementTree

import pytest

from detclip2.data.datasets.flickr30k_entities import flickr30k_entities_records
from detclip2.utils.errors import UserError

SENTENCES = """\
[/EN#1/people A young child] is wearing [/EN#2/clothing a blue , striped shirt] .
[/EN#1/people/other The child] climbs [/EN#0/notvisual a set] of [/EN#3/scene stairs] .

[/EN#4/other Nothing boxed] here .
[/EN#5/people Two men] and [/EN#6/people men] with [/EN#5/bodyparts their (big) arms] .
No phrase at all .
"""
ANNOTATION = """\
<annotation>
  <filename>11.jpg</filename>
  <size><width>500</width><height>333</height><depth>3</depth></size>
  <object><name>1</name><bndbox>
    <xmin>10</xmin><ymin>20</ymin><xmax>110</xmax><ymax>220</ymax></bndbox></object>
  <object><name>2</name><name>5</name><bndbox>
    <xmin>15</xmin><ymin>60</ymin><xmax>80</xmax><ymax>90</ymax></bndbox></object>
  <object><name>5</name><bndbox>
    <xmin>200</xmin><ymin>1</ymin><xmax>499</xmax><ymax>333</ymax></bndbox></object>
  <object><name>6</name><bndbox>
    <xmin>3</xmin><ymin>4</ymin><xmax>5</xmax><ymax>6</ymax></bndbox></object>
  <object><name>3</name><scene>1</scene><nobndbox>0</nobndbox></object>
  <object><name>4</name><scene>0</scene><nobndbox>1</nobndbox></object>
</annotation>
"""


@pytest.fixture
def folder(tmp_path):
    for name in ("Annotations", "Sentences"):
        (tmp_path / name).mkdir()
    (tmp_path / "Annotations" / "11.xml").write_text(ANNOTATION)
    (tmp_path / "Sentences" / "11.txt").write_text(SENTENCES)
    (tmp_path / "test.txt").write_text("11\n")
    return tmp_path


def read(folder):
    return flickr30k_entities_records(str(folder), "images")


def scan(line):
    """Words, and (words, number, types) of each phrase, character by character."""
    words, phrases, inside, label, at = "", [], None, "", 0
    while at < len(line):
        character = line[at]
        if character == "[":
            end = line.index(" ", at)
            label, inside, at = line[at + 1 : end], "", end
        elif character == "]":
            _, number, *types = label.split("/")
            phrases.append((inside, number.removeprefix("EN#"), tuple(types)))
            words, inside = words + inside, None
        elif inside is not None:
            inside += character
        else:
            words += character
        at += 1
    return words, phrases


def boxes_of(number):
    """The boxes of an object, from the text of the file alone."""
    found = []
    for block in ANNOTATION.split("<object>")[1:]:
        if f"<name>{number}</name>" in block and "bndbox>" in block.replace("nobndbox", ""):
            edges = re.findall(r"<(?:xmin|ymin|xmax|ymax)>(\d+)<", block)
            found.append(tuple(float(edge) for edge in edges))
    return tuple(found)


def test_each_occurrence_of_a_phrase_has_its_boxes(folder):
    records = read(folder)
    lines = [line for line in SENTENCES.splitlines() if line]
    expected = {}
    for number, line in enumerate(lines):
        caption, phrases = scan(line)
        mentions = [(p, boxes_of(n), types) for p, n, types in phrases if boxes_of(n)]
        if mentions:
            expected[number] = (caption, mentions)
    found = {r["sentence_id"]: (r["caption"], [tuple(m) for m in r["mentions"]]) for r in records}
    assert found == expected
    assert list(found) == [0, 1, 3]
    assert records[0]["mentions"][0] == ("A young child", ((10, 20, 110, 220),), ("people",))
    assert [m.phrase for m in records[2]["mentions"]] == ["Two men", "men", "their (big) arms"]
    assert len(records[2]["mentions"][0].boxes) == 2
    assert records[1]["mentions"][0].types == ("people", "other")
    for record in records:
        assert record["file_name"] == "images/11.jpg"
        assert (record["image_id"], record["height"], record["width"]) == ("11", 333, 500)


def test_an_image_without_sentence_or_box_has_no_record(folder):
    (folder / "test.txt").write_text("12\n13\n11\n")
    (folder / "Sentences" / "12.txt").write_text("\n \n")
    (folder / "Annotations" / "12.xml").write_text(ANNOTATION)
    (folder / "Sentences" / "13.txt").write_text(SENTENCES)
    root = ElementTree.fromstring(ANNOTATION)
    for thing in root.findall("object"):
        root.remove(thing)
    (folder / "Annotations" / "13.xml").write_bytes(ElementTree.tostring(root))
    assert {record["image_id"] for record in read(folder)} == {"11"}


@pytest.mark.parametrize(
    "name", ["test.txt", "Annotations/11.xml", "Sentences/11.txt"], ids=lambda name: name[:4]
)
def test_a_missing_file_is_named(folder, name):
    (folder / name).unlink()
    with pytest.raises(UserError, match=re.escape(str(folder / name))):
        read(folder)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("test.txt", ""),
        ("Annotations/11.xml", ANNOTATION[:300]),
        ("Annotations/11.xml", "<annotation></annotation>"),
        ("Annotations/11.xml", ANNOTATION.replace("<xmin>3</xmin>", "")),
        ("Annotations/11.xml", ANNOTATION.replace("<xmin>3</xmin>", "<xmin>nan</xmin>")),
        ("Annotations/11.xml", ANNOTATION.replace("<xmin>3</xmin>", "<xmin>1e300</xmin>")),
        ("Annotations/11.xml", ANNOTATION.replace("<width>500<", "<width>0<")),
        ("Annotations/11.xml", ANNOTATION.replace("<xmin>3</xmin>", "<xmin>three</xmin>")),
        ("Sentences/11.txt", "[/EN#1/people A child is not closed"),
        ("Sentences/11.txt", "[/EN#one/people A child] ."),
        ("Sentences/11.txt", b"[/EN#1/people A \xff child]"),
    ],
)
def test_a_file_in_a_wrong_format_is_named(folder, name, content):
    path = folder / name
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(UserError, match=re.escape(str(path))):
        read(folder)


@pytest.mark.parametrize("identity", ["../secret", "/etc/passwd", "a/../../b"])
def test_ids_are_no_paths(folder, identity):
    (folder / "test.txt").write_text(f"11\n{identity}\n")
    with pytest.raises(UserError, match=r"test\.txt: .* is no id of an image"):
        read(folder)


def test_entities_of_xml_neither_multiply_nor_read_files(folder):
    secret = folder / "secret.txt"
    secret.write_text("5")
    levels = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    multiply = f'<!DOCTYPE a [<!ENTITY e0 "1000000000">{levels}]>', "&e11;"
    reads = f'<!DOCTYPE a [<!ENTITY e SYSTEM "file://{secret}">]>', "&e;"
    for head, entity in (multiply, reads):
        text = head + ANNOTATION.replace("<width>500", f"<width>{entity}")
        (folder / "Annotations" / "11.xml").write_text(text)
        with pytest.raises(UserError, match="not an annotation of Flickr30k Entities"):
            read(folder)
