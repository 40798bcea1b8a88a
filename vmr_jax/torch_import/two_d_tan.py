"""Official checkpoints of 2D-TAN (microsoft/2D-TAN), both variants -> `vmr_jax.models.two_d_tan`."""

from collections.abc import Mapping

from vmr_jax.torch_import import Entry, count, linear, lstm, pointwise, size


def entries(shapes: Mapping[str, tuple[int, ...]]) -> list[Entry]:
    """All tensors of the checkpoint; F, D, W, k and the numbers of layers are read off the shapes."""
    frame, words = "frame_layer.vis_conv", "fusion_layer.textual_encoder"
    features, rows = (size(shapes, f"{frame}.weight", axis) for axis in (0, 1))
    kernel_size = size(shapes, "map_layer.convs.0.weight", 2)
    map_layers = count(shapes, r"map_layer\.convs\.(\d+)\.weight")
    lstm_layers = count(shapes, r"fusion_layer\.textual_encoder\.weight_ih_l(\d+)")
    width = size(shapes, f"{words}.weight_ih_l0", 1)

    found = linear(frame, "params/clips/linear", (features, rows, 1), pointwise)
    found += _proposals(shapes, features)
    found += lstm(words, "params/lstm", width, features, lstm_layers)
    found += linear("fusion_layer.tex_linear", "params/fusion/query", (features, features))
    found += linear("fusion_layer.vis_conv", "params/fusion/proposals", (features, features, 1, 1), pointwise)
    for layer in range(map_layers):
        shape = (features, features, kernel_size, kernel_size)
        found += linear(f"map_layer.convs.{layer}", f"params/convs/layer_{layer}", shape)
    found += linear("pred_layer", "params/score", (1, features, 1, 1), pointwise)
    return found


def _proposals(shapes: Mapping[str, tuple[int, ...]], features: int) -> list[Entry]:
    """The stacked convolutions of the 'conv' variant, numbered across scales; none in 'pool'."""
    found, layer = [], 0
    for scale in range(count(shapes, r"prop_layer\.layers\.(\d+)\.\d+\.weight")):
        for i in range(count(shapes, rf"prop_layer\.layers\.{scale}\.(\d+)\.weight")):
            kernel_size = 2 if i else 3 if scale else 1
            key, path = f"prop_layer.layers.{scale}.{i}", f"params/proposals/layer_{layer}"
            found += linear(key, path, (features, features, kernel_size))
            layer += 1
    return found
