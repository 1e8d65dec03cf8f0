from pathlib import Path

import pytest

from detclip2.cli import main as detclip2
from detclip2.data.text.concepts import ConceptDictionary

WORDNET = Path("/usr/share/wordnet")


def test_mistakes_are_sentences(tmp_path, capsys):
    output = ["--output", str(tmp_path / "out.jsonl")]
    for arguments, message in [
        (["--categories", "list.txt"], "SOURCE=FILE"),
        (["--categories", f"a={tmp_path}/none.txt"], "does not exist"),
        (["--wordnet", str(tmp_path)], "WordNet in"),
    ]:
        assert detclip2(["concepts", *output, *arguments]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.skipif(not (WORDNET / "data.noun").exists(), reason="WordNet is not installed")
def test_wordnet(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("spring\nfire engines\nno such thing\ndog\n")
    output = tmp_path / "concepts.jsonl"
    words = ["--output", output, "--categories", f"mine={names}", "--wordnet", WORDNET]
    assert detclip2(["concepts", *map(str, words), "--wordnet-under", "dog.n.01"]) == 0
    concepts = ConceptDictionary.load(output)
    spring, engine, nothing, dog = concepts.concepts[:4]
    assert "elastic" in spring.definition  # the coil, not the season
    assert (engine.name, engine.source) == ("fire engines", "mine+wordnet")
    assert "fire truck" in engine.synonyms
    assert (nothing.definition, nothing.source) == ("", "mine")
    assert concepts.lookup("dalmatian").source == "wordnet"
    assert concepts.lookup("domestic dog") == dog
