"""FVMR."""

from cases import manual_variants, other_width
from vmr_jax.configs.fvmr import DATASETS

SMALL = dict(
    num_clips=8,
    scale_layers=(8,),
    features=8,
    common=8,
    lstm_layers=1,
    warmup_epochs=0,
    score="p+q",
    feature_distillation=1.0,
    contrast_weight=0.5,
)

CHARADES = 19_133_442  # VGG, 4096-d; derived in tests/models/test_fvmr.py


def golden() -> dict[str, int]:
    """Only the first layer, of 512 outputs, depends on the features; a pooled map has no weights."""
    counts = {arg: other_width(CHARADES, 4096, dim, 512) for arg, _, dim in manual_variants(DATASETS)}
    return {"storyboard": 286_978, **counts}
