"""The text families, one row a model type."""

from __future__ import annotations

from typing import Any

from .family import TEXT, Family, Stack

_RELATIVE = "its blocks hold the order of words as distances between tokens, which would count patches as words"
_CAUSAL = "its tokens see only those before them"
_ENCODER_DECODER = "it is the encoder of an encoder-decoder, whose embeddings and blocks cannot be taken apart alike"
_NOT_SPLIT = "its model class does not run its blocks apart from its embeddings"

_HALF = r"^text_model\."
_BERT = Stack("encoder.layer")
_PROJECTED = Stack("encoder.layer", front=("embeddings", "embeddings_project"))
_MAPPED_IN = ("embeddings", "encoder.embedding_hidden_mapping_in")
_SINUSOIDS = (r"embed_positions\.weight$",)
_CLIP = {"pooling": "last", "causal": True, "one_tower": _CAUSAL}
_SIGLIP = Stack("encoder.layers", norm="final_layer_norm")


def _text(model: str, one_tower: Stack | str = _BERT, **rest: Any) -> Family:
    return Family(TEXT, model, one_tower=one_tower, **rest)


def _roberta(model: str, one_tower: Stack | str = _BERT, **rest: Any) -> Family:
    """Positions count from padding_idx + 1 (fairseq): two rows of the table are never used."""
    return _text(model, one_tower, spare_positions=2, **rest)


def _encoder(model: str, settings: dict[str, Any] | None = None, **rest: Any) -> Family:
    """The encoder of an encoder-decoder, built with a decoder of no layers.

    LayerDrop is off: a step would leave some parameters without a gradient, which data-parallel training refuses.
    """
    settings = {"encoder_layerdrop": 0.0, **(settings or {"decoder_layers": 0})}
    return _text(model, _ENCODER_DECODER, part="encoder", pooling="mean", settings=settings, **rest)


