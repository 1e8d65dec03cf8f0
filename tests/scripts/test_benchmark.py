"""The benchmark's parts on small models; times are not checked."""

import json
import queue

import numpy as np
import pytest
import torch


@pytest.fixture
def setting():
    from scripts.benchmarks.timing import Setting

    return Setting(repeats=2)


def small_reference(setting):
    return lambda: torch.ones(100, 100) @ torch.ones(100, 100)


@pytest.mark.parametrize("pairs", [0, 10, 700])
def test_the_requested_number_of_scores_survives(setting, pairs):
    from scripts.benchmarks.models import build, image_of, let_survive, vocabulary_of

    model, pixels = build("nano", setting), image_of((64, 96))
    vocabulary = vocabulary_of(30, model)
    assert let_survive(model, pixels, vocabulary, pairs) == pairs
    with torch.no_grad():
        outputs = model.encode_images(model.preprocess_image([{"image": pixels}]))
        scores = model.align(outputs.regions[0], vocabulary).sigmoid()
        scores = (scores * outputs.centerness[0].sigmoid()[:, None]).sqrt()
    assert abs(int((scores > model.postprocess.thresholds.score_threshold).sum()) - pairs) <= 1


def test_a_result_names_the_machine_and_its_device(setting):
    from scripts.benchmarks.timing import machine

    about = machine(setting)
    assert about["device"] == "cpu"
    assert about["machine"] not in ("", "cpu")


def test_names_are_distinct_and_as_many_as_requested():
    from scripts.benchmarks.models import names_of

    for count in (1, 80, 1203, 13204):
        names = names_of(count)
        assert len(names) == len(set(names)) == count


@pytest.mark.parametrize("text", ["cached", "encoded"])
def test_a_row(setting, monkeypatch, text):
    from scripts.benchmarks import inference, timing

    times = {"model": iter((6.0, 10.0)), "reference": iter((2.0, 5.0))}

    def seconds(run, device, clock):
        run()
        return next(times["reference" if run is the_reference else "model"])

    the_reference = small_reference(setting)
    monkeypatch.setattr(timing, "reference", lambda setting: the_reference)
    monkeypatch.setattr(timing, "seconds", seconds)
    setting.row_seconds = float("inf")
    case = inference.Case(5, (64, 96), text=text, batch=2, survivors=20, model="nano")
    row = inference.measure(case, setting)
    assert (row["names"], row["text"], row["survivors"]) == (5, text, 20)
    # One image of two, relative to the reference of the same turn: 6 / 2 / 2 and 10 / 5 / 2.
    assert row["ratio"] == {"median": 1.25, "least": 1.0, "most": 1.5}
    assert row["seconds"]["median"] == 8
    assert row["peak_MiB"] >= row["peak_MiB_before"] > 0


@pytest.mark.parametrize("direction", ["text_to_image", "both"])
def test_the_contrast_of_a_small_batch_is_measured(direction):
    from scripts.benchmarks import cli, contrast

    sizes = "--images 6 --processes 2 --regions 4 --words 2 --width 8 --repeats 1 --device cpu"
    args = cli.arguments(["contrast", *sizes.split(), "--direction", direction])
    row = contrast.measure(args)
    assert row["images"] == 6
    assert row["direction"] == direction
    assert row["ratio"]["median"] > 0


@pytest.mark.slow
def test_graphs_of_the_budgets_detect_what_the_model_detects(setting, monkeypatch, tmp_path):
    pytest.importorskip("openvino")
    from scripts.benchmarks import budgets
    from scripts.benchmarks.inference import Case

    build = budgets.build
    monkeypatch.setattr(budgets, "build", lambda size, setting: build("nano", setting))
    case = Case(80, (64, 96), survivors=20, model="nano")
    budgets.export(tmp_path, case.size, setting)
    torch.manual_seed(0)
    counts = [
        len(budgets.detector(budgets.Row(case, engine, precision), tmp_path, setting)())
        for engine in budgets.ENGINES
        for precision in budgets.PRECISIONS
    ]
    assert len(counts) == 4
    assert min(counts) > 0


def test_the_rows_of_the_budgets():
    """Those of the design, in PyTorch, and one image of each size in each graph."""
    from scripts.benchmarks import budgets

    rows = list(budgets.rows())
    plain = {(*r.case.size, r.case.names, r.case.batch) for r in rows if r.engine == "PyTorch"}
    sizes = {(800, 1333, names, 1) for names in (80, 1203, 13204)}
    assert plain == sizes | {(640, 640, 80, 1), (640, 640, 80, 8), (800, 1333, 80, 8)}
    assert len(rows) == len(plain) + 2 * 2 * 2


