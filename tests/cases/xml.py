"""XML."""

from cases import manual_variants
from vmr_jax.configs.xml import DATASETS

SMALL = dict(features=8, heads=2, max_clips=32, hard_pool=3, span_weight=0.3, clip_seconds=0.0)
# Attention weights [L,L] have two padded axes.
PADDED_DRAWS = True


def parameters(streams: dict[str, int], words: int, features: int, clips: int) -> int:
    """From the shapes of the official code's tensors; `streams` has the width of each."""

    def linear(inputs, outputs):
        return inputs * outputs + outputs

    def norm(width):
        return 2 * width

    attention = 3 * linear(features, features)
    block = attention + linear(features, features) + norm(features)
    # Norm and linear layer of the input, positions of 30 words with their norm, self-attention.
    query = norm(words) + linear(words, features) + 30 * features + norm(features) + block
    # Two streams: two blocks, and cross-attention with its norm; one: three blocks.
    third = attention + norm(features) if len(streams) == 2 else block
    each = [norm(width) + linear(width, features) + 2 * block + third for width in streams.values()]
    heads = len(streams) * (features + linear(features, features)) + 2 * 5  # pooling, query; two convolutions
    return query + clips * features + norm(features) + sum(each) + heads


def golden() -> dict[str, int]:
    both = {"video": 64, "subtitles": 32}
    counts = {"storyboard": parameters(both, 50, 64, 40)}
    for name, width in both.items():
        counts[f"storyboard,{name}"] = parameters({name: width}, 50, 64, 40)
    clips = {"tacos": 256, "didemo": 6, "tempo": 6}
    for arg, dataset, dim in manual_variants(DATASETS):
        rows = 128 if dataset.startswith("activitynet") else clips.get(dataset, 100)
        counts[arg] = parameters({"video": dim}, 300, 256, rows)
        if dataset == "tvr":
            counts[arg] = parameters({"video": dim, "subtitles": 768}, 768, 256, rows)
    counts["tvr,resnet_i3d,video"] = parameters({"video": 3072}, 768, 256, 100)
    return counts
