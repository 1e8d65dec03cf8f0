"""DetCLIPv2: open-vocabulary detection learnt from boxes, grounded phrases and image-text pairs."""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["OpenVocabularyPredictor", "__version__"]

if TYPE_CHECKING:
    from detclip2.inference.predictor import OpenVocabularyPredictor


def __getattr__(name: str) -> Any:
    """Import the predictor on first use, so that ``import detclip2`` loads no framework."""
    if name == "OpenVocabularyPredictor":
        from detclip2.utils.quiet import without_upstream_warnings

        try:
            with without_upstream_warnings():
                from detclip2.inference.predictor import OpenVocabularyPredictor
        except ModuleNotFoundError as error:
            from detclip2.utils.errors import missing_package

            if not (sentence := missing_package(error)):
                raise
            raise ModuleNotFoundError(sentence, name=error.name) from None
        return OpenVocabularyPredictor
    raise AttributeError(f"module 'detclip2' has no attribute {name!r}")
