"""Official checkpoints of VLG-Net (Soldelli/VLG-Net) -> `vmr_jax.models.vlg_net`.

The official program repeats one module as the layers of a graph: its tensors are there under the number of each
layer, and those of the first are taken. Layers on which its scores do not depend are left out.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, count, kernel, left_out, linear, lstm, pointwise, size

_CLIPS, _CONTEXT, _LANGUAGE = "feat_pool.2", "context_aggregator", "language_encoder"
_MATCHING, _POOL = "clip_level_fusion.graph_matching.0", "masked_attention_pooling"
_KINDS = {"vconvs": "near", "qconvs": "other", "tconvs": "order"}


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell scale_layers, window, the numbers of neighbours, what is of the loss and of dropout, and
    keep.
    """
    places = "pos_encoder.pe" in shapes
    groups = _groups(shapes, f"{_CONTEXT}.0.sconvs.2.weight")
    match_groups = _groups(shapes, f"{_MATCHING}.tconvs.video.2.weight")
    return {
        "num_clips": size(shapes, "pos2d_encoder.pos2d", 2),
        "places": places,
        "official_neighbours": True,  # all official checkpoints were trained so
        "features": size(shapes, f"{_CLIPS}.weight", 0),
        "query_features": size(shapes, f"{_LANGUAGE}.fc_query.0.weight", 1),
        "context_layers": count(shapes, rf"{_CONTEXT}\.(\d+)\.tconvs\.0\.weight"),
        "context_groups": groups[0],
        "context_width": groups[1],
        "match_groups": match_groups[0],
        "match_width": match_groups[1],
        "lstm_layers": count(shapes, rf"{_LANGUAGE}\.lstm\.weight_ih_l(\d+)"),
        "syntax_layers": count(shapes, rf"{_LANGUAGE}\.language_encoder\.(\d+)\.wd\.0\.weight"),
        "score_features": size(shapes, "convs_pred.0.0.weight", 0),
        "score_layers": count(shapes, r"convs_pred\.(\d+)\.0\.weight"),
    }


def _groups(shapes: Shapes, key: str) -> tuple[int, int]:
    """Number of groups of a grouped convolution and features of each."""
    width = size(shapes, key, 1)
    return size(shapes, key, 0) // width, width


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    keys = {"video": f"{_CLIPS}.weight", "query_vectors": f"{_LANGUAGE}.lstm.weight_ih_l0"}
    return {field: size(shapes, key, 1) for field, key in keys.items()}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint; the tables of places are left out."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, hidden, clips = fields["features"], fields["query_features"], fields["num_clips"]
    found = [Entry("pos2d_encoder.pos2d", "", (1, features, clips, clips))]
    if fields["places"]:
        found += [Entry(key, "", (1, widths["video"], clips)) for key in ("feat_pool.1.pe", "pos_encoder.pe")]
    found += linear(_CLIPS, "params/clips", (features, widths["video"], 3))
    sizes = fields["context_groups"], fields["context_width"], features
    for i in range(fields["context_layers"]):
        for theirs, ours, inner in (("tconvs", "temporal", (3,)), ("sconvs", "semantic", (1, 1))):
            path = "" if i else f"params/context/{ours}"
            found += _bottleneck(f"{_CONTEXT}.{i}.{theirs}", path, *sizes, inner, twice=ours == "semantic")

    found += lstm(f"{_LANGUAGE}.lstm", "params/lstm", widths["query_vectors"], hidden, fields["lstm_layers"])
    for i in range(fields["syntax_layers"]):
        for theirs, ours, shape in (
            ("w_wc.0", "edge", (hidden, 2 * hidden)),
            ("w_wc.3", "weight", (1, hidden)),
            ("wd.0", "message", (hidden, hidden)),
        ):
            key = f"{_LANGUAGE}.language_encoder.{i}.{theirs}.weight"
            found.append(Entry(key, "" if i else f"params/syntax/{ours}/kernel", shape, kernel))
    found += linear(f"{_LANGUAGE}.fc_query.0", "params/query", (features, hidden))

    sizes = fields["match_groups"], fields["match_width"], features
    for theirs, kind in _KINDS.items():
        inner = (3,) if kind == "order" else (1,)
        for modality, path in (("video", f"params/matching/{kind}"), ("query", "")):
            key = f"{_MATCHING}.{theirs}.{modality}"
            found += _bottleneck(key, path, *sizes, inner, twice=kind != "order")
    found += linear("clip_level_fusion.conv1x1.0", "params/matched", (features, features, 1), pointwise)
    found += left_out(f"{_POOL}.conv1d_lang", (1, features, 1))
    both = (1, 2 * features, 1)  # of the sentence and of the clip
    path = "params/pool/logit/kernel"
    found.append(Entry(f"{_POOL}.conv1d.weight", path, both, lambda x: pointwise(x)[features:]))
    found.append(Entry(f"{_POOL}.conv1d.bias", "", (1,)))

    width = fields["score_features"]
    for i in range(fields["score_layers"]):
        wide = (width, width if i else features, 1, 1)
        key = f"convs_pred.{i}.0"
        found += left_out(key, wide) if i > 1 else linear(key, f"params/hidden_{i}", wide, pointwise)
    return found + linear("iou", "params/score", (1, width, 1, 1), pointwise)


def _bottleneck(
    key: str, path: str, groups: int, width: int, features: int, inner: tuple[int, ...], twice: bool
) -> list[Entry]:
    """Three convolutions, the middle one grouped with a kernel of shape `inner`; '' leaves them out.

    `twice`: the first reads two nodes side by side.
    """
    hidden, one = groups * width, (1,) * len(inner)
    shapes = (
        (hidden, 2 * features if twice else features, *one),
        (hidden, width, *inner),
        (features, hidden, *one),
    )
    found = []
    for number, name, shape in zip((0, 2, 4), ("reduce", "grouped", "expand"), shapes):
        layout = _steps if name == "grouped" else pointwise
        layer = f"{key}.{number}"
        found += linear(layer, f"{path}/{name}", shape, layout) if path else left_out(layer, shape)
    return found


def _steps(x):
    """Weights of a grouped convolution along one axis, [out,in,steps] or [out,in,1,1] -> [steps,in,out]."""
    return kernel(x.reshape(*x.shape[:2], -1))
