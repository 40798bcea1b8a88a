"""Official checkpoints of TCMN (Sy-Zhang/TCMN-Release) -> `vmr_jax.models.tcmn`.

A checkpoint is one network. An ensemble is a list of them, {"state_dict": [first, second, ...]}, in the order
of the field `networks`. Left out are GloVe, of which there are four copies, and the places of the segments.

The program keeps its rows with their parses, trees of NLTK, in a pickle. They become a file of brackets, to be
given as config.text.parses:

    python -m vmr_jax.torch_import.tcmn CACHE.pkl PARSES.txt
"""

import dataclasses
import pickle
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vmr_jax.errors import UserError
from vmr_jax.files import require_file
from vmr_jax.models.tcmn import Model
from vmr_jax.text.constituency import LABELS
from vmr_jax.torch_import import Entry, Shapes, kernel, linear, size
from vmr_jax.torch_import.torch_file import next_pickle
from vmr_jax.torch_import.words import run_command

_GLOVE = "text_embedding.word_embedding.weight"
_READERS = {
    "signal_builder": "signal_nodes",
    "main_sent_builder": "main_nodes",
    "context_sent_builder": "context_nodes",
}
_ATTENTIONS = {"main_prop_att_builder": "main_segments", "context_prop_att_builder": "context_segments"}
_SCORES = {"prop_score_builder": "visual", "loc_score_builder": "location"}
_STREAMS = {4096: "video", 1024: "flow"}  # VGG16's and BN-Inception's
_CELL = "cstlstm.tree_cell"


def hyper_parameters(shapes: Shapes) -> dict[str, Any]:
    """Fields of the model that the shapes determine.

    They tell `networks` by the widths of the official features, else not. They do not tell weights, moments,
    margin, official_padding and keep.
    """
    first = _prefixes(shapes)[0]
    streams = [[_STREAMS.get(width, "") for width in _widths(shapes, prefix)] for prefix in _prefixes(shapes)]
    return {
        "tree_features": size(shapes, f"{first}{_CELL}.conv_uf.weight", 0),
        "visual_features": size(shapes, f"{first}main_prop_att_builder.visual_to_hidden.0.weight", 0),
        "attention_features": size(shapes, f"{first}main_prop_att_builder.visual_to_hidden.2.weight", 0),
        "features": size(shapes, f"{first}prop_score_builder.visual_to_hidden.0.weight", 0),
        **({"networks": tuple(map("_".join, streams))} if all(map(all, streams)) else {}),
    }


def inputs_of(shapes: Shapes, model: Model) -> dict[str, int]:
    """Widths of the fields of a batch that the model reads."""
    widths = {"query_vectors": size(shapes, _prefixes(shapes)[0] + _GLOVE, 1)}
    for prefix, network in zip(_prefixes(shapes), model.networks):
        for stream, width in zip(network.split("_"), _widths(shapes, prefix)):
            widths[stream] = width
    return widths


def entries(shapes: Shapes) -> list[Entry]:
    """All tensors of the checkpoint, or of all checkpoints of an ensemble."""
    found = []
    for number, prefix in enumerate(_prefixes(shapes)):
        found += _network(shapes, prefix, f"params/network_{number}")
    return found


def _prefixes(shapes: Shapes) -> list[str]:
    """Returns how the names of each network begin: '' of a single one, '0.', '1.', ... of several."""
    several = sorted({int(key.split(".")[0]) for key in shapes if key.split(".")[0].isdecimal()})
    return [f"{number}." for number in several] or [""]


def _widths(shapes: Shapes, prefix: str) -> list[int]:
    """D of the features in which a network looks for the main event, and for the context event."""
    return [size(shapes, f"{prefix}{builder}.visual_to_hidden.0.weight", 1) for builder in _ATTENTIONS]


