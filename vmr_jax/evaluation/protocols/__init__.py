"""Protocols: what is evaluated, independent of the architecture; `config.evaluation.protocol` names one.

One system serves training, evaluation and `--mode=score`. A protocol refuses early what it cannot evaluate
(`prepare`), runs inside jit on the devices (`score_batch`), takes moments from a file of any program
(`of_file`), and makes per-query values of both (`counted`), whose means are the metrics:

- 'moment_retrieval': moments in a given video;
- 'highlights': several moments of a given video, and how salient its clips are (QVHighlights);
- 'consensus': the ranks of the 21 segments of a video for several annotators (DiDeMo, TEMPO);
- 'corpus': the moment and its video, among all videos of the split (TVR).
"""

from typing import Any

from vmr_jax.errors import UserError, unknown
from vmr_jax.evaluation import metrics
from vmr_jax.evaluation.protocols.base import (
    Collected,
    Predictions,
    Protocol,
    annotated_windows,
    means,
    milliseconds,
    nearest_iou,
)
from vmr_jax.evaluation.protocols.consensus import Consensus
from vmr_jax.evaluation.protocols.corpus import Corpus
from vmr_jax.evaluation.protocols.highlights import SALIENCY, Highlights
from vmr_jax.evaluation.protocols.moment_retrieval import MomentRetrieval

__all__ = [
    "DEFAULT", "OFFICIAL", "PROTOCOLS", "SALIENCY", "Collected", "Consensus", "Corpus", "Highlights",
    "MomentRetrieval", "Predictions", "Protocol", "annotated_windows", "check_selection", "make_protocol",
    "means", "milliseconds", "nearest_iou",
]  # fmt: skip

PROTOCOLS: dict[str, type[Protocol]] = {
    protocol.name: protocol for protocol in (MomentRetrieval, Highlights, Consensus, Corpus)
}
DEFAULT = MomentRetrieval.name
# dataset -> the protocol of its official evaluator; of the others it is `DEFAULT`.
OFFICIAL = {
    "qvhighlights": Highlights.name,
    "didemo": Consensus.name,
    "tempo": Consensus.name,
    "tvr": Corpus.name,
}


def make_protocol(options: Any) -> Protocol:
    """Builds the protocol that `config.evaluation.protocol` names; UserError for an unknown one."""
    name = options.protocol
    if name not in PROTOCOLS:
        raise unknown("config.evaluation.protocol is", name, PROTOCOLS, meant=OFFICIAL.get(name, ""))
    return PROTOCOLS[name](options)


def check_selection(options: Any, protocol: Protocol) -> str:
    """The metric that `config.evaluation.select_by` names, as the protocol calls it.

    What the field writes will do (`metrics.canonical_name`): 'R1@0.5', 'Rank1@0.5', 'MR-full-mAP'.

    Raises:
      UserError: where it is none of the protocol's metrics.
    """
    known, asked = protocol.metric_names(), options.select_by
    if asked in known:
        return asked
    try:
        meant = metrics.canonical_name(asked)
    except UserError:
        meant = ""
    if meant not in known:
        raise unknown(f"With the protocol {protocol.name} config.evaluation.select_by is", asked, known)
    return meant
