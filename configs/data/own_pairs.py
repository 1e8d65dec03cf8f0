"""Your own boxes, in COCO's format, and image-text pairs as jsonl, tsv or tar shards.

docs/pairs.md shows the files of the folder `own.folder`.
"""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from detclip2.data.datasets.captions import CaptionJsonl, CaptionTsv
from detclip2.data.datasets.detection import detection_set, names_of_json
from detclip2.data.hybrid_loader import Source
from detclip2.data.io.shards import ImageTextShards
from detclip2.data.mappers import CaptionMapper, DetectionMapper

own = dict(folder="${oc.env:DETECTRON2_DATASETS}/own", shards="${own.folder}/pairs/00000.tar")

boxes = L(Source)(
    records=L(detection_set)(
        name="own_train",
        json_file="${own.folder}/train.json",
        image_root="${own.folder}/images",
    ),
    mapper=L(DetectionMapper)(
        names=L(names_of_json)(json_file="${...records.json_file}"),
        augmentations=[
            L(T.ResizeShortestEdge)(
                short_edge_length=[224, 384], max_size=640, sample_style="range"
            ),
            L(T.RandomFlip)(horizontal=True),
        ],
        max_phrases=80,
    ),
    total_batch_size=8,
    num_workers=2,
)

mapper = L(CaptionMapper)(
    augmentations=[L(T.Resize)(shape=[256, 256]), L(T.RandomFlip)(horizontal=True)],
    max_phrases=16,
)

# A json object a line: {"image", "caption", "phrases"?}, as `detclip2 phrases` writes them.
captions = L(Source)(
    records=L(CaptionJsonl)(
        jsonl_file="${own.folder}/captions.jsonl", image_root="${own.folder}/images"
    ),
    mapper=mapper,
    total_batch_size=32,
    num_workers=2,
)

# CC3M's list, caption<TAB>url a line, and the images by the number of their line.
web = L(Source)(
    records=L(CaptionTsv)(
        tsv_file="${own.folder}/list.tsv",
        image_root="${own.folder}/web",
        file_name="{index:09d}.jpg",
    ),
    mapper=mapper,
    total_batch_size=32,
    num_workers=2,
)

# Tar shards in WebDataset's layout, with braces for several: pairs/{00000..00099}.tar.
shards = L(Source)(
    records=L(ImageTextShards)(urls="${own.shards}"),
    mapper=mapper,
    total_batch_size=32,
    num_workers=2,
)
