"""ExCL."""

from cases import manual_variants
from vmr_jax.configs.excl import DATASETS

# With small initial weights dropout hardly moves the loss.
SMALL = dict(recurrent_features=3, hidden=4, initial_std=0.5)
# What the LSTMs of the video read [T,D] has a padded axis.
PADDED_DRAWS = True


def parameters(streams: dict[str, int], width: int, recurrent=256, hidden=256) -> int:
    """With the predictor 'tied', layer by layer; `streams` has the width of each."""
    both = 2 * recurrent

    def lstm(inputs):
        return 2 * 4 * recurrent * (inputs + recurrent + 2)  # two directions, four gates, two biases each

    logits = 2 * (3 * both * hidden + hidden + hidden + 1)  # of start and end
    return lstm(width) + sum(lstm(dim) + lstm(2 * both) + logits for dim in streams.values())


def golden() -> dict[str, int]:
    """On TVR the sizes are those of the re-implementation."""
    both = {"video": 64, "subtitles": 32}
    counts = {"storyboard": parameters(both, 50, 64, 64)}
    for name, width in both.items():
        counts[f"storyboard,{name}"] = parameters({name: width}, 50, 64, 64)
    for arg, dataset, dim in manual_variants(DATASETS):
        counts[arg] = parameters({"video": dim}, 300)
        if dataset == "tvr":
            counts[arg] = parameters({"video": dim, "subtitles": 768}, 768, 128)
    counts["tvr,resnet_i3d,video"] = parameters({"video": 3072}, 768, 128)
    return counts
