"""The shapes of a batch from the config alone, and what a dataset can fill."""

from collections.abc import Sequence
from typing import Any

import jax
import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.input import schema
from vmr_jax.input.dataset import dataset_module
from vmr_jax.input.queries import OF_ANY_SENTENCE, field_shapes
from vmr_jax.types import Batch

OF_CLIPS = ("flow", "audio", "objects", "subtitles")  # optional fields that follow the clips
_MASKS = {
    "objects": "object_mask",
    "subtitles": "subtitle_mask",
    "windows": "window_mask",
    "subwords": "subword_mask",
}
_OF_ANY_QUERY = (*OF_ANY_SENTENCE, "windows")  # optional fields that every dataset can fill


def batch_spec(config, batch_size: int, fields: Sequence[str] = ()) -> Batch:
    """Returns the batch of a config as ShapeDtypeStructs, without opening the dataset."""
    b, t, length = batch_size, config.input.num_clips, config.text.max_words

    def array(*shape, dtype=np.float32):
        return jax.ShapeDtypeStruct((b, *shape), dtype)

    check_fields(config, fields)
    widths = _widths(config)
    shapes = field_shapes(config, *widths.get("sentence", (0,)))
    shapes["windows"], shapes["window_mask"] = (
        ((schema.MAX_WINDOWS, 2), np.float32),
        ((schema.MAX_WINDOWS,), bool),
    )
    shapes["saliency"] = ((t,), np.float32)
    shapes["subtitle_mask"] = ((t,), bool)
    for name in OF_CLIPS:
        if name in widths:
            shapes[name] = ((t, *widths[name]), np.float32)
    if "objects" in widths:
        shapes["object_mask"] = ((t, widths["objects"][0]), bool)
    wanted = [*fields, *(mask for name, mask in _MASKS.items() if name in fields)]
    optional = {
        name: jax.tree.map(lambda s: array(*s[0], dtype=s[1]), shapes[name], is_leaf=_is_shape)
        for name in wanted
    }
    return Batch(
        video=array(t, config.dataset.feature_dim),
        video_mask=array(t, dtype=bool),
        duration=array(),
        query=array(length, dtype=np.int32),
        query_vectors=array(length, config.text.dim),
        query_mask=array(length, dtype=bool),
        span=array(2),
        example_mask=array(dtype=bool),
        example_index=array(dtype=np.int32),
        video_index=array(dtype=np.int32),
        **optional,
    )


def _is_shape(x: Any) -> bool:
    return isinstance(x, tuple)


def _widths(config) -> dict[str, tuple[int, ...]]:
    """Optional field -> its shape in one clip or one query, of the dataset's and of the user's files."""
    widths = dict(dataset_module(config.dataset.name).MODALITIES)
    widths.update({name: tuple(stream[1:]) for name, stream in config.dataset.get("streams", {}).items()})
    if config.text.sentence_features:
        widths["sentence"] = (config.text.sentence_dim,)
    return widths


def check_fields(config, fields: Sequence[str]) -> None:
    """Raises UserError where the architecture requires what the dataset lacks."""
    available = _widths(config)
    for name in fields:
        if name not in available and name not in _OF_ANY_QUERY:
            raise UserError(
                f'The architecture {config.model.name} needs "{name}", which the dataset '
                f"{config.dataset.name} does not have (it has: {', '.join(available) or 'none'}). Choose "
                "another dataset or switch off the option that needs it."
            )
