"""Official checkpoints of MML (madhawav/MML) -> `vmr_jax.models.object_evidence`."""

from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.models import GroundingModel
from vmr_jax.torch_import import Entry, Shapes, linear, pointwise, size

_THINGS, _ACTIVITIES, _CAPTIONS = 150, 400, 2048  # as the program has them


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine; use_captions is among those that they do not."""
    return {
        "features": size(shapes, "v2s_lt.weight", 0),
        "action_features": size(shapes, "soft2s_lt.weight", 0),
        "hidden": size(shapes, "fc1.weight", 0),
        "use_objects": size(shapes, "soft2s_lt.weight", 1) > _ACTIVITIES,
    }


def inputs_of(shapes: Shapes, model: GroundingModel) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads.

    Raises UserError where three parts of a window do not share the width of its first layer.
    """
    seen, concepts = size(shapes, "v2s_lt.weight", 1), size(shapes, "soft2s_lt.weight", 1)
    captions = _CAPTIONS if model.use_captions else 0
    if seen % 3 or seen // 3 <= captions:
        raise UserError(
            f"The checkpoint reads {seen} numbers of a window, which are not three times its features"
            + (f" and {captions} of captions. Set use_captions=False if it has none." if captions else ".")
        )
    found = {
        "video": seen // 3 - captions,
        "sentence": size(shapes, "s2s_lt.weight", 1),
        "query_vectors": size(shapes, "VP2s_lt.weight", 1) // 2,
        "activity_scores": min(concepts, _ACTIVITIES),
    }
    if captions:
        found["captions"] = captions
    if concepts > _ACTIVITIES:
        found["object_scores"] = concepts - _ACTIVITIES
    return found


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    found = []
    layers = {"v2s_lt": "video", "s2s_lt": "sentence", "soft2s_lt": "concepts", "VP2s_lt": "verb_object"}
    for theirs, ours in layers.items():
        width = size(shapes, "v2s_lt.weight" if theirs in ("v2s_lt", "s2s_lt") else "soft2s_lt.weight", 0)
        found += linear(theirs, f"params/{ours}", (width, size(shapes, f"{theirs}.weight", 1)))
    hidden = size(shapes, "fc1.weight", 0)
    fused = 4 * (size(shapes, "v2s_lt.weight", 0) + size(shapes, "soft2s_lt.weight", 0))
    found += linear("fc1", "params/alignment/hidden", (hidden, fused, 1, 1), pointwise)
    found += linear("fc2", "params/alignment/output", (3, hidden, 1, 1), pointwise)
    return found
