"""The targets that a config may name if it is data (yaml): classes and functions to be built.

A target is what ``_target_`` names. A new part of the project that configs name is added here, with
a look at its arguments: none may run a program or a .py config, unpickle, or fetch anything.
"""

from collections.abc import Iterator, Mapping

# Module -> its names. Packages that re-export a name may be named instead of the module.
_TARGETS: Mapping[str, tuple[str, ...]] = {
    "detclip2.data.datasets.captions": ("CaptionJsonl", "CaptionTsv", "coco_caption_records",
                                         "karpathy_records"),
    "detclip2.data.datasets.detection": ("category_names", "detection_records", "detection_set",
                                         "names_of_json"),
    "detclip2.data.datasets.flickr30k_entities": ("flickr30k_entities_records",),
    "detclip2.data.datasets.decoded": ("DecodedImages",),
    "detclip2.data.datasets.grounding": ("OdvgCaptions", "OdvgFile", "mdetr_records", "odvg_names",
                                         "odvg_phrases"),
    "detclip2.data.datasets.lvis": ("lvis_set",),
    "detclip2.data.datasets.odinw": ("odinw_prompts", "odinw_set"),
    "detclip2.data.datasets.phrasecut": ("PhraseCut",),
    "detclip2.data.datasets.pseudo_labels": ("PseudoLabelled",),
    "detclip2.data.datasets.vqa": ("read_answers", "vqa_answers", "vqa_records"),
    "detclip2.data.emojiscenes.artwork": ("Artwork",),
    "detclip2.data.emojiscenes.captioning": ("EmojiCaptioning", "spellings_of_names"),
    "detclip2.data.emojiscenes.captions": ("EmojiPairs",),
    "detclip2.data.emojiscenes.grounding": ("EmojiGrounding",),
    "detclip2.data.emojiscenes.questions": ("EmojiQuestions", "scene_answers"),
    "detclip2.data.emojiscenes.scenes": ("EmojiScenes",),
    "detclip2.data.emojiscenes.sets": ("base_names", "seen_names", "validation_set"),
    "detclip2.data.hybrid_loader": ("HybridLoader", "Source"),
    "detclip2.data.io.shard_stream": ("ImageTextStream",),
    "detclip2.data.io.shards": ("ImageTextShards",),
    "detclip2.data.mappers.caption": ("CaptionMapper",),
    "detclip2.data.mappers.color_jitter": ("ColorJitter",),
    "detclip2.data.mappers.detection": ("DetectionMapper",),
    "detclip2.data.mappers.evaluation": ("EvaluationMapper",),
    "detclip2.data.mappers.grounding": ("GroundingMapper",),
    "detclip2.data.mappers.language": ("CaptioningMapper", "QuestionMapper"),
    "detclip2.data.mappers.masked_words": ("MaskedWordMapper",),
    "detclip2.data.mappers.phrase_grounding": ("MentionMapper",),
    "detclip2.data.sources": ("Source",),
    "detclip2.data.text.concepts": ("ConceptDictionary.builtin", "ConceptDictionary.from_names",
                                    "ConceptDictionary.load"),
    "detclip2.engine.solver": ("BiasFactor", "Factors", "LayerDecay", "PrefixFactors",
                               "TextTowerFactor", "WarmupHoldCosine", "warmup_constant",
                               "warmup_cosine", "warmup_steps"),
    "detclip2.evaluation.average_recall": ("AverageRecallEvaluator",),
    "detclip2.evaluation.captions": ("CaptionEvaluator", "caption_set"),
    "detclip2.evaluation.coco": ("CheckedCOCOEvaluator",),
    "detclip2.evaluation.lvis": ("LVISFixedAPEvaluator",),
    "detclip2.evaluation.masked_words": ("MaskedWordEvaluator",),
    "detclip2.evaluation.name_accuracy": ("NameAccuracyEvaluator",),
    "detclip2.evaluation.partly_labelled": ("PartlyLabelledEvaluator", "frequent_names"),
    "detclip2.evaluation.phrase_grounding": ("PhraseGroundingEvaluator", "grounding_set"),
    "detclip2.evaluation.referring_segmentation": ("ReferringSegmentationEvaluator",
                                                   "referring_set"),
    "detclip2.evaluation.vqa": ("VQAEvaluator", "question_set"),
    "detclip2.inference.vocabulary": ("Vocabulary.builtin", "Vocabulary.from_file",
                                      "Vocabulary.from_names", "Vocabulary.from_text",
                                      "Vocabulary.load", "Vocabulary.of_dataset"),
    "detclip2.modeling.alignment": ("Alignment",),
    "detclip2.modeling.assigners.atss": ("ATSSAssigner",),
    "detclip2.modeling.backbone": ("TimmBackbone", "feature_pyramid"),
    "detclip2.modeling.heads.answer_head": ("AnswerHead",),
    "detclip2.modeling.heads.atss_head": ("ATSSHead",),
    "detclip2.modeling.heads.caption_head": ("CaptionHead",),
    "detclip2.modeling.heads.dyhead": ("GLIPHead",),
    "detclip2.modeling.heads.mask_head": ("MaskHead",),
    "detclip2.modeling.heads.token_head": ("TokenHead",),
    "detclip2.modeling.losses.detection": ("DetectionCriterion",),
    "detclip2.modeling.losses.masks": ("MaskCriterion",),
    "detclip2.modeling.losses.masked_language": ("MaskedLanguage",),
    "detclip2.modeling.losses.region_word_contrast": ("RegionWordContrast",),
    "detclip2.modeling.losses.word_region_contrast": ("WordRegionContrast",),
    "detclip2.modeling.meta_arch.detclipv2": ("DetCLIPv2",),
    "detclip2.modeling.meta_arch.glip": ("GLIP",),
    "detclip2.modeling.meta_arch.glipv2": ("GLIPv2",),
    "detclip2.modeling.postprocess": ("PostProcess", "TopKPerPhrase"),
    "detclip2.modeling.text.frozen_tower": ("FrozenTextTower",),
    "detclip2.modeling.text.text_tower": ("TextTower", "fresh_text_model", "load_text_model",
                                          "load_tokenizer"),
    "detclip2.modeling.text.token_tower": ("TokenTower",),
    "detclip2.modeling.token_postprocess": ("TokenPostProcess",),
    "detectron2.data.build": ("build_detection_test_loader",),
    "detectron2.data.dataset_mapper": ("DatasetMapper",),
    "detectron2.data.transforms.augmentation_impl": ("RandomCrop", "RandomFlip", "Resize",
                                                     "ResizeShortestEdge"),
    "detectron2.modeling.anchor_generator": ("DefaultAnchorGenerator",),
    "detectron2.modeling.box_regression": ("Box2BoxTransform",),
    "detectron2.solver.build": ("get_default_optimizer_params",),
    "torch.optim.adam": ("Adam",),
    "torch.optim.adamw": ("AdamW",),
    "torch.optim.sgd": ("SGD",),
}  # fmt: skip


def _names() -> Iterator[str]:
    """Each target below its module and below the packages that hold the module."""
    for module, names in _TARGETS.items():
        parts = module.split(".")
        for end in range(1, len(parts) + 1):
            yield from (".".join([*parts[:end], name]) for name in names)


ALLOWED_TARGETS = frozenset(_names())
"""The dotted names. They are compared as text: nothing is imported for a name that is not here."""