def test_the_model_of_photographs_is_measured_at_the_size_of_its_inference(setting):
    from scripts.benchmarks import budgets

    cases = [row.case for row in budgets.photograph_rows()]
    assert [(case.names, min(case.size)) for case in cases] == [(80, 320), (1203, 320)]
    assert len(budgets.prepared(cases[0], setting)[0]()) > 0


def test_processor_time_leaves_out_waiting(setting, monkeypatch):
    import time

    from scripts.benchmarks import timing

    monkeypatch.setattr(timing, "reference", lambda setting: small_reference(setting))
    setting.processor_time = True
    clocks = []
    monkeypatch.setattr(timing, "seconds", lambda run, device, clock: clocks.append(clock) or 1.0)
    timing.relative_to_reference(lambda: None, setting)
    assert set(clocks) == {time.process_time}


def test_shares_of_stages_sum_to_one(setting):
    from scripts.benchmarks.inference import Case, stages

    row = stages(Case(5, (64, 96), survivors=20, model="nano"), setting)
    assert sum(row["shares"].values()) == pytest.approx(1, abs=0.01)
    assert min(row["shares"].values()) >= 0
    assert row["seconds"]["similarity"] > 0
    assert {"backbone", "pyramid", "deformable layer", "similarity"} <= row["shares"].keys()


def test_clocks_restore_the_model(setting):
    from scripts.benchmarks.inference import clocks
    from scripts.benchmarks.models import build

    model = build("nano", setting)
    postprocess, forward = model.postprocess, model.head.forward
    with clocks(model, "cpu"):
        assert model.head.forward != forward
    assert model.postprocess is postprocess
    assert model.head.forward == forward
    assert "preprocess_image" not in vars(model)


def test_perfect_detections_of_scenes_have_an_ap_of_100(emoji_font):
    from detclip2.data.emojiscenes.scenes import EmojiScenes
    from detclip2.evaluation.coco_api import average_precision
    from scripts.benchmarks import export

    scenes = EmojiScenes(20, "val", count=3, size=export.SIZE)
    boxes = [[(o["bbox"], o["category_id"]) for o in r["annotations"]] for r in scenes]
    found = iter([boxes[0], *boxes])  # the first scene is seen twice

    def detect(image):
        assert image.shape == (export.SIZE, export.SIZE, 3)
        objects = next(found)
        box, classes = map(np.array, zip(*objects, strict=True))
        return box, np.ones(len(objects)), classes

    results, seconds = export.run({"perfect": detect}, scenes)
    assert len(seconds["perfect"]) == len(results["perfect"]) == 3
    detections = export.entries_of(results["perfect"])
    metrics, _ = average_precision(range(20), export.truth_of(scenes), detections)
    assert metrics["AP"] == pytest.approx(100)


def test_captions_of_glip_are_extrapolated(setting, monkeypatch):
    """2 of 5 captions: what is once for all is not multiplied."""
    from scripts.benchmarks import glip
    from tests.helpers.tiny_glip import tiny_glip

    model, seen = tiny_glip(), []
    monkeypatch.setattr(glip, "build", lambda setting: model.eval())
    monkeypatch.setattr(glip, "SIZE", (64, 96))
    monkeypatch.setattr(glip, "shared_seconds", lambda *args: 4.0)

    def relative(run, setting):
        seen.extend(run())
        times = {"median": 10.0, "least": 8.0, "most": 12.0}
        return {"ratio": {key: 2 * value for key, value in times.items()}, "seconds": times}

    monkeypatch.setattr(glip, "relative_to_reference", relative)
    monkeypatch.setattr(glip, "TOKENIZER", "resource://text_tower_nano")  # the model's
    row = glip.measure(glip.Case("GLIP-T", 30, 6, measured=2), setting)
    assert (row["captions"], row["measured"]) == (5, 2)
    assert row["seconds"] == pytest.approx({"median": 19, "least": 15.2, "most": 22.8})
    assert row["ratio"]["median"] == pytest.approx(38)
    assert len(seen[0]) > 0  # the threshold lets detections through
    assert seen[0].pred_classes.max() < 12  # of the first two captions


TINY = {"model": "nano", "detection": (64, 96), "pair": (64, 64), "names": 5, "batches": (1, 2)}
TINY |= {"detections": 1, "captions": 2, "peers": ("nobody",)}


