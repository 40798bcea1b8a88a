"""Zero-shot."""

from vmr_jax.configs import datasets
from vmr_jax.configs.zero_shot import DATASETS

SMALL = dict(text="sentence", stream="subtitles", lengths=(1, 2, 4, 8))

# CLIP ViT-B/32 has 151,277,313 values; 87,849,216 are the image encoder's, one is the temperature.
CLIP_TEXT = 151_277_313 - 87_849_216 - 1
# SigLIP 2 base: embeddings (256,000 + 64) * 768; 12 layers of 4 (768^2 + 768) for the attention, 768 * 3072 +
# 3072, 3072 * 768 + 768, and two norms 2 * 768; a norm, and a projection 768^2 + 768.
_LAYER = 4 * (768**2 + 768) + 768 * 3072 + 3072 + 3072 * 768 + 768 + 4 * 768
SIGLIP_TEXT = (256_000 + 64) * 768 + 12 * _LAYER + 2 * 768 + 768**2 + 768


def golden() -> dict[str, int]:
    """A text tower, the scale and the bias."""
    manual = [name for name in DATASETS if name != "storyboard"]
    clip = {f"{name},clip" if "clip" in datasets.FEATURES[name] else name: CLIP_TEXT + 2 for name in manual}
    return {"storyboard": 2, **clip, "jsonl,siglip": SIGLIP_TEXT + 2}
