"""The text families, one row a model type. Families that are alike share a row."""

from __future__ import annotations

from typing import Any

from .family import TEXT, Family, Stack

_RELATIVE = "its blocks hold the order of words as distances between tokens, which would count patches as words"
_CAUSAL = "its tokens see only those before them"
_ENCODER_DECODER = "it is the encoder of an encoder-decoder, whose embeddings and blocks cannot be taken apart alike"
_NOT_SPLIT = "its model class does not run its blocks apart from its embeddings"

_HALF = r"^text_model\."
_BERT = Stack("encoder.layer", like_bert=True)
_PROJECTED = Stack("encoder.layer", front=("embeddings", "embeddings_project"), like_bert=True)
_MAPPED_IN = ("embeddings", "encoder.embedding_hidden_mapping_in")
_SINUSOIDS = (r"embed_positions\.weight$",)
_SIGLIP = Stack("encoder.layers", norm="final_layer_norm")


def _text(one_tower: Stack | str = _BERT, **rest: Any) -> Family:
    return Family(TEXT, one_tower=one_tower, **rest)


def _roberta(one_tower: Stack | str = _BERT, **rest: Any) -> Family:
    """Positions count from padding_idx + 1 (fairseq): two rows of the table are never used."""
    return _text(one_tower, spare_positions=2, **rest)


def _clip(**rest: Any) -> Family:
    """CLIP's text half: a causal transformer, summarised by its last token."""
    return _text(_CAUSAL, pooling="last", causal=True, **rest)


def _encoder(settings: dict[str, Any] | None = None, **rest: Any) -> Family:
    """The encoder of an encoder-decoder, built with a decoder of no layers.

    LayerDrop is off: a step would leave some parameters without a gradient, which data-parallel training refuses.
    """
    settings = {"encoder_layerdrop": 0.0, **(settings or {"decoder_layers": 0})}
    rest = {"layer_mask": True} | rest
    return _text(_ENCODER_DECODER, part="encoder", pooling="mean", settings=settings, **rest)


def _t5(model: str, **rest: Any) -> Family:
    return _text(_RELATIVE, pooling="mean", model=model, **rest)


TEXT_FAMILIES: dict[str, Family] = {
    # BERT and its kin: a CLS token, learned absolute positions.
    **dict.fromkeys(("bert", "ernie"), _text()),
    "splinter": _text(layer_mask=True),
    **dict.fromkeys(("camembert", "data2vec-text", "roberta", "xlm-roberta"), _roberta()),
    "align_text_model": _text(within=_HALF, layer_mask=True),
    "albert": _text(Stack("encoder", front=_MAPPED_IN)),
    "bert-generation": _text(model="BertGenerationEncoder"),
    "big_bird": _text(_NOT_SPLIT, settings={"attention_type": "original_full"}, layer_mask=True),
    "blip_text_model": _text(within=_HALF, settings={"is_decoder": False}, layer_mask=True),
    "chinese_clip_text_model": _text(within=_HALF),
    "distilbert": _text(Stack("transformer.layer")),
    "electra": _text(_PROJECTED),
    "flava_text_model": _text(
        Stack("encoder.layer", norm="layernorm"),
        drop=("pooler",),
        within=r"^(?:flava\.)?text_model\.",
        layer_mask=True,
    ),
    "ibert": _roberta(_NOT_SPLIT, settings={"quant_mode": False}, layer_mask=True),
    "layoutlm": _text("its embeddings read where each word stands on a page", drop=("pooler",)),
    "longformer": _roberta(
        "its blocks attend within windows of the text", unreached=(r"\.(query|key|value)_global\.",)
    ),
    "luke": _roberta(_NOT_SPLIT, unreached=(r"entity_embeddings\.", r"\.(w2e|e2w|e2e)_query\."), layer_mask=True),
    "markuplm": _roberta(unreached=(r"\.xpath_unitseq2_embeddings\.",)),
    "megatron-bert": _text(Stack("encoder.layer", norm="encoder.ln"), layer_mask=True),
    "rembert": _text(
        Stack("encoder.layer", front=_MAPPED_IN), names={"embedding_size": "input_embedding_size"}, layer_mask=True
    ),
    "roberta-prelayernorm": _roberta(Stack("encoder.layer", norm="LayerNorm")),
    "roc_bert": _text(unreached=(r"embeddings\.(pronunciation|shape)_embed\.",)),
    "squeezebert": _text(_NOT_SPLIT, drop=("pooler",), layer_mask=True),
    "tapas": _text("its embeddings read the row and column of each word", layer_mask=True),
    "xlm-roberta-xl": _roberta(Stack("encoder.layer", norm="encoder.LayerNorm")),
    "xmod": _roberta(
        "its blocks hold an adapter for each language",
        settings={"default_language": "en_XX"},
        unreached=(r"adapter_modules\.(?!en_XX\.)",),
    ),
    # Order in the blocks: relative or rotary positions.
    **dict.fromkeys(("deberta", "deberta-v2", "gte", "modernbert"), _text(_RELATIVE)),
    **dict.fromkeys(("eurobert", "jina_embeddings_v3", "nomic_bert"), _text(_RELATIVE, pooling="mean")),
    "esm": _text(_RELATIVE, drop=("contact_head",)),
    "mpnet": _roberta(_RELATIVE, layer_mask=True),
    "roformer": _text(_RELATIVE, unreached=_SINUSOIDS, layer_mask=True),
    "xlnet": _text(_RELATIVE, pooling="last", unreached=(r"^mask_emb$", r"\.r_s_bias$", r"\.seg_embed$")),
    # XLM and FlauBERT keep their layers in several lists.
    **dict.fromkeys(("flaubert", "xlm"), _text(_NOT_SPLIT)),
    # Encoders of encoder-decoders.
    **dict.fromkeys(("bart", "blenderbot", "blenderbot-small", "m2m_100", "mbart", "mvp", "plbart"), _encoder()),
    **dict.fromkeys(("marian", "pegasus"), _encoder(unreached=_SINUSOIDS)),
    "bigbird_pegasus": _encoder({"decoder_layers": 0, "attention_type": "original_full"}),
    "fsmt": _encoder(names={"vocab_size": "src_vocab_size"}, layer_mask=False),
    "prophetnet": _encoder({"num_decoder_layers": 1}, names={"num_layers": "num_encoder_layers"}, layer_mask=False),
    "longt5": _t5("LongT5EncoderModel"),
    "mt5": _t5("MT5EncoderModel", layer_mask=True),
    "switch_transformers": _t5("SwitchTransformersEncoderModel"),
    "t5": _t5("T5EncoderModel", layer_mask=True),
    "umt5": _t5("UMT5EncoderModel", layer_mask=True),
    # Text halves of CLIP and its kin. SigLIP and TIPS see both ways.
    **dict.fromkeys(("clip_text_model", "clipseg_text_model", "groupvit_text_model"), _clip()),
    **dict.fromkeys(("metaclip_2_text_model", "owlv2_text_model", "owlvit_text_model"), _clip()),
    "xclip_text_model": _clip(within=_HALF),
    **dict.fromkeys(("siglip_text_model", "siglip2_text_model"), _text(_SIGLIP, pooling="last", drop=("head",))),
    "tipsv2_text_model": _text(_SIGLIP, pooling="mean"),
}
