"""Official checkpoints of CPL (minghangz/cpl) -> `vmr_jax.models.cpl`.

The tensors stand under "model_parameters". Which words the rows of the completion layer are stands in another
file, glove.pkl: give its most common words, 1111 of Charades-STA or 8000 of ActivityNet Captions, in their
order, as config.text.vocabulary.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, completion, linear, size

COUNTERS = ("counters/updates",)
_WORDS = "fc_comp"
inputs = completion.inputs


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine; they do not tell heads, rows and sigma."""
    return {**completion.sizes(shapes, _WORDS), "proposals": size(shapes, "fc_gauss.weight", 0) // 2}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    gaussians = size(shapes, "fc_gauss.weight", 0), size(shapes, "frame_fc.weight", 0)
    return [
        *completion.entries(shapes, _WORDS),
        *linear("fc_gauss", "params/gaussians", gaussians),
        Entry("pred_vec", "params/proposal_vector", (inputs(shapes)["video"],)),
    ]