def _network(shapes: Shapes, prefix: str, path: str) -> list[Entry]:
    part = {key.removeprefix(prefix): shape for key, shape in shapes.items() if key.startswith(prefix)}
    words, width = size(part, _GLOVE, 0), size(part, _GLOVE, 1)
    tree = size(part, f"{_CELL}.conv_uf.weight", 0)
    cell = f"{path}/tree_lstm"
    found = [
        Entry(_GLOVE, "", (words, width)),
        *(Entry(f"{builder}.{_GLOVE}", "", (words, width)) for builder in _READERS),
        Entry("conTEF", "", (*2 * (size(part, "conTEF", 0),), 4)),
        Entry(f"{_CELL}.conv_combined.weight", f"{cell}/gates_kernel", (3 * tree, width + tree), kernel),
        Entry(f"{_CELL}.conv_combined.bias", f"{cell}/gates_bias", (3 * tree,)),
        *linear(f"{_CELL}.conv_wf", f"{cell}/forget_inputs", (tree, width)),
        Entry(f"{_CELL}.conv_uf.weight", f"{cell}/forget_kernel", (tree, tree), kernel),
        Entry(f"{_CELL}.conv_uf.bias", f"{cell}/forget_bias", (tree,)),
    ]
    for theirs, ours in _READERS.items():
        labels = Entry(
            f"{theirs}.label_embedding.weight", f"{path}/{ours}/labels/embedding", (len(LABELS), width)
        )
        found += [
            labels,
            *linear(f"{theirs}.node_attention_linear.0", f"{path}/{ours}/score", (1, width + tree)),
        ]
    for theirs, ours in _ATTENTIONS.items():
        hidden = size(part, f"{theirs}.visual_to_hidden.0.weight", 0)
        common = size(part, f"{theirs}.visual_to_hidden.2.weight", 0)
        inputs = size(part, f"{theirs}.visual_to_hidden.0.weight", 1)
        for layer, name, shape in (
            ("visual_to_hidden.0", "segment_hidden", (hidden, inputs)),
            ("visual_to_hidden.2", "segment", (common, hidden)),
            ("textual_to_hidden.0", "text", (common, tree)),
            ("prediction.0", "hidden", (common, common)),
            ("prediction.2", "score", (1, common)),
        ):
            found += linear(f"{theirs}.{layer}", f"{path}/{ours}/{name}", shape)
    for theirs, ours in _SCORES.items():
        common, inputs = (size(part, f"{theirs}.visual_to_hidden.0.weight", axis) for axis in (0, 1))
        # The checkpoints of TEMPO-TL are of a program in which these two layers had other names.
        older = f"{theirs}.prediction.0.weight" in part
        last = ("prediction.0", "prediction.2") if older else ("nonlinear_1.0", "nonlinear_2")
        found += [
            Entry(
                f"{theirs}.visual_to_hidden.0.weight", f"{path}/{ours}/pair_kernel", (common, inputs), kernel
            ),
            Entry(f"{theirs}.visual_to_hidden.0.bias", f"{path}/{ours}/pair_bias", (common,)),
            *linear(f"{theirs}.textual_to_hidden.0", f"{path}/{ours}/text", (common, tree)),
            *linear(f"{theirs}.{last[0]}", f"{path}/{ours}/hidden", (common, common)),
            *linear(f"{theirs}.{last[1]}", f"{path}/{ours}/score", (1, common)),
        ]
    return [dataclasses.replace(entry, key=prefix + entry.key) for entry in found]


# Parses.


class _Tree(list):
    """A tree of NLTK: its label, and what is in it."""

    _label: str


class _Rows(pickle.Unpickler):
    """Reads the pickle of rows with trees of NLTK and no other; nothing in it is run."""

    def find_class(self, module: str, name: str) -> Any:
        if module in ("nltk.tree", "nltk.tree.tree") and name == "Tree":
            return _Tree
        raise pickle.UnpicklingError(f"it names {module}.{name}")


def parses(path: Path) -> list[str]:
    """Reads the parses of a pickle of the official program, in brackets.

    Raises:
      UserError: for a file that is missing or of another kind.
    """
    require_file(path)
    try:
        with path.open("rb") as file:
            rows = _Rows(next_pickle(file)).load()
        return [brackets for row in rows for brackets in _trees_of(row)]
    except FileNotFoundError:
        raise UserError(f"There are no parses at {path}. Check the path.") from None
    except Exception as error:  # of a damaged pickle anything may be said
        raise UserError(
            f"{path} is no cache of TCMN's official code, such as tempoHL+didemo_train_data.pkl: a list of "
            f"rows, each with its parse_tree ({error}). Get the file again, or make it with that code."
        ) from None


def _trees_of(row: dict[str, Any]) -> Iterator[str]:
    """The tree of a sentence, and that of the sentence on which it was written, where there is one."""
    yield _in_brackets(row["parse_tree"])
    if "ref_parse_tree" in row:
        yield _in_brackets(row["ref_parse_tree"])


def _in_brackets(tree: Any) -> str:
    if isinstance(tree, str):
        return tree
    return f"({tree._label} {' '.join(map(_in_brackets, tree))})"


def main(arguments: Sequence[str]) -> None:
    """Writes the parses of CACHE to PARSES, one a line."""
    if len(arguments) != 2:
        raise UserError("Use: python -m vmr_jax.torch_import.tcmn CACHE.pkl PARSES.txt")
    cache, path = map(Path, arguments)
    path.write_text("".join(f"{brackets}\n" for brackets in dict.fromkeys(parses(cache))), encoding="utf-8")


if __name__ == "__main__":
    run_command(main)
