"""CMIN."""

from cases import manual_variants
from vmr_jax.configs.cmin import DATASETS

SMALL = dict(features=8, heads=2, widths=(3, 5), band=2, attention_layers=1, graph_layers=1)
OPTIONS = {"reconstruction": dict(reconstruction_weight=0.1, vocab_size=9)}  # a random batch has one word more

# Official code, ActivityNet Captions C3D: 8.23 M. By layer, F = 512, D = 500, W = 300, A = 7:
#   attention    2 (4 D^2 + 4 D)                                   2,004,000
#   GRU          2 (3 * 256 (D + 256) + 6 * 256)                   1,164,288
#   graph        2 (6 W^2 + 2 * 79 W)                              1,174,800
#   GRU          2 (3 * 256 (W + 256) + 6 * 256)                     857,088
#   attention    2 F^2 + 2 F                                         525,312
#   gates        2 F^2                                               524,288
#   GRU          2 (3 * 256 (2 F + 256) + 6 * 256)                 1,969,152
#   head         3 A (F + 1)                                          10,773
ACTIVITYNET = 8_229_701
# Storyboard, F = D = 64, W = 50, A = 6, GRUs of 32 a direction:
#   attention    2 (4 * 64^2 + 4 * 64)                                33,280
#   GRU          2 (96 (64 + 32) + 192)                               18,816
#   graph        2 (6 * 50^2 + 2 * 79 * 50)                           45,800
#   GRU          2 (96 (50 + 32) + 192)                               16,128
#   attention    2 * 64^2 + 2 * 64                                     8,320
#   gates        2 * 64^2                                              8,192
#   GRU          2 (96 (128 + 32) + 192)                              31,104
#   head         18 * 65                                               1,170
STORYBOARD = 162_810
# The reconstruction, of a vocabulary of two words: start 50, a GRU of 64 (3 * 64 (50 + 64) + 6 * 64), attention
# as above, and 2 classes from 2 * 64.
DECODER = 50 + 22_272 + 8_320 + 258


def golden() -> dict[str, int]:
    """Features of another width are projected to 500; the head has 3 (F + 1) parameters for each width."""
    anchors = {"tacos": 3, "didemo": 6, "tempo": 6}
    counts = {"storyboard": STORYBOARD, "storyboard,reconstruction": STORYBOARD + DECODER}
    for arg, dataset, dim in manual_variants(DATASETS):
        widths = 4 if dataset.startswith("charades") else anchors.get(dataset, 7)
        projection = 0 if dim == 500 else dim * 500 + 500
        counts[arg] = ACTIVITYNET + projection + 3 * (widths - 7) * 513
    return counts
