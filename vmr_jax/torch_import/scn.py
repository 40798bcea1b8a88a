"""Official checkpoints of SCN (ikuinen/semantic_completion_network) -> `vmr_jax.models.scn`.

The tensors stand under "model_parameters". Which words the rows of the completion layer are stands in another
file, vocab.pkl: give the 8000 most common of them, in their order, as config.text.vocabulary.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, completion, linear, size

COUNTERS = ("counters/updates",)
_WORDS = "fc_comp"
inputs = completion.inputs


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell widths (but their number, which must agree), heads, rows, candidates and keep.
    """
    return completion.sizes(shapes, _WORDS)


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    features = size(shapes, "frame_fc.weight", 0)
    scores = linear("fc_props", "params/scores", (size(shapes, "fc_props.weight", 0), features))
    return completion.entries(shapes, _WORDS) + scores
