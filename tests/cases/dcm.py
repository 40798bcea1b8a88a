"""DCM."""

from cases import manual_variants, other_width
from vmr_jax.configs.dcm import DATASETS

DRAWS_ROWS = True  # negatives are drawn among the other rows of the batch
SMALL = dict(
    num_clips=4,
    scale_layers=(4,),
    features=8,
    map_kernel=3,
    map_layers=1,
    lstm_layers=1,
    heads=2,
    dropout=0.5,
    location_weight=0.1,  # that draws show in the objective
)


def network(dim: int, words: int, features: int, kernel: int, layers: int, lstm_layers: int) -> int:
    """As the official modules: clips; LSTM; fc, conv, conv_pos, conv_res, Q, M and fc_value; fc_key, fc_qry;
    conv2d_1 and so on; pred_weight.
    """
    square = features * features
    lstm = 4 * features * (words + features + 2) + (lstm_layers - 1) * 4 * features * (2 * features + 2)
    linear = (dim + 1) * features + 7 * (square + features) + 2 * square
    return linear + lstm + layers * (kernel**2 * square + features) + features


I3D = network(1024, 300, 512, 5, 3, 3)


def golden() -> dict[str, int]:
    """Only the first layer, of 512 outputs, depends on the features."""
    counts = {"storyboard": network(64, 50, 64, 3, 3, 1)}
    return counts | {arg: other_width(I3D, 1024, dim, 512) for arg, _, dim in manual_variants(DATASETS)}
