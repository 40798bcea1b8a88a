"""Official checkpoints of RTBPN (ikuinen/regularized_two-branch_proposal_network) -> `vmr_jax.models.rtbpn`."""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, batch_norm, gru, kernel, linear, pointwise, size

_CLIPS, _WORDS, _CONV = "video_encoder.vis_conv", "query_encoder.txt_gru.gru", "scorer.convs.0"


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell those of the moment map (num_clips, scale_layers, lengths, train_lengths), nor nearest.
    """
    return {
        "features": size(shapes, f"{_CLIPS}.weight", 0),
        "clusters": size(shapes, "filter.word_vlad.clusters", 1),
        "map_kernel": size(shapes, f"{_CONV}.weight", 2),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    keys = {"video": f"{_CLIPS}.weight", "query_vectors": f"{_WORDS}.weight_ih_l0"}
    return {field: size(shapes, key, 1) for field, key in keys.items()}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint; `back`, which is zero and stays so, is left out."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    f, clusters, k = (fields[name] for name in ("features", "clusters", "map_kernel"))
    square = (f, f)
    found = linear(_CLIPS, "params/clips/linear", (f, widths["video"], 1), pointwise)
    found += gru(_WORDS, "params/query_gru", widths["query_vectors"], f // 2, 1, 2)
    found += [
        Entry("back", "", (1, 1, f)),
        Entry("filter.word_vlad.clusters", "params/filter/clusters", (f, clusters)),
        Entry("filter.word_vlad.clusters2", "params/filter/centres", (1, f, clusters), lambda x: x[0]),
    ]
    found += batch_norm("filter.word_vlad.batch_norm", "filter/norm", clusters)
    found += linear("filter.word_fc", "params/filter/description", (f, clusters * f))
    found += linear("filter.fc_gate1", "params/filter/hidden", square)
    found += linear("filter.fc_gate2", "params/filter/gate", (1, f))
    found += linear("fusion.fuse_attn.ws1", "params/attention/query", square)
    found += [
        Entry("fusion.fuse_attn.ws2.weight", "params/attention/key/kernel", square, kernel),
        Entry("fusion.fuse_attn.wst.weight", "params/attention/score/kernel", (1, f), kernel),
        Entry("fusion.fuse_gate.fc_gate1.weight", "params/cross_gate/clips/kernel", square, kernel),
        Entry("fusion.fuse_gate.fc_gate2.weight", "params/cross_gate/words/kernel", square, kernel),
    ]
    found += gru("fusion.fuse_gru.gru", "params/fused_gru", 2 * f, f // 2, 1, 2)
    found += linear(_CONV, "params/convs/layer_0", (f, f, k, k))
    return found + linear("scorer.pred_layer", "params/score", (1, f, 1, 1), pointwise)
