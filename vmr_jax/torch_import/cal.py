"""Official checkpoints of CAL (escorciav/moments-retrieval) -> `vmr_jax.models.cal`.

Those of SMCN, and of CALChamfer with an LSTM of one direction. Not read: more than two layers for the clips
(visual_layers), and the other classes of its model.py.
"""

from typing import Any

from vmr_jax.models.base import GroundingModel
from vmr_jax.torch_import import Entry, Shapes, kernel, linear, lstm, size


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell endpoints and global_context, which change the width that the features of a clip must have,
    nor anything of the windows.
    """
    output = _output(shapes)
    return {
        "distance": "chamfer" if output == "state_encoder" else "mean",
        "hidden": size(shapes, "visual_encoder.0.weight", 0),
        "features": size(shapes, f"{output}.weight", 0),
        "lstm_features": size(shapes, f"{output}.weight", 1),
    }


def _output(shapes: Shapes) -> str:
    return "state_encoder" if "state_encoder.weight" in shapes else "lang_encoder"


def inputs_of(shapes: Shapes, model: GroundingModel) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    fields: Any = model
    width = size(shapes, "visual_encoder.0.weight", 1) - (0 if fields.endpoints == "none" else 2)
    clip = width // 2 if fields.global_context else width
    return {"video": clip, "query_vectors": size(shapes, "sentence_encoder.weight_ih_l0", 1)}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields = hyper_parameters(shapes)
    hidden, features, units = fields["hidden"], fields["features"], fields["lstm_features"]
    width, words = (
        size(shapes, f"{key}", 1) for key in ("visual_encoder.0.weight", "sentence_encoder.weight_ih_l0")
    )
    return [
        Entry("visual_encoder.0.weight", "params/clips/hidden_kernel", (hidden, width), kernel),
        Entry("visual_encoder.0.bias", "params/clips/hidden_bias", (hidden,)),
        Entry("visual_encoder.2.weight", "params/clips/output_kernel", (features, hidden), kernel),
        Entry("visual_encoder.2.bias", "params/clips/output_bias", (features,)),
        *lstm("sentence_encoder", "params/lstm", words, units, 1),
        *linear(_output(shapes), "params/sentence_output", (features, units)),
    ]
