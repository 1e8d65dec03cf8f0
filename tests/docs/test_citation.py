"""CITATION.cff has the keys that its format requires (Citation File Format 1.2.0)."""

from pathlib import Path

from omegaconf import OmegaConf

ROOT = Path(__file__).parents[2]


def test_the_citation_has_every_required_key():
    citation = OmegaConf.to_container(OmegaConf.load(ROOT / "CITATION.cff"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["license"] == "Apache-2.0"
    for work in (citation, *citation["references"]):
        assert work["title"]
        assert work["authors"]
        for author in work["authors"]:
            assert author.keys() in ({"name"}, {"given-names", "family-names"})
    assert citation["message"]
    papers = [paper["url"].rpartition("/")[2] for paper in citation["references"]]
    assert papers == ["2304.04514", "2112.03857", "2206.05836"]
