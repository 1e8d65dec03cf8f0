"""Your own image-text pairs: a folder of images, and their captions as jsonl or tsv."""

from detectron2.config import LazyCall as L
from detectron2.data import transforms as T

from detclip2.data.datasets.captions import CaptionJsonl, CaptionTsv
from detclip2.data.hybrid_loader import Source
from detclip2.data.mappers import CaptionMapper

own = dict(folder="${oc.env:DETECTRON2_DATASETS}/own")

mapper = L(CaptionMapper)(augmentations=[L(T.Resize)(shape=[320, 320])], max_phrases=16)

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
