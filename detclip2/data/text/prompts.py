"""Phrases of category names, for training, evaluation and prediction.

The paper writes a category as "name, definition" in training and in evaluation (concept enrichment,
arXiv 2304.04514, sec. 3.1).
"""

from collections.abc import Iterable, Mapping
from typing import TypeAlias

from detclip2.data.text.clean import clean_phrase
from detclip2.data.text.concepts import ConceptDictionary
from detclip2.utils.errors import UserError

Definitions: TypeAlias = Mapping[str, str] | ConceptDictionary
"""Name -> definition."""


def check_templates(templates: str | Iterable[str]) -> tuple[str, ...]:
    """The templates, each with one "{}" for the name.

    Raises:
        UserError: there are no templates, or one does not have exactly one "{}".
    """
    templates = (templates,) if isinstance(templates, str) else tuple(templates)
    for template in templates:
        if template.count("{}") != 1:
            raise UserError(f'template {template!r} must hold "{{}}" once, where the name goes')
    if not templates:
        raise UserError('there are no templates: give at least "{}"')
    return templates


def definition_of(name: str, definitions: Definitions | None) -> str:
    """The definition of a name; "" if it has none."""
    if isinstance(definitions, ConceptDictionary):
        return definitions.definition(name)
    return (definitions or {}).get(name, "")


def prompts_of(name: str, templates: Iterable[str] = ("{}",), definition: str = "") -> list[str]:
    """The phrases of a name, one a template, each followed by the definition: "cat, a pet"."""
    ending = f", {clean_phrase(definition)}" if definition else ""
    return [template.replace("{}", clean_phrase(name)) + ending for template in templates]
