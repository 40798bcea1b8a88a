"""Official checkpoints of TMLGA (crodriguezo/TMLGA) -> `vmr_jax.models.tmlga`.

The program saves its whole model; a state_dict is read too. Left out are two layers that it does not use.

The word vectors are not among the tensors: they stand in a file of PyTorch, the words in a pickle of the
program's vocabulary. Both become a file of word vectors, to be given as config.text.vectors:

    python -m vmr_jax.torch_import.tmlga EMBEDDINGS.pth VOCABULARY.pickle WORDS.npz
"""

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from vmr_jax.errors import UserError
from vmr_jax.torch_import import Entry, Shapes, count, gru, left_out, linear, size
from vmr_jax.torch_import.torch_file import read_tensors
from vmr_jax.torch_import.words import run_command, save_words

_QUERY, _CLIPS = "model_df.tail_df.lstm", "rnn_localization"  # both are GRUs
_VOCABULARY = ("utils.vocab.Vocab", "utils.vocab.VocabItem")


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell independent_ends and keep.
    """
    return {
        "features": size(shapes, "reduction.weight", 0),
        "recurrent_features": size(shapes, f"{_CLIPS}.weight_hh_l0", 1),
        "recurrent_layers": count(shapes, rf"{_CLIPS}\.weight_hh_l(\d+)"),
        "use_bias": f"{_CLIPS}.bias_ih_l0" in shapes,
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    return {
        "video": size(shapes, "reduction.weight", 1),
        "query_vectors": size(shapes, f"{_QUERY}.weight_ih_l0", 1),
    }


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, width, bias = fields["features"], fields["recurrent_features"], fields["use_bias"]
    both, layers = 2 * width, fields["recurrent_layers"]
    found = gru(_QUERY, "params/query_gru", widths["query_vectors"], width, 1, 2, bias)
    found += gru(_CLIPS, "params/gru", features, width, layers, 2, bias)
    found += linear("model_df.head_df.mlp.0", "params/filter", (features, both))
    found += linear("reduction", "params/clips", (features, widths["video"]))
    for theirs, ours in (("starting", "start"), ("ending", "end")):
        found += linear(theirs, f"params/{ours}", (1, both))
    # Of these widths whatever the others are.
    return found + left_out("multimodal_fc1", (1, 1024)) + left_out("multimodal_fc2", (1, 512))


# Word vectors.


class _Vocabulary(pickle.Unpickler):
    """Reads the pickle of a vocabulary and no other; nothing in it is run."""

    def find_class(self, module: str, name: str) -> Any:
        if f"{module}.{name}" in _VOCABULARY:
            return type("Fields", (), {})
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def word_vectors(embeddings: str, vocabulary: str) -> tuple[list[str], np.ndarray]:
    """Reads the words of an official vocabulary, and their vectors [words,W] in their order.

    Raises:
      UserError: for a file that is missing or of another kind, and where the two do not belong together.
    """
    table = read_tensors(embeddings)
    if not isinstance(table, np.ndarray) or table.ndim != 2:
        raise UserError(f"{embeddings} holds no table of word vectors, such as charades_embeddings_1_30.pth.")
    rows = _rows(Path(vocabulary))
    if sorted(rows.values()) != list(range(len(table))):
        raise UserError(
            f"{embeddings} has vectors of {len(table)} words and {vocabulary} has {len(rows)}. Take the "
            "vocabulary that belongs to them."
        )
    return sorted(rows, key=rows.__getitem__), np.array(table, np.float32)


def _rows(path: Path) -> dict[str, int]:
    """Word -> row, from the pickle of the official preprocessing."""
    try:
        rows = _Vocabulary(io.BytesIO(path.read_bytes())).load().token2index
        whole = all(isinstance(word, str) and isinstance(row, int) for word, row in rows.items())
    except FileNotFoundError:
        raise UserError(f"There is no vocabulary at {path}. Check the path.") from None
    except (pickle.UnpicklingError, EOFError, ValueError, LookupError, TypeError, AttributeError, OSError):
        whole = False
    if not whole:
        raise UserError(
            f"{path} is no vocabulary of TMLGA's official code, such as charades_vocab_1_30.pickle."
        )
    return rows


def main(arguments: Sequence[str]) -> None:
    """Writes the word vectors of EMBEDDINGS and VOCABULARY to WORDS.npz."""
    if len(arguments) != 3:
        raise UserError("Use: python -m vmr_jax.torch_import.tmlga EMBEDDINGS.pth VOCABULARY.pickle WORDS.npz")
    embeddings, vocabulary, path = arguments
    save_words(path, *word_vectors(embeddings, vocabulary))


if __name__ == "__main__":
    run_command(main)
