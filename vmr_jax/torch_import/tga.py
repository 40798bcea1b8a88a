"""Official checkpoints of TGA (niluthpol/weak_supervised_video_moment) -> `vmr_jax.models.tga`.

The tensors stand under "model", those of the two encoders in a list. Of the word vectors it takes those of the
start, of the end and of unknown words, the rows 1 to 3: which row is which other word stands in another file,
vocab.pkl. Write its `word2idx` as {"wtoi": {...}} to a json file; both files become one of word vectors, to be
given as config.text.vectors with config.text.trainable=False:

    python -m vmr_jax.torch_import.tga CHECKPOINT VOCABULARY.json WORDS.npz
"""

import functools
from typing import Any

import numpy as np

from vmr_jax.torch_import import Entry, Shapes, count, gru, linear, size
from vmr_jax.torch_import.words import Vocabulary, run_command, write_words

WORDS = Vocabulary("TGA", "1.embed.weight", ("<pad>", "<start>", "<end>", "<unk>"))


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They do not tell window_rows and margin. The vectors of the vocabulary are left out, so that vocab_size
    stays 0: see the top of this file.
    """
    return {
        "features": size(shapes, "0.fc.weight", 0),
        "layers": count(shapes, r"1\.rnn\.weight_ih_l(\d+)"),
    }


def inputs(shapes: Shapes) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    return {"video": size(shapes, "0.ws1.weight", 1), "query_vectors": size(shapes, WORDS.key, 1)}


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint."""
    fields, widths = hyper_parameters(shapes), inputs(shapes)
    features, width = fields["features"], widths["query_vectors"]

    def special(table: np.ndarray) -> np.ndarray:
        return table[1 : len(WORDS.special)]

    found = [Entry(WORDS.key, "params/words/special", (size(shapes, WORDS.key, 0), width), special)]
    found += gru("1.rnn", "params/gru", width, features, fields["layers"])
    found += linear("0.ws1", "params/window", (features, widths["video"]))
    return found + linear("0.fc", "params/output", (features, features))


if __name__ == "__main__":
    run_command(functools.partial(write_words, WORDS))
