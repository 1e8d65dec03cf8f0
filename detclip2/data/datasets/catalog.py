"""Registration of data sets in Detectron2's catalogs."""

from collections.abc import Callable, Iterable
from typing import Any

from detectron2.data import DatasetCatalog, MetadataCatalog


def register(name: str, records: Callable[[], Any], **metadata: Any) -> None:
    """Register a data set; it replaces one of the same name, so that a config can be built twice.

    Args:
        name: name in DatasetCatalog and MetadataCatalog.
        records: returns the records, a sequence; called by ``DatasetCatalog.get``.
        **metadata: metadata of the data set.
    """
    for catalog in (DatasetCatalog, MetadataCatalog):
        if name in catalog:
            catalog.remove(name)
    DatasetCatalog.register(name, records)
    MetadataCatalog.get(name).set(**metadata)


def without_images(records: Any) -> Iterable[dict[str, Any]]:
    """The records, as far as they can be had without images, which synthetic scenes would draw."""
    return getattr(records, "records_without_images", lambda: records)()