@pytest.mark.slow
def test_what_matters_on_a_gpu_is_measured_or_said_to_be_missing(setting):
    """On a CPU with tiny models: no CUDA graphs, and a peer that fails."""
    from scripts.benchmarks import gpu

    sizes = gpu.Sizes(**TINY, provider="CPUExecutionProvider")
    rows = queue.Queue()
    gpu.work(rows, setting, sizes, [i for i in gpu.items(sizes) if i.way != "compile"])
    found = list(rows.queue)
    measured = [row for row in found if "why" not in row]
    assert [row["what"] for row in measured] == [
        *["inference"] * 4,
        *("train_detection", "train_pairs", "exported"),
    ]
    for row in measured:
        assert row["seconds"]["least"] > 0
        assert row["what"] == "exported" or row["share_of_peak"] > 0
    why = {row["way"]: row["why"] for row in found if "why" in row}
    assert why == {"graph": "skipped: CUDA graphs need a GPU", "nobody": "failed: 'nobody'"}


@pytest.mark.processes
def test_what_the_budget_leaves_out_is_named(setting):
    from scripts.benchmarks import gpu, report

    result = gpu.measure(setting, 0, gpu.Sizes(**TINY))
    assert [row["what"] for row in result["rows"]] == [i.what for i in gpu.items(gpu.Sizes(**TINY))]
    assert {row["why"] for row in result["rows"]} == {"skipped: the budget of 0 s was over"}
    head, *rows = report.gpu_rows(result)
    assert {len(row) for row in rows} == {len(head)}


@pytest.mark.slow
def test_the_versions_of_the_nano_training_are_measured(setting):
    from scripts.benchmarks import training

    rows = training.measure_nano(setting, images=1, edge=64, names=6)
    assert [(row["precision"], row["channels_last"]) for row in rows] == [
        ("float32", False),
        ("bfloat16", True),
    ]
    assert rows[0]["speed"] == {"median": 1, "least": 1, "most": 1}


@pytest.mark.slow
def test_the_methods_are_measured_side_by_side(setting):
    from scripts.benchmarks import methods

    rows = methods.measure(setting, names=(2, 30), edge=64, batch=2)
    assert [row["model"] for row in rows] == ["DetCLIPv2", "GLIP", "GLIPv2"]
    for what in ("2", "detection", "grounding"):
        assert rows[0][what] == {"median": 1, "least": 1, "most": 1}
    assert min(row[what]["least"] for row in rows for what in ("30", "grounding")) > 0


def test_peers_are_described():
    from scripts.benchmarks import peers

    assert peers.PEERS.keys() == peers.DESCRIPTIONS.keys() >= peers.SLOW


def result(name):
    """The json's entry of a subject."""
    spread = {"median": 1.25, "least": 1.0, "most": 1.5}
    row = {"names": 80, "size": [800, 1333], "ratio": spread, "seconds": spread, "peak_MiB": 1234}
    results = {
        "inference": [
            {**row, "model": "swin_t", "text": "cached", "batch": 1, "survivors": 3000},
            {**row, "model": "swin_t", "text": "cached", "batch": 1, "survivors": 10**8},
        ],
        "stages": [{**row, "shares": {"backbone": 0.6}, "seconds": {"backbone": 1.4}}],
        "peers": {
            "peers": [{**row, "model": "FCOS", "size": "800 x 1333"}],
            "ours_against": [{**row, "peer": "omdet-turbo", "size": "640 x 640"}],
        },
        "glip": [
            {**row, "model": "GLIP-T", "names_per_caption": most, "captions": 31, "measured": 3}
            | {"tokens": 120}
            for most in (None, 40)
        ],
        "growth": {
            "names": [{"case": 1, "seconds": spread}, {"case": 80, "seconds": spread}],
            "pixels": [{"case": "320 x 320", "pixels": 102400, "seconds": spread}],
        },
        "training": {"captions": 16, "detections": 1, "share": spread, "peak_MiB": 5000},
        "training_nano": [
            {"precision": "bfloat16", "channels_last": True, "seconds": spread, "speed": spread}
        ],
        "methods": [{"model": "GLIP", "milliseconds": spread, "20": spread, "detection": spread}],
        "gpu": {
            "rows": [
                {"what": "inference", "way": "eager", "dtype": "float32", "batch": 1}
                | {"seconds": spread, "peak_MiB": 9, "share_of_peak": 0.4},
                {"what": "peer", "way": "fcos", "dtype": "float32", "batch": 1, "why": "skipped"},
            ]
        },
        "contrast": dict.fromkeys(
            ("images", "processes", "regions", "words", "width", "peak_MiB"), 7
        )
        | dict.fromkeys(("seconds", "floor_seconds", "ratio"), spread),
        "loading": {
            "samples_a_second_a_core": [{"source": "scenes", "input": "320 x 320", **spread}],
            "shards": {"of_cv2": spread, "of_pillow": spread},
            "pairs_of": {"webdataset": spread, "stream": spread},
            "text_of_pairs": {
                "pairs": 192,
                "phrases": 7,
                "by_phrases": spread,
                "by_tokens": spread,
            },
            "detection_of_detectron2": spread,
        },
        "budgets": [
            {"model": "swin_t", "engine": "OpenVINO", "precision": "int8", "size": [640, 640]}
            | {"names": 80, "batch": 1, "ratio": spread, "seconds": spread, "peak_MiB": 900}
        ],
        "photographs": [
            {"model": "photo_nano", "engine": "PyTorch", "precision": "fp32", "size": [320, 427]}
            | {"names": 80, "batch": 1, "ratio": spread, "seconds": spread, "peak_MiB": 900}
        ],
        "startup": {"detclip2 --help": {"first": 1.0, **spread}},
        "evaluation": [
            {"protocol": "COCO", "images": 9, "names": 80, "detections": 900, "difference": 1e-9}
            | dict.fromkeys(("detectron2_seconds", "seconds", "times_faster"), spread)
        ],
        "export": [
            {"what": "int8", "scenes": 9, "names": 80, "AP": 70.25, "AP50": 80.5}
            | {"cpu_ms": spread, "of_fp32": spread, "MB": 3.5}
        ],
        "serving": [
            dict.fromkeys(("clients", "seconds", "requests", "bad", "errors", "a_second"), 4)
            | {"ms": spread, "p95_ms": 1500, "MiB": [900, 1100, 1000]}
        ],
    }
    results["scenes"] = results["loading"]
    return results[name]