TEXT_FAMILIES: dict[str, Family] = {
    # BERT and its kin: a CLS token, learned absolute positions.
    "albert": _text("AlbertModel", Stack("encoder", front=_MAPPED_IN)),
    "align_text_model": _text("AlignTextModel", within=_HALF),
    "bert": _text("BertModel"),
    "bert-generation": _text("BertGenerationEncoder"),
    "big_bird": _text("BigBirdModel", _NOT_SPLIT, settings={"attention_type": "original_full"}),
    "blip_text_model": _text("BlipTextModel", within=_HALF, settings={"is_decoder": False}),
    "camembert": _roberta("CamembertModel"),
    "chinese_clip_text_model": _text("ChineseCLIPTextModel", within=_HALF),
    "data2vec-text": _roberta("Data2VecTextModel"),
    "distilbert": _text("DistilBertModel", Stack("transformer.layer")),
    "electra": _text("ElectraModel", _PROJECTED),
    "ernie": _text("ErnieModel"),
    "flava_text_model": _text(
        "FlavaTextModel",
        Stack("encoder.layer", norm="layernorm"),
        drop=("pooler",),
        within=r"^(?:flava\.)?text_model\.",
    ),
    "ibert": _roberta("IBertModel", _NOT_SPLIT, settings={"quant_mode": False}),
    "layoutlm": _text("LayoutLMModel", "its embeddings read where each word stands on a page", drop=("pooler",)),
    "longformer": _roberta(
        "LongformerModel", "its blocks attend within windows of the text", unreached=(r"\.(query|key|value)_global\.",)
    ),
    "luke": _roberta("LukeModel", _NOT_SPLIT, unreached=(r"entity_embeddings\.", r"\.(w2e|e2w|e2e)_query\.")),
    "markuplm": _roberta("MarkupLMModel", unreached=(r"\.xpath_unitseq2_embeddings\.",)),
    "megatron-bert": _text("MegatronBertModel", Stack("encoder.layer", norm="encoder.ln")),
    "rembert": _text(
        "RemBertModel", Stack("encoder.layer", front=_MAPPED_IN), names={"embedding_size": "input_embedding_size"}
    ),
    "roberta": _roberta("RobertaModel"),
    "roberta-prelayernorm": _roberta("RobertaPreLayerNormModel", Stack("encoder.layer", norm="LayerNorm")),
    "roc_bert": _text("RoCBertModel", unreached=(r"embeddings\.(pronunciation|shape)_embed\.",)),
    "splinter": _text("SplinterModel"),
    "squeezebert": _text("SqueezeBertModel", _NOT_SPLIT, drop=("pooler",)),
    "tapas": _text("TapasModel", "its embeddings read the row and column of each word"),
    "xlm-roberta": _roberta("XLMRobertaModel"),
    "xlm-roberta-xl": _roberta("XLMRobertaXLModel", Stack("encoder.layer", norm="encoder.LayerNorm")),
    "xmod": _roberta(
        "XmodModel",
        "its blocks hold an adapter for each language",
        settings={"default_language": "en_XX"},
        unreached=(r"adapter_modules\.(?!en_XX\.)",),
    ),
    # Order in the blocks: relative or rotary positions.
    "deberta": _text("DebertaModel", _RELATIVE),
    "deberta-v2": _text("DebertaV2Model", _RELATIVE),
    "esm": _text("EsmModel", _RELATIVE, drop=("contact_head",)),
    "eurobert": _text("EuroBertModel", _RELATIVE, pooling="mean"),
    "gte": _text("GteModel", _RELATIVE),
    "jina_embeddings_v3": _text("JinaEmbeddingsV3Model", _RELATIVE, pooling="mean"),
    "modernbert": _text("ModernBertModel", _RELATIVE),
    "mpnet": _roberta("MPNetModel", _RELATIVE),
    "nomic_bert": _text("NomicBertModel", _RELATIVE, pooling="mean"),
    "roformer": _text("RoFormerModel", _RELATIVE, unreached=_SINUSOIDS),
    "xlnet": _text("XLNetModel", _RELATIVE, pooling="last", unreached=(r"^mask_emb$", r"\.r_s_bias$", r"\.seg_embed$")),
    # XLM and FlauBERT keep their layers in several lists.
    "flaubert": _text("FlaubertModel", _NOT_SPLIT),
    "xlm": _text("XLMModel", _NOT_SPLIT),
    # Encoders of encoder-decoders.
    "bart": _encoder("BartModel"),
    "bigbird_pegasus": _encoder("BigBirdPegasusModel", {"decoder_layers": 0, "attention_type": "original_full"}),
    "blenderbot": _encoder("BlenderbotModel"),
    "blenderbot-small": _encoder("BlenderbotSmallModel"),
    "fsmt": _encoder("FSMTModel", names={"vocab_size": "src_vocab_size"}),
    "m2m_100": _encoder("M2M100Model"),
    "marian": _encoder("MarianModel", unreached=_SINUSOIDS),
    "mbart": _encoder("MBartModel"),
    "mvp": _encoder("MvpModel"),
    "pegasus": _encoder("PegasusModel", unreached=_SINUSOIDS),
    "plbart": _encoder("PLBartModel"),
    "prophetnet": _encoder("ProphetNetModel", {"num_decoder_layers": 1}, names={"num_layers": "num_encoder_layers"}),
    "longt5": _text("LongT5EncoderModel", _RELATIVE, pooling="mean"),
    "mt5": _text("MT5EncoderModel", _RELATIVE, pooling="mean"),
    "switch_transformers": _text("SwitchTransformersEncoderModel", _RELATIVE, pooling="mean"),
    "t5": _text("T5EncoderModel", _RELATIVE, pooling="mean"),
    "umt5": _text("UMT5EncoderModel", _RELATIVE, pooling="mean"),
    # Text halves of CLIP and its kin. SigLIP and TIPS see both ways.
    "clip_text_model": _text("CLIPTextModel", **_CLIP),
    "clipseg_text_model": _text("CLIPSegTextModel", **_CLIP),
    "groupvit_text_model": _text("GroupViTTextModel", **_CLIP),
    "metaclip_2_text_model": _text("MetaClip2TextModel", **_CLIP),
    "owlv2_text_model": _text("Owlv2TextModel", **_CLIP),
    "owlvit_text_model": _text("OwlViTTextModel", **_CLIP),
    "xclip_text_model": _text("XCLIPTextModel", within=_HALF, **_CLIP),
    "siglip_text_model": _text("SiglipTextModel", _SIGLIP, pooling="last", drop=("head",)),
    "siglip2_text_model": _text("Siglip2TextModel", _SIGLIP, pooling="last", drop=("head",)),
    "tipsv2_text_model": _text("Tipsv2TextModel", _SIGLIP, pooling="mean"),
}
