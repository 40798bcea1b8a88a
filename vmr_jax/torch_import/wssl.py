"""Official checkpoints of WSSL (XgDuan/WSDEC) -> `vmr_jax.models.wssl`.

The tensors of both parts stand under "dynamic_params". Which words the rows are stands in another file, the
translator: give its `id_to_word`, without the first two and the last one, as config.text.vocabulary.
"""

import dataclasses
from typing import Any

import numpy as np

from vmr_jax.torch_import import Entry, Shapes, batch_norm, count, gru, kernel, linear, size

COUNTERS = ("counters/updates",)
_TABLE = "model_sl.sent_embedding.weight"


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell scale, slope, beams and caption_words, nor the turns of the training.
    """
    return {
        "features": size(shapes, "model_sl.feature_mixer.fc.weight", 0),
        "layers": count(shapes, r"model_sl\.video_encoder\.rnn_cell\.weight_ih_l(\d+)"),
        "embedding": size(shapes, _TABLE, 1),
        "vocab_size": size(shapes, _TABLE, 0) - 1,
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    return {"video": size(shapes, "model_sl.video_encoder.rnn_cell.weight_ih_l0", 1)}


def rows(x: np.ndarray) -> np.ndarray:
    """Rows of the classes in our order: end, unknown, words, start; officially start, end, words, unknown."""
    return np.concatenate([x[[1, -1]], x[2:-1], x[:1]])


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint; PyTorch 0.3 counts no batches."""
    fields, dim = hyper_parameters(shapes), inputs(shapes)["video"]
    f, layers, e = (fields[name] for name in ("features", "layers", "embedding"))
    classes, wide = fields["vocab_size"] + 1, 3 * f

    def alone(key: str, path: str, shape: tuple[int, int]) -> Entry:
        return Entry(f"{key}.weight", f"params/{path}/kernel", shape, kernel)

    found = _encoder("model_sl.video_encoder", "localizer/video_encoder", dim, f, layers)
    found += _encoder("model_sl.text_encoder", "localizer/text_encoder", e, f, layers, residual=False)
    found += [
        Entry(_TABLE, "params/localizer/words", (classes, e), rows),
        alone("model_sl.feature_mixer.video_attention.linear", "localizer/video_attention", (layers * f, f)),
        alone("model_sl.feature_mixer.text_attention.linear", "localizer/text_attention", (layers * f, f)),
        alone("model_sl.feature_mixer.combiner.0", "localizer/mix_0", (wide, wide)),
        alone("model_sl.feature_mixer.combiner.4", "localizer/mix_1", (wide, wide)),
    ]
    norms = {"video_batch_norm": "video_norm", "text_batch_norm": "text_norm"}
    for key, path in {**norms, "combiner.1": "norm_0", "combiner.5": "norm_1"}.items():
        width = wide if "combiner" in key else f
        found += batch_norm(f"model_sl.feature_mixer.{key}", f"localizer/{path}", width)
    found += linear("model_sl.feature_mixer.fc", "params/localizer/both", (f, 2 * f))
    found += linear("model_sl.predictor", "params/localizer/score", (15, wide))
    found += linear("model_sl.refiner", "params/localizer/refine", (30, wide))

    found += _encoder("model_cg.video_encoder", "generator/encoder", dim, f, layers)
    found.append(Entry("model_cg.decoder.embedding.weight", "params/generator/words", (classes, e), rows))
    for entry in gru("model_cg.decoder.rnn_cell", "params/generator", e + wide, f, layers):
        found.append(dataclasses.replace(entry, path=entry.path.replace("/layer_", "/cell_")))
    output = "model_cg.decoder.output_layer"
    found += [
        Entry(f"{output}.weight", "params/generator/output/kernel", (classes, f), lambda x: kernel(rows(x))),
        Entry(f"{output}.bias", "params/generator/output/bias", (classes,), rows),
    ]
    return [entry for entry in found if entry.path or entry.key in shapes]


def _encoder(key: str, path: str, inputs: int, f: int, layers: int, residual: bool = True) -> list[Entry]:
    """All tensors of an RNNSeqEncoder."""
    found = []
    for entry in gru(f"{key}.rnn_cell", f"params/{path}", inputs, f, layers):
        # Each layer is a GRU of its own.
        place = entry.path.replace("/layer_", "/gru_").rsplit("/", 1)
        found.append(dataclasses.replace(entry, path=f"{place[0]}/layer_0/{place[1]}"))
    if residual:
        found.append(Entry(f"{key}.linear.weight", f"params/{path}/residual/kernel", (f, inputs), kernel))
    return found
