"""A web page of gradio: an image and words in, boxes, heat maps and json out. docs/serve.md."""

import functools
import html
import os
import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Gradio asks for its newest version, and reports its use, unless this is set when it is imported.
os.environ.setdefault("GRADIO_ANALYTICS_ENABLED", "False")

import gradio as gr
import numpy as np
from detectron2.structures import Boxes, Instances
from PIL import Image

from detclip2.data.io.image import read_image
from detclip2.data.text.caption_phrases import CaptionPhrases
from detclip2.data.text.names import split_names
from detclip2.inference.explain import explain
from detclip2.inference.predictor import OpenVocabularyPredictor
from detclip2.inference.results_file import Results
from detclip2.serving.limits import Limits
from detclip2.utils.errors import UserError
from detclip2.utils.files import write_json
from detclip2.visualization.detections import draw_instances
from detclip2.visualization.explanation import draw_explanation

NAMES, CAPTION = "names, separated by commas", "a caption"
LOWEST = 0.05
"""Scores that the threshold can reach; detections are found once and then filtered."""
SHOWN = 1280  # px, the longer side of what is drawn
EXPLAINED = 12  # words, each of which has a map of the image
BUTTONS: Any = ["fullscreen", "download"]  # without gradio's "share", on another host
SESSIONS = 32  # visitors whose last image is kept
HOUR = 3600

HELP = (
    "Drop an image, say what to look for, and press **Detect**. The threshold moves without "
    "another pass. **What each word looked at** draws a heat map for each word."
)


@dataclass(frozen=True, eq=False)
class Found:
    """What was detected in the image of a visitor."""

    path: Path
    image: np.ndarray
    """(H, W, 3) uint8 RGB, at most `SHOWN` px."""
    labels: tuple[str, ...]
    """Of the vocabulary."""
    instances: Instances
    """Of the whole image, with scores from `LOWEST`."""

    def above(self, threshold: float) -> Instances:
        """The detections with at least this score."""
        return self.instances[self.instances.scores >= threshold]

    def drawn(self, threshold: float) -> np.ndarray:
        """Them in the image."""
        chosen = self.above(threshold)
        factor = self.image.shape[1] / chosen.image_size[1]
        chosen.pred_boxes = Boxes(chosen.pred_boxes.tensor * factor)
        return draw_instances(self.image, chosen)

    def rows(self, threshold: float) -> list[list[Any]]:
        """Label, score and XYXY px of each."""
        chosen = self.above(threshold)
        boxes = chosen.pred_boxes.tensor.round().int().tolist()
        scores = (round(score, 3) for score in chosen.scores.tolist())
        return [[a, b, *c] for a, b, c in zip(chosen.labels, scores, boxes, strict=True)]

    def write(self, threshold: float, folder: Path) -> Path:
        """Write them as `Results` into a folder."""
        results = Results(self.labels)
        results.add(self.path.name, self.above(threshold))
        path = folder / f"{self.path.stem}.json"
        write_json(path, results.content(), indent=None)
        return path


def find(predictor: OpenVocabularyPredictor, path: Path, text: str, kind: str) -> Found:
    """Detect what a text names in an image.

    Args:
        predictor: it detects.
        path: of the image.
        text: names or a caption.
        kind: `NAMES` or `CAPTION`.

    Raises:
        UserError: the image cannot be read, or the text names nothing.
    """
    image = read_image(path, path.name, Limits().pixels)
    asked = predictor.prepare(_asked(text, kind))
    instances = predictor(image, vocabulary=asked, score_threshold=LOWEST)
    factor = min(1, SHOWN / max(image.shape[:2]))
    size = [max(1, round(length * factor)) for length in image.shape[1::-1]]
    shown = np.asarray(Image.fromarray(image).resize((size[0], size[1])))
    return Found(path, shown, asked.vocabulary.labels, instances)


def look(predictor: OpenVocabularyPredictor, path: Path, text: str, kind: str) -> np.ndarray:
    """Draw which region each word chooses, and its similarity over the image.

    Raises:
        UserError: as `find`; or there are more than `EXPLAINED` words.
    """
    asked = _asked(text, kind)
    if len(asked) > EXPLAINED:
        raise UserError(f"there are {len(asked)} words; at most {EXPLAINED} are explained at once")
    image = read_image(path, path.name, Limits().pixels)
    if isinstance(asked, CaptionPhrases):
        return draw_explanation(explain(predictor, image, asked.caption))
    return draw_explanation(explain(predictor, image, ", ".join(asked), asked))


