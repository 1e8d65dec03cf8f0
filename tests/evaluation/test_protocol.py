import hashlib

from detclip2.evaluation.protocol import Protocol, annotations_of, file_hash


def test_the_hash_is_the_start_of_sha256(tmp_path):
    path = tmp_path / "annotations.json"
    content = b"[1, 2]" * 1_000_000  # more than is read at once
    path.write_bytes(content)
    assert file_hash(path) == hashlib.sha256(content).hexdigest()[:8]
    assert annotations_of(path) == f"annotations.json sha256 {file_hash(path)}"
    path.write_bytes(content + b" ")
    assert file_hash(path) != hashlib.sha256(content).hexdigest()[:8]


def test_a_protocol_is_one_line_that_says_everything():
    protocol = Protocol("my_val", "val.json sha256 0123abcd", "80 names", "100 an image", "AP")
    assert str(protocol) == (
        "Protocol: my_val (val.json sha256 0123abcd); prompts: 80 names; "
        "detections kept: 100 an image; AP"
    )
