"""Networks of AVMR (yawenzeng/AVMR) -> `vmr_jax.models.avmr`.

The official program saves nothing. What is read is one dictionary of the state_dicts of its objects under their
names there: those of the agent (`vmr_jax.torch_import.ddpg`) and 'distor', the discriminator. Nothing is left
out.
"""

from typing import Any

from vmr_jax.torch_import import Entry, Shapes, ddpg, linear, lstm, pointwise, size

COUNTERS = ("schedule/step",)
_ACTIONS = 6


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell whether the vector of the query is that of the sentence or the mean of the word vectors.
    """
    return {
        **ddpg.sizes(shapes),
        "features": size(shapes, "distor.v2s_lt.weight", 0),
        "hidden": (size(shapes, "distor.fc1.weight", 0), size(shapes, "distor.fc2.weight", 0)),
        "pooling": "lstm",
        "frames": size(shapes, "distor.lstm.weight_ih_l0", 1),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads: 'sentence', or 'query_vectors' in its place."""
    sentence = size(shapes, "distor.s2s_lt.weight", 1)
    return {"video": size(shapes, "distor.v2s_lt.weight", 1), "sentence": sentence, "query_vectors": sentence}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    space, (wide, narrow), frames = fields["features"], fields["hidden"], fields["frames"]
    state = widths["sentence"] + 2 * widths["video"] + 2
    place = "params/discriminator"
    return [
        *ddpg.entries(shapes, state, _ACTIONS, "agent"),
        *linear("distor.v2s_lt", f"{place}/video", (space, widths["video"])),
        *linear("distor.s2s_lt", f"{place}/query", (space, widths["sentence"])),
        *lstm("distor.lstm", f"{place}/lstm", frames, frames, 1),
        *linear("distor.l_lt", f"{place}/pool", (1, frames)),
        *linear("distor.fc1", f"{place}/hidden_0", (wide, 4 * space, 1, 1), pointwise),
        *linear("distor.fc2", f"{place}/hidden_1", (narrow, wide, 1, 1), pointwise),
        *linear("distor.fc3", f"{place}/score", (1, narrow, 1, 1), pointwise),
    ]
