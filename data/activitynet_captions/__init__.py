"""ActivityNet Captions: sentences and their moments in videos of all kinds of activity; see README.md.

From: Krishna, Hata, Ren, Fei-Fei, Niebles, "Dense-Captioning Events in Videos", ICCV 2017.
"""

from vmr_jax.data.activitynet_captions import annotations
from vmr_jax.input import records

# Of the official files: what is left of 37,421 training rows when the four that are empty are dropped.
PUBLISHED_COUNTS = {
    "train": {"queries": 37417, "videos": 10009},
    "anet_val_1": {"queries": 17505, "videos": 4917},
    "anet_val_2": {"queries": 17031, "videos": 4885},
}
MODALITIES = records.TEXT_MODALITIES

SOURCE = records.Source(
    name="activitynet_captions",
    title="ActivityNet Captions (Krishna et al., ICCV 2017)",
    files=annotations.files,
    read=annotations.read,
    splits=annotations.splits,
    fields=("convention", "val_fraction"),
)
prepare, features, word_vectors = records.entry_points(SOURCE)
