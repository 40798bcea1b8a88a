"""Networks of STRONG (yawenzeng/STRONG) -> `vmr_jax.models.strong`.

The official program saves nothing. What is read is one dictionary of the state_dicts of its objects under their
names there: 'maddpg' and 'ddpg_image', the two agents (`vmr_jax.torch_import.ddpg`), and 'spp', the layers over
a pooled crop. Those of VGG, which read the frames, are no part of it.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, ddpg, linear, size

COUNTERS = ("schedule/step",)
_PARTS = 1 + 4 + 16  # of a crop that are pooled


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell whether the vector of the query is that of the sentence or the mean of the word vectors.
    """
    return {
        **ddpg.sizes(shapes, "maddpg."),
        "crop_hidden": size(shapes, "spp.fc.0.weight", 0),
        "crop_features": size(shapes, "spp.score.weight", 0),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads; a clip is as wide as a crop, as in the program."""
    video = size(shapes, "spp.score.weight", 0)
    sentence = size(shapes, "maddpg.actors.0.FC1.weight", 1) - 2 * video - 2
    grid = size(shapes, "spp.fc.0.weight", 1) // _PARTS
    return {"video": video, "grid": grid, "sentence": sentence, "query_vectors": sentence}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors."""
    widths = inputs(shapes)
    hidden, crop = (size(shapes, f"spp.{name}.weight", 0) for name in ("fc.0", "score"))
    state = widths["sentence"] + 2 * crop
    return [
        *ddpg.entries(shapes, state + 2, 6, "temporal", "maddpg."),
        *ddpg.entries(shapes, state, 8, "spatial", "ddpg_image."),
        *linear("spp.fc.0", "params/crops/layer_0", (hidden, _PARTS * widths["grid"])),
        *linear("spp.score", "params/crops/layer_1", (crop, hidden)),
    ]
