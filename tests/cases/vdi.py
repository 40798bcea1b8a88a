"""VDI."""

from cases import manual_variants
from vmr_jax.configs.vdi import DATASETS

SEED = 2
SMALL = dict(
    num_clips=4,
    scale_layers=(4,),
    features=8,
    space=6,
    map_kernel=3,
    map_layers=1,
    text="glove",
    text_features=8,
    plugin_heads=2,
    plugin_hidden=8,
    temperature=0.5,
    contrast_weight=0.2,
)

# CLIP ViT-B/32 has 151,277,313 values; 87,849,216 are the image encoder's, one is the temperature.
CLIP_TEXT = 151_277_313 - 87_849_216 - 1


def _linear(inputs, outputs):
    return inputs * outputs + outputs


def _lstm(inputs, units):
    """Two directions, of half the units each."""
    return 2 * 4 * (units // 2) * (inputs + units // 2 + 2)


def injections(dim, width, patches, patch_dim, hidden):
    """Both injections: `dim` of a frame, `width` of a sentence."""
    transformer = 4 * _linear(width, width) + _linear(width, hidden) + _linear(hidden, width) + 2 * 2 * width
    # The decoder: a second attention, with keys and values from the frames, and a third norm.
    memory = 2 * _linear(width, width) + 2 * _linear(dim, width) + 2 * width
    context = transformer + memory + _linear(width, width)
    dynamics = _linear(dim, width) + _linear(patch_dim, width) + _linear(patches, width)
    dynamics += transformer + _linear(width, width)
    return context + dynamics


def _count(dim, kernel, layers, width, space, patches, patch_dim, hidden, text):
    """`dim` of a frame; `width` of the map convolutions and of a sentence."""
    convs = (kernel**2) * width * (dim + (layers - 1) * width) + layers * 3 * width
    heads = 2 * 2 * _linear(width, space)  # of the map and of the sentence
    return convs + heads + text + injections(dim, width, patches, patch_dim, hidden)


def golden() -> dict[str, int]:
    """`patches` of 49 x 512 on the manual datasets, 4 x 32 on storyboard."""
    counts = {"storyboard": _count(64, 3, 4, 64, 64, 4, 32, 128, _lstm(50, 64))}
    for arg, dataset, dim in manual_variants(DATASETS):
        kernel, layers = (9, 4) if dataset.startswith("activitynet") else (5, 8)
        counts[arg] = _count(dim, kernel, layers, 512, 256, 49, 512, 2048, CLIP_TEXT)
    # Without the injections there are the map (eight 5 x 5 convolutions), four heads and the text encoder.
    counts["charades_sta,clip,baseline"] = 8 * (25 * 512 * 512 + 3 * 512) + 4 * (512 * 256 + 256) + CLIP_TEXT
    clip = counts["charades_sta,clip"]
    counts["charades_sta,clip,glove"] = clip - CLIP_TEXT + _lstm(300, 512)
    return counts
