"""A text tower from definitions: related words are similar, and transformers reads it."""

import pytest
import torch
from torch.nn import functional as F

from detclip2.modeling.text.text_tower import TextTower, load_text_model, load_tokenizer
from projects.EmojiScenes.tools.make_text_tower import latent_vectors, texts_of, write_tower

TEXTS = [
    *["truck lorry motor vehicle a large vehicle that carries goods on a road"] * 3,
    *["dog puppy animal a domestic animal that barks and is kept in a house"] * 3,
    *["banana yellow fruit a fruit with a thick peel that grows in bunches"] * 3,
]


def test_tokens_of_the_same_documents_are_similar():
    documents = [[0, 1, 2]] * 4 + [[3, 4, 5]] * 4 + [[6, 7]] * 4
    vectors = latent_vectors(documents, 10, 6, own=0.0)
    assert vectors.shape == (10, 6)
    torch.testing.assert_close(vectors.square().mean(dim=1), torch.ones(10))
    cosine = F.cosine_similarity(vectors[:, None], vectors[None], dim=-1)
    group = torch.tensor([0, 0, 0, 1, 1, 1, 2, 2])
    same = group[:, None] == group
    assert cosine[:8, :8][same].min() > 0.99
    assert cosine[:8, :8][~same].abs().max() < 0.01


def test_vectors_equal_the_singular_vectors_of_tf_idf():
    """Against a dense computation, up to the signs of the vectors: all cosines agree."""
    generator = torch.Generator().manual_seed(0)
    documents = torch.randint(12, (40, 9), generator=generator).tolist()
    dense = torch.zeros(12, 40, dtype=torch.float64)
    for d, document in enumerate(documents):
        for t in set(document):
            seen = sum(t in other for other in documents)
            dense[t, d] = (1 + torch.tensor(document.count(t)).log()) * torch.tensor(
                40 / seen
            ).log()
    dense = F.normalize(dense, dim=0)
    left, strength, _ = torch.linalg.svd(dense, full_matrices=False)
    expected = left * strength.sqrt()
    found = latent_vectors(documents, 12, 12, own=0.0)
    cosines = [F.cosine_similarity(x[:, None], x[None], dim=-1) for x in (expected, found.double())]
    torch.testing.assert_close(*cosines, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_a_tower_gives_synonyms_similar_embeddings(tmp_path):
    write_tower(TEXTS, tmp_path)
    tower = TextTower(
        load_text_model(str(tmp_path)), load_tokenizer(str(tmp_path)), 64, pooling="mean"
    ).eval()
    with torch.no_grad():
        lorry, truck, puppy, dog = F.normalize(tower(["lorry", "truck", "puppy", "dog"]), dim=1)
    assert lorry @ truck > (lorry @ dog) + 0.2
    assert puppy @ dog > (puppy @ truck) + 0.2


class Synset:
    def __init__(self, names, definition, above=()):
        self.names, self.text, self.above = names, definition, above

    def lemma_names(self):
        return self.names

    def definition(self):
        return self.text

    def hypernyms(self):
        return self.above


def test_a_text_has_names_definition_and_hypernyms():
    vehicle = Synset(["motor_vehicle"], "it moves")
    truck = Synset(["truck", "motor_truck"], "it carries", [Synset(["car"], "x", [vehicle])])
    assert texts_of([truck]) == ["truck motor truck car motor vehicle it carries"]
