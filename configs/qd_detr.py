r"""QD-DETR (Moon et al., CVPR 2023).

    python launch.py --config=configs/qd_detr.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/qd_detr.py:qvhighlights --config.dataset.manual_dir=DIR \
        --config.text.features=DIR/clip_text_features
        the paper's setting; DIR as in data/qvhighlights/README.md, with the token features of the queries.

On QVHighlights, whose protocol is 'highlights', option clip takes CLIP's features alone, option glove word
vectors instead of CLIP's tokens, and option audio PANN's features of sound beside the clips
(DIR/umt_pann_features, of UMT's authors). Checkpoints that the official code ships, validation split: R@1 (%)
at IoU .5/.7 62.90 / 46.77, mAP at IoU .5/.75 and on average 62.66 / 41.51 / 41.24; with sound 63.74 / 47.74 and
62.92 / 42.16 / 41.72.

Other data sets have one moment a query, no annotated saliency and, here, GloVe vectors; their settings are
those of configs/moment_detr.py.
"""

from vmr_jax.configs import common
from vmr_jax.configs.moment_detr import DATASETS as SILENT
from vmr_jax.configs.moment_detr import settings

DATASETS = {**SILENT, "qvhighlights": (*SILENT["qvhighlights"], "audio")}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = settings("qd_detr", dataset, options)
    if "audio" in options:
        config.model.audio = True
        config.dataset.streams.audio = ("umt_pann_features", 2048)
    return config
