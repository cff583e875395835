"""Facts of published evaluations of probes: numbers of other models, and what a published mean leaves out."""

from __future__ import annotations

_WINOGROUND = "Thrush et al. 2022, table 3"
_SUGARCREPE = "CLIP ViT-B/32 {} (Hsieh et al. 2023)"
_ARO = "CLIP ViT-B/32 {}, NegCLIP {} (Yuksekgonul et al. 2023)"
_WHATSUP = "CLIP ViT-B/32 {} (Kamath et al. 2023)"
PUBLISHED = {
    "winoground/text": f"ViLT 34.75, CLIP ViT-B/32 30.75, LXMERT 19.25 ({_WINOGROUND})",
    "winoground/image": f"ViLT 14.00, CLIP ViT-B/32 10.50, LXMERT 7.00 ({_WINOGROUND})",
    "winoground/group": f"ViLT 9.25, CLIP ViT-B/32 8.00, LXMERT 4.00 ({_WINOGROUND})",
    "sugarcrepe/accuracy_replace_obj": _SUGARCREPE.format("90.9"),
    "sugarcrepe/accuracy_replace_att": _SUGARCREPE.format("80.1"),
    "sugarcrepe/accuracy_replace_rel": _SUGARCREPE.format("69.2"),
    "sugarcrepe/accuracy_swap_obj": _SUGARCREPE.format("61.2"),
    "sugarcrepe/accuracy_swap_att": _SUGARCREPE.format("64.0"),
    "sugarcrepe/accuracy_add_obj": _SUGARCREPE.format("77.2"),
    "sugarcrepe/accuracy_add_att": _SUGARCREPE.format("68.8"),
    "sugarcrepe/accuracy_by_category": _SUGARCREPE.format("73.0"),
    "valse/acc_r_by_category": "12-in-1 75.1, CLIP 64.0, ViLBERT 63.7, LXMERT 59.6, VisualBERT 46.4 (Parcalabescu et al. 2022)",
    "aro_relation/accuracy_by_category": _ARO.format("59.9", "81"),
    "aro_attribution/accuracy_by_category": _ARO.format("63.2", "71"),
    "whatsup_a/accuracy": _WHATSUP.format("30.6"),
    "whatsup_b/accuracy": _WHATSUP.format("30.9"),
    "whatsup_coco_one/accuracy": _WHATSUP.format("43.3"),
    "whatsup_coco_two/accuracy": _WHATSUP.format("50.7"),
    "whatsup_vg_one/accuracy": _WHATSUP.format("46.3"),
    "whatsup_vg_two/accuracy": _WHATSUP.format("47.1"),
}
"""By "<benchmark>/<metric>", in percent."""

_LEFT_OUT = """
    adjusting, attached to, between, bigger than, biting, boarding, brushing, chewing, cleaning, climbing, close to, coming
    from, coming out of, contain, crossing, dragging, draped over, drinking, drinking from, driving, driving down, driving on,
    eating from, eating in, enclosing, exiting, facing, filled with, floating in, floating on, flying, flying above, flying
    in, flying over, flying through, full of, going down, going into, going through, grazing in, growing in, growing on,
    guiding, hanging from, hanging in, hanging off, hanging over, higher than, holding onto, hugging, in between, jumping off,
    jumping on, jumping over, kept in, larger than, leading, leaning over, leaving, licking, longer than, looking in, looking
    into, looking out, looking over, looking through, lying next to, lying on top of, making, mixed with, mounted on, moving,
    on the back of, on the edge of, on the front of, on the other side of, opening, painted on, parked at, parked beside,
    parked by, parked in, parked in front of, parked near, parked next to, perched on, petting, piled on, playing, playing in,
    playing on, playing with, pouring, reaching for, reading, reflected on, riding on, running in, running on, running
    through, seen through, sitting behind, sitting beside, sitting by, sitting in front of, sitting near, sitting next to,
    sitting under, skiing down, skiing on, sleeping in, sleeping on, smiling at, sniffing, splashing, sprinkled on, stacked
    on, standing against, standing around, standing behind, standing beside, standing in front of, standing near, standing
    next to, staring at, stuck in, surrounding, swimming in, swinging, talking to, topped with, touching, traveling down,
    traveling on, tying, typing on, underneath, wading in, waiting for, walking across, walking by, walking down, walking next
    to, walking through, working in, working on, worn on, wrapped around, wrapped in, by, of, near, next to, with, beside, on
    the side of, around
"""
ARO_LEFT_OUT = frozenset(" ".join(relation.split()) for relation in _LEFT_OUT.split(","))
"""Relations that the authors of ARO leave out of the mean over relations; most of them are symmetric, or of few rows."""
