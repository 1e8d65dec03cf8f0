"""Two exported graphs, each made once: an export takes seconds."""

import pytest

import detclip2.export  # noqa: F401  (before ONNX Runtime is imported: it sends no events then)


@pytest.fixture(scope="package")
def nano_predictor(nano_folder):
    from detclip2.inference.predictor import OpenVocabularyPredictor

    files = nano_folder / "config.yaml", nano_folder / "model.safetensors"
    return OpenVocabularyPredictor(*files, "cpu")


@pytest.fixture(scope="package")
def export_nano(nano_predictor, nano_folder, tmp_path_factory):
    """Run ``detclip2 export`` for an input of 96 x 128 -> the path; the model is traced once."""
    from unittest.mock import patch

    from detclip2.cli import main
    from detclip2.export import graph

    size = (96, 128)
    info = graph.info_of(nano_predictor, None, size)
    content = graph.traced(graph.DetectorGraph(nano_predictor.model), info).SerializeToString()
    folder = tmp_path_factory.mktemp("graphs")

    def export(name, *options):
        import onnx

        output = ["--output", folder / name, "--size", "96x128", "--model", nano_folder]
        with patch.object(graph, "traced", lambda *args: onnx.ModelProto.FromString(content)):
            assert main(["export", *map(str, (*output, *options))]) == 0
        return folder / name

    return export


@pytest.fixture(scope="package")
def nano_graph(export_nano):
    """The graph of the nano model at 96 x 128, with the vocabulary as an input."""
    return export_nano("nano.onnx")


@pytest.fixture(scope="package")
def tiny_predictor():
    """A predictor without text tower, with an encoded vocabulary of 3 labels and 4 names."""
    import torch
    from detectron2.config import instantiate

    from detclip2.config import InferenceSettings
    from detclip2.inference.predictor import OpenVocabularyPredictor
    from detclip2.inference.vocabulary import Vocabulary
    from tests.helpers.tiny_detector import config_of_two_levels

    cfg = config_of_two_levels()
    cfg.text_tower = None
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = instantiate(cfg)
        rows = torch.nn.functional.normalize(torch.randn(5, model.embed_dim), dim=1)
        # Scores of random weights are almost equal; these differ.
        torch.nn.init.normal_(model.head.centerness.weight, std=0.2)
        torch.nn.init.normal_(model.head.box.weight, std=0.3)
    predictor = OpenVocabularyPredictor.from_model(model, InferenceSettings(96, 160))
    names = ["red apple", "пёс", ["bat", "club"]]
    vocabulary = Vocabulary.from_names(names, synonyms="max").with_thresholds({"пёс": 0.12})
    predictor.set_vocabulary(vocabulary.encode(lambda texts: rows[: len(texts)], "an encoder"))
    return predictor


@pytest.fixture(scope="package")
def free_graph(tiny_predictor, tmp_path_factory):
    """The graph of `tiny_predictor` at free sizes, with its vocabulary folded in."""
    from detclip2.export import export_onnx, write_onnx

    path = tmp_path_factory.mktemp("graphs") / "free.onnx"
    write_onnx(export_onnx(tiny_predictor, tiny_predictor.vocabulary), path)
    return path
