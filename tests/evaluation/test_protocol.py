import hashlib

from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators

from detclip2.evaluation.protocol import Protocol, annotations_of, file_hash
from detclip2.evaluation.streaming import StreamingEvaluator, set_vocabulary_description
from detclip2.inference.vocabulary import Vocabulary


def test_the_hash_is_a_prefix_of_sha256(tmp_path):
    path = tmp_path / "annotations.json"
    content = b"[1, 2]" * 1_000_000  # larger than one read
    path.write_bytes(content)
    assert file_hash(path) == hashlib.sha256(content).hexdigest()[:8]
    assert annotations_of(path) == f"annotations.json sha256 {file_hash(path)}"
    path.write_bytes(content + b" ")
    assert file_hash(path) != hashlib.sha256(content).hexdigest()[:8]


def test_a_protocol_is_one_complete_line():
    protocol = Protocol("my_val", "val.json sha256 0123abcd", "100 an image", "AP", "80 names")
    assert str(protocol) == (
        "Protocol: my_val (val.json sha256 0123abcd); prompts: 80 names; "
        "detections kept: 100 an image; AP"
    )
    nobody_said = Protocol("my_val", "val.json", "100 an image", "AP")
    assert "prompts: not stated;" in str(nobody_said)


class Plain(StreamingEvaluator):
    """One of our evaluators, without metrics."""

    def __init__(self):
        super().__init__(Protocol("my_val", "val.json", "all", "nothing"), (), "val.json")


def test_the_protocol_describes_the_vocabulary():
    """Several evaluators together too; those of Detectron2 cannot store it."""
    ours, other = Plain(), DatasetEvaluator()
    vocabulary = Vocabulary.from_names(["cat", "dog"], ["a {}"], {"dog": "it barks"})
    set_vocabulary_description(DatasetEvaluators([other, ours]), vocabulary.description)
    set_vocabulary_description(other, vocabulary.description)
    asked = "prompts: 2 names (cat, dog), 1 template (a {}), 1 with definitions;"
    assert asked in str(ours.protocol)
