"""MCN (Hendricks et al., ICCV 2017).

    python launch.py --config=configs/mcn.py
        the embedded dataset: about three minutes on two CPU cores.
    python launch.py --config=configs/mcn.py:didemo,fused --config.dataset.manual_dir=DIR
        the paper's setting, RGB and flow; DIR as in data/didemo/README.md, with both feature files.
    python launch.py --config=configs/mcn.py:didemo,vgg --config.dataset.manual_dir=DIR
        one network, on RGB; with flow in place of vgg on flow.

Paper, DiDeMo test, Rank@1 / Rank@5 / mIoU: 28.10 / 78.21 / 41.08; the official README's retrained RGB 23.12 /
73.36 / 35.49, flow 25.83 / 75.40 / 38.94, both 27.08 / 78.53 / 40.53; a run has these metrics. Re-run by
others, R@1 / R@5: Charades-STA IoU .5 17.46 / 48.22, .7 8.01 / 26.73; ActivityNet Captions IoU .3 39.35 /
68.12, .5 21.36 / 53.23, .7 6.43 / 29.70. Datasets without chunks are averaged to 16 of them, which is ours.
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
    config = common.base("mcn")
    config.model.streams = "video"
    config.input.num_clips = 16
    config.input.normalize = False
    config.batch_size = 120
    config.optimizer.name = "sgd"
    config.optimizer.learning_rate = 0.05
    config.optimizer.rules = ((".*/lstm/.*", 10.0), (".*/bias", 2.0), (".*", 1.0))
    config.optimizer.clip_norm = 10.0
    config.optimizer.schedule = "step"
    config.optimizer.decay_at = ("10000 steps", "20000 steps")
    config.train_for = "30000 steps"
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        if dataset == "storyboard":  # films has one stream
            config.model.streams = "fused"
        config.model.features = 64
        config.model.hidden = config.model.lstm_features = 128
        config.input.num_clips = 12
        config.batch_size = 32
        config.optimizer.name = "adam"
        config.optimizer.learning_rate = 3e-3
        config.optimizer.rules = ((".*", 1.0),)
        config.optimizer.schedule, config.optimizer.decay_at = "cosine", ()
        config.train_for = "12 epochs"
        return config
    named = tuple(option for option in options if option != "fused")
    datasets.manual_dataset(config, dataset, named, paper=("tall",))
    if dataset in _CHUNKED:
        config.input.num_clips = 6
        config.text.max_words = 50
        config.text.tokenizer = "alphanumeric"
    if "fused" in options:
        if "flow" in options:
            raise UserError("MCN fuses the RGB features with flow: leave the option flow out where fused is.")
        flow = datasets.FEATURES[dataset]["flow"]
        config.model.streams = "fused"
        config.dataset.streams = {"flow": (flow.path, flow.dim)}
    return config
