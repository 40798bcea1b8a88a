"""mXML."""

from cases import manual_variants
from vmr_jax.configs.mxml import DATASETS

# One stream of two: its own tests have both, which are compiled for twice as long.
SMALL = dict(
    features=8,
    heads=2,
    streams="subtitles",
    max_clips=32,
    hard_epochs=(0,),
    hard_pools=(3,),
    span_weight=0.3,
    clip_seconds=0.0,
)
# Attention weights [L,L] have two padded axes.
PADDED_DRAWS = True


def parameters(streams: dict[str, int], words: int, features: int, clips: int) -> int:
    """From the shapes of the official code's tensors, tied ones once; `streams` has the width of each."""

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    def norm(width):
        return 2 * width

    block = 4 * linear(features, features) + norm(features)  # self-attention, linear layer, norm
    # Positions of 30 words and of clips with their norms; a block of the words, three of each stream.
    encoders = (30 + clips) * features + 2 * norm(features) + (1 + 3 * len(streams)) * block
    # Inputs of words and streams, pooling, linear layers of the query, two convolutions.
    inputs = [norm(width) + linear(width, features) for width in (words, *streams.values())]
    own = sum(inputs) + len(streams) * (features + linear(features, features)) + 2 * 5
    return encoders + 2 * own


def golden() -> dict[str, int]:
    both = {"video": 64, "subtitles": 32}
    counts = {"storyboard": parameters(both, 50, 64, 40)}
    for name, width in both.items():
        counts[f"storyboard,{name}"] = parameters({name: width}, 50, 64, 40)
    for arg, _, dim in manual_variants(DATASETS):
        counts[arg] = parameters({"video": dim, "subtitles": 768}, 768, 256, 100)
    counts["tvr,resnet_i3d,video"] = parameters({"video": 3072}, 768, 256, 100)
    return counts