def test_the_page_is_filled_from_the_json(tmp_path):
    from scripts.benchmarks import report

    about = {"command": "python x", "date": "2026-11-26", "machine": "a CPU", "threads": 2}
    about |= {"torch": "2", "dtype": "float32", "repeats": 5}
    results = {name: {**about, "result": result(name)} for name in report.ROWS}
    del results["peers"]
    (tmp_path / "results.json").write_text(json.dumps(results))
    page = tmp_path / "page.md"
    tables = (f"## {name}\n\n<!-- table of {name} -->\n<!-- end -->\n" for name in report.ROWS)
    page.write_text("before\n" + "\n".join(tables) + "after\n")
    report.write(tmp_path / "results.json", page, tmp_path / "growth.png")
    once = page.read_text()
    assert once.startswith("before\n")
    assert once.endswith("after\n")
    assert once.count("Not measured yet.") == 1
    assert "1.25 [1.00, 1.50]" in once
    assert "`python x`, 2026-11-26, a CPU, 2 threads" in once
    assert (tmp_path / "growth.png").read_bytes().startswith(b"\x89PNG")
    report.write(tmp_path / "results.json", page, tmp_path / "growth.png")
    assert page.read_text() == once


@pytest.mark.parametrize(
    "subject",
    [
        *("inference", "stages", "peers", "glip", "growth", "training", "contrast"),
        *("budgets", "loading", "export", "serving", "training_nano", "methods", "gpu"),
        "photographs",
    ],
)
def test_every_table_is_as_wide_as_its_header(subject):
    from scripts.benchmarks import report

    head, *rows = report.ROWS[subject](result(subject))
    assert rows
    assert {len(row) for row in rows} == {len(head)}
    report.show(subject, result(subject))


def test_the_page_of_the_docs_has_every_table(request):
    from scripts.benchmarks import report

    text = (request.config.rootpath / "docs" / "performance.md").read_text()
    names = {match["name"].split()[0] for match in report.MARKER.finditer(text)}
    assert names == report.ROWS.keys() - {"scenes"}


def test_a_new_result_is_kept_beside_the_others(tmp_path, monkeypatch):
    from scripts.benchmarks import cli

    results = tmp_path / "results.json"
    results.write_text(json.dumps({"startup": 1}))
    monkeypatch.setitem(cli.MEASURE, "training", lambda args, setting: result("training"))
    assert cli.main(["training", "--json", str(results), "--device", "cpu"]) == 0
    kept = json.loads(results.read_text())
    assert kept["startup"] == 1
    assert kept["training"]["result"] == result("training")
    assert kept["training"]["command"].startswith("python scripts/benchmark.py training")
    monkeypatch.setitem(cli.MEASURE, "growth", lambda args, setting: result("growth"))
    half = ["growth", "--dtype", "bfloat16", "--compile"]
    assert cli.main([*half, "--json", str(results), "--device", "cpu"]) == 0
    assert "growth bfloat16 compile" in json.loads(results.read_text())
