"""TSP-PRL."""

from cases import manual_variants
from vmr_jax.configs.tsp_prl import DATASETS

SMALL = dict(features=8, critic_features=(6, 5), horizon=4)

# The official two-stream agent on Charades-STA, ten units of 8192 and a sentence of 4800 numbers; F = 1024:
#   two layers of units   2 * (81920 + 1) F        167,774,208
#   sentence, location    (4800 + 1) F + (2 + 1) F   4,919,296
#   state                 (3 F + 1) F                3,146,752
#   GRU                   2 * (F + 1) * 3 F          6,297,600
#   root and leaves       (F + 1) (5 + 1 + 16 + 5)      27,675
#   IoU                   1024-256-128-1               295,425
OFFICIAL = 182_460_956


def golden() -> dict[str, int]:
    """Units have other widths; an LSTM of F units over 300-d word vectors makes the sentence."""
    lstm = 4 * 1024 * (300 + 1024 + 2) - (4800 - 1024) * 1024
    counts = {arg: OFFICIAL - 2 * 10 * (8192 - dim) * 1024 + lstm for arg, _, dim in manual_variants(DATASETS)}
    # F = 128, ten units of 64, a sentence of 32 numbers, IoU 128-64-32-1:
    # 2 * 641 F + 33 F + 3 F + (3 F + 1) F + 2 * 129 * 3 F + 129 * 27 + 8256 + 2080 + 33
    counts["storyboard"] = 330_908
    counts["charades_sta,i3d,skip_thoughts"] = OFFICIAL - 2 * 10 * (8192 - 1024) * 1024
    return counts
