"""TCMN (Zhang et al., ACM MM 2019).

    python launch.py --config=configs/tcmn.py
        the embedded dataset: about five minutes on two CPU cores.
    python launch.py --config=configs/tcmn.py:tempo,hl,fused --config.dataset.manual_dir=DIR \
            --config.text.parses=PARSES.txt
        the paper's setting, an ensemble of four networks on RGB and flow; DIR as in data/tempo/README.md, with
        both feature files. tl for the other version, didemo,fused for DiDeMo; without fused one network.

It needs constituency trees of the sentences: config.text.parses is a file of them in brackets (docs/data.md),
or 'right_branching' for trees that are made without a parser.

Paper, mean over the types of sentences, Rank@1 / Rank@5 / mIoU: TEMPO-HL 24.29 / 76.98 / 47.24, TEMPO-TL 32.85
/ 78.73 / 46.01; a run has these metrics. The weights of the ensemble are equal here; the authors searched for
them on the test split. Datasets without chunks are averaged to 12 of them, which is ours.
"""

from vmr_jax.configs import common, datasets
from vmr_jax.errors import UserError

_CHUNKED = ("didemo", "tempo")  # six chunks a video, and flow beside RGB
DATASETS = {
    dataset: (*options, *(("fused",) if dataset in _CHUNKED else ()))
    for dataset, options in datasets.DATASETS.items()
}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("tcmn")
    if "fused" not in options:
        config.model.networks = ("video_video",)
    config.model.moments = "span"
    config.model.num_clips = config.input.num_clips = 12
    config.input.normalize = False
    config.batch_size = 16
    config.optimizer.learning_rate = 1e-3
    config.optimizer.l2 = 1e-8
    config.optimizer.clip_norm = 10.0
    config.train_for = "20 epochs"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.input.num_clips = config.model.num_clips
        config.model.tree_features, config.model.visual_features = 128, 128
        config.model.attention_features, config.model.features = 64, 32
        config.model.max_length = 5  # of 12; 99% of the moments have such a segment of IoU=0.5
        config.text.max_nodes = 40  # the largest tree has 37
        config.optimizer.learning_rate = 2e-3
        config.optimizer.schedule = "cosine"
        return config
    named = tuple(option for option in options if option != "fused")
    datasets.manual_dataset(config, dataset, named, paper=("hl",))
    config.text.tokenizer = "treebank"
    config.text.parses = "parses.txt"
    if dataset in _CHUNKED:
        config.input.resample = "pad"
        config.model.num_clips = config.input.num_clips = 6
        config.model.moments = "windows" if dataset == "didemo" else "span"
        config.text.max_words, config.text.max_nodes = 50, 128
    if "fused" in options:
        if "flow" in options:
            raise UserError("TCMN joins RGB with flow: leave the option flow out where fused is.")
        flow = datasets.FEATURES[dataset]["flow"]
        config.dataset.streams = {"flow": (flow.path, flow.dim)}
    return config
