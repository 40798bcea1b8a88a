"""Official checkpoints of CNM (minghangz/cnm) -> `vmr_jax.models.cnm`.

The tensors stand under "model_parameters". Which words the rows of the completion layer are stands in another
file, glove.pkl: give its most common words, 1111 of Charades-STA or 8000 of ActivityNet Captions, in their
order, as config.text.vocabulary.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, completion, linear, size

_WORDS = "fc_rec"
inputs = completion.inputs


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell heads, rows, sharpness and max_width: the last two differ between the two datasets.
    """
    return completion.sizes(shapes, _WORDS)


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    generator = linear("fc_mask_gen", "params/mask_generator", (2, size(shapes, "frame_fc.weight", 0)))
    return completion.entries(shapes, _WORDS) + generator