def build(predictor: OpenVocabularyPredictor, note: str = "") -> gr.Blocks:
    """The page.

    Args:
        predictor: it detects.
        note: a sentence about the model, below the title.
    """
    folder = tempfile.TemporaryDirectory(prefix="detclip2-")
    start = max(LOWEST, predictor.effective_thresholds.score_threshold or 0)

    def detect(
        image: dict[str, Any] | None, text: str, kind: str, threshold: float, request: gr.Request
    ) -> tuple[Any, ...]:
        found = find(predictor, _path(image), text, kind)
        return found, *show(found, threshold, request)

    def show(found: Found | None, threshold: float, request: gr.Request) -> tuple[Any, ...]:
        if found is None:
            return None, None, gr.DownloadButton(interactive=False)
        own = Path(folder.name, str(request.session_hash))
        file = gr.DownloadButton(value=found.write(threshold, own), interactive=True)
        return found.drawn(threshold), found.rows(threshold), file

    def looked(image: dict[str, Any] | None, text: str, kind: str) -> np.ndarray:
        return look(predictor, _path(image), text, kind)

    def forget(request: gr.Request) -> None:
        shutil.rmtree(Path(folder.name, str(request.session_hash)), ignore_errors=True)

    with gr.Blocks(title="detclip2", analytics_enabled=False, delete_cache=(HOUR, HOUR)) as page:
        gr.Markdown(f"# detclip2\n{HELP}\n\n{note}")
        found = gr.State(time_to_live=HOUR)
        with gr.Row():
            with gr.Column():
                image = gr.Image(
                    type="filepath", sources=["upload", "clipboard"], label="Image", buttons=BUTTONS
                )
                kind = gr.Radio([NAMES, CAPTION], value=NAMES, label="What to look for is")
                text = gr.Textbox(label="What to look for", placeholder="red apple, fire engine")
                threshold = gr.Slider(LOWEST, 1, start, step=0.01, label="Threshold of the score")
                with gr.Row():
                    run = gr.Button("Detect", variant="primary")
                    why = gr.Button("What each word looked at")
            with gr.Column():
                drawn = gr.Image(label="Found", interactive=False, format="jpeg", buttons=BUTTONS)
                head = ["label", "score", "x1", "y1", "x2", "y2"]
                table = gr.Dataframe(headers=head, label="Detections, px", interactive=False)
                download = gr.DownloadButton("Download json", interactive=False)
        with gr.Accordion("What each word looked at"):
            heat = gr.Image(
                interactive=False, format="jpeg", buttons=BUTTONS, show_label=False, container=False
            )
        shown = [drawn, table, download]
        # Gradio would decode an image itself, with other limits and messages.
        raw: dict[str, Any] = {"preprocess": False, "show_progress": "minimal"}
        asked = [image, text, kind]
        gr.on(
            [run.click, text.submit],
            _told(detect),
            [*asked, threshold],
            [found, *shown],
            **raw,
            api_name="detect",
        )
        why.click(_told(looked), asked, heat, **raw, api_name="look")
        threshold.input(
            _told(show),
            [found, threshold],
            shown,
            show_progress="hidden",
            trigger_mode="always_last",
            api_visibility="private",
        )
        page.unload(forget)
    return page


def launch(page: gr.Blocks, host: str, port: int) -> str:
    """Serve the page from a thread, and return its address.

    Nothing is loaded from other hosts, and nothing is reported to them.

    Raises:
        UserError: the port is taken.
    """
    try:
        _, address, _ = page.launch(
            server_name=host,
            server_port=port,
            share=False,
            quiet=True,
            prevent_thread_lock=True,
            max_file_size=Limits().body_bytes,
            state_session_capacity=SESSIONS,
            footer_links=[],
            ssr_mode=False,
            mcp_server=False,
            enable_monitoring=False,
        )
    except OSError as error:
        raise UserError(
            f"{host}:{port}: the page cannot be served there ({error}): choose --host and --port"
        ) from None
    return address


def _asked(text: str, kind: str) -> CaptionPhrases | list[str]:
    if not text.strip():
        raise UserError("say what to look for, such as: red apple, fire engine")
    if kind == CAPTION:
        return CaptionPhrases.find(text)
    names, limit = split_names(text), Limits().names
    if len(names) > limit:
        raise UserError(f"there are {len(names):,} names; the limit is {limit:,}")
    return names


def _path(image: dict[str, Any] | None) -> Path:
    """Of an image that was uploaded; gradio has checked that it is one of those."""
    if image is None:
        raise UserError("drop an image first")
    return Path(image["path"])


def _told(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function, whose UserErrors the page shows."""

    @functools.wraps(function)
    def call(*args: Any) -> Any:
        try:
            return function(*args)
        except UserError as error:
            # The page reads it as html.
            raise gr.Error(html.escape(str(error)), print_exception=False) from None

    return call
