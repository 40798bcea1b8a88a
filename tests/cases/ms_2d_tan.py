"""MS-2D-TAN."""

from cases import manual_variants
from vmr_jax.configs.ms_2d_tan import DATASETS

SMALL = dict(num_clips=8, scale_layers=(4, 2), features=8, lstm_layers=1, map_kernel=3, map_layers=1)


def parameters(video: int, words: int, features: int, layers: tuple, kernel: int, lstm_layers: int) -> int:
    """From the shapes of the official code's tensors, without running statistics."""

    def convolution(inputs, outputs, size):
        return size * inputs * outputs + outputs

    count = convolution(video, features, 1) + 2 * convolution(features, features, 1)
    # Two directions of F / 2 units, four gates, two biases.
    half = features // 2
    for layer in range(lstm_layers):
        inputs = features if layer else words
        count += 2 * 4 * half * (inputs + half + 2)
    for scale, number in enumerate(layers):
        count += convolution(features, features, 3 if scale else 1) + 2 * features
        count += (number - 1) * (convolution(features, features, 2) + 2 * features)
        gated = convolution(features, features, kernel**2) + convolution(features, 1, kernel**2)
        count += 2 * gated + convolution(features, 1, 1)
    return count


def golden() -> dict[str, int]:
    counts = {"storyboard": parameters(64, 50, 64, (16, 8), 5, 1)}
    for arg, dataset, dim in manual_variants(DATASETS):
        layers, kernel = ((8, 4, 4, 4, 4), 9) if dataset == "tacos" else ((16, 8, 8), 17)
        if dataset in ("didemo", "tempo"):
            layers, kernel = (6,), 5
        counts[arg] = parameters(dim, 300, 512, layers, kernel, 3)
    return counts
