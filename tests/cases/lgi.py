"""LGI."""

from cases import manual_variants
from vmr_jax.configs.lgi import DATASETS

# A ReLU can be zero for all of a random batch.
SMALL = dict(
    features=8,
    attention_features=6,
    num_phrases=2,
    local_kernel=3,
    global_layers=1,
    heads=2,
    activation="sigmoid",
    max_clips=32,
)
# What the LSTM passes to its second layer [L,F] has a padded axis.
PADDED_DRAWS = True


def size(dim, width, features=512, attention=256, phrases=3, kernel=15, blocks=2) -> int:
    """Parameters, layer by layer; without the table of words, with one unknown word."""
    square = features * features + features  # a linear layer
    video = dim * features + features + 128 * features  # clips, 128 positions
    half = features // 2  # of each direction: four gates, two biases each
    lstm = sum(2 * 4 * half * (inputs + half + 2) for inputs in (width, features))
    # A linear layer per phrase; the guide reads two vectors; keys, words and their score.
    phrase = phrases * square + (square + features * features) + 2 * (features + 1) * attention + attention + 1
    fusion = phrases * 3 * square
    local = phrases * 2 * (kernel * features * features + 2 * features)  # convolution, batch normalisation
    weights = 2 * (features * attention + attention)  # of phrases and of clips, without bias
    regression = 2 * square + 2 * features + 2
    return width + video + lstm + phrase + fusion + local + weights + blocks * 3 * square + regression


def golden() -> dict[str, int]:
    """Charades-STA has 3 phrases and 2 non-local blocks, every other dataset 5 and 1."""
    counts = {"storyboard": size(64, 50, features=64, attention=32, phrases=3, kernel=5, blocks=1)}
    for arg, dataset, dim in manual_variants(DATASETS):
        few = dataset.startswith("charades")
        counts[arg] = size(dim, 300, phrases=3 if few else 5, blocks=2 if few else 1)
    return counts
