"""A bounded memory of an unbounded history: compression, merging, keyframes and poses.

Glossary:
    memory token: what stands for one span: a map [d, h, w] of vectors, which a compressor makes of
        latents. The transformer attends to the h w vectors of every map, each a token of its
        sequence; together with those of the newest latent they are its conditioning tokens
        (`world/conditioning.py`).
    span: consecutive latents that one memory token stands for; of level l, 4 ** l latents.
    slot: a span of level one, four latents; the newest may be shorter until it is full.
    cover: spans that follow one another from the first latent to the last, without gap or overlap.
    settled: latents in complete windows, whose memory tokens no longer change until they merge.
    keyframe: a slot that is never merged, since it shows what the other ones do not.
    tail: the raw latents after the settled ones, which later ones may still change.
"""
