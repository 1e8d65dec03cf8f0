import gzip
import json

from projects.Photographs.tools import attribution, prepare_data


def test_every_photograph_of_the_training_has_one_line(photos, tmp_path, capsys):
    data, output = tmp_path / "data", tmp_path / "ATTRIBUTION.tsv"
    prepare_data.main([str(photos), "--output", str(data)])
    lines = (data / "names.jsonl").read_text().splitlines()
    (data / "names.jsonl").write_text(lines[0] + "\n")  # the other one is kept out
    capsys.readouterr()
    arguments = [str(photos), "--data", str(data), "--output", str(output)]
    assert attribution.main(arguments) == 0
    rows = [line.split("\t") for line in output.read_text().splitlines()]
    assert rows == [
        ["file", "licence", "page", "source"],
        ["boxes/images/a.png", "CC BY 2.0", "https://example.org/a", "here"],
        ["boxes/images/b.png", "CC BY 2.0", "https://example.org/b", "here"],
        ["pairs/x.png", "MIT", "", "there"],
    ]
    assert capsys.readouterr().out.splitlines()[:2] == ["CC BY 2.0: 2", "MIT: 1"]
    packed = tmp_path / "ATTRIBUTION.tsv.gz"
    assert attribution.main([*arguments[:-1], str(packed)]) == 0
    assert gzip.decompress(packed.read_bytes()) == output.read_bytes()


def test_a_photograph_without_a_licence_is_refused(photos, tmp_path, capsys):
    data = tmp_path / "data"
    prepare_data.main([str(photos), "--output", str(data)])
    content = json.loads((photos / "boxes/train.json").read_text())
    del content["images"][1]["license"]
    (photos / "boxes/train.json").write_text(json.dumps(content))
    arguments = [str(photos), "--data", str(data), "--output", str(tmp_path / "a.tsv")]
    assert attribution.main(arguments) == 2
    assert "a photograph has no 'license'" in capsys.readouterr().err
    assert not (tmp_path / "a.tsv").exists()
