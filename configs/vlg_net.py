"""VLG-Net (Soldan et al., ICCV Workshops 2021).

    python launch.py --config=configs/vlg_net.py
        the embedded dataset: about seven minutes on two CPU cores.
    python launch.py --config=configs/vlg_net.py:activitynet_captions,c3d --config.dataset.manual_dir=DIR
        the paper's setting, for an accelerator; DIR as in data/activitynet_captions/README.md.
    python launch.py --config=configs/vlg_net.py:jsonl --config.dataset.manual_dir=DIR ...
        your own data; see data/jsonl/README.md. The other datasets of DATASETS work in the same way.

Paper, R@1 / R@5 (%): ActivityNet Captions C3D, IoU .5 46.32 / 77.15, .7 29.82 / 63.33; TACoS C3D, IoU .1
57.21 / 81.80, .3 45.46 / 70.38, .5 34.19 / 56.56. On DiDeMo the authors read VGG features of 150 frames; the
field's have six chunks, whose map is ours, as are the maps of the datasets that the paper does not have.
Officially words come from Stanford CoreNLP, and a word without a vector has that of its lemma or of its
corrected spelling.
"""

from vmr_jax.configs import common, datasets

DATASETS = datasets.DATASETS


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("vlg_net")
    config.input.resample = "interpolate"
    config.train_for = "50 epochs"
    config.optimizer.learning_rate = 2e-4
    config.optimizer.schedule = "step"
    config.optimizer.decay_at = tuple(f"{epoch} epochs" for epoch in range(10, 50, 10))
    config.optimizer.decay_by = 0.5
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        return _embedded(config)
    datasets.manual_dataset(config, dataset, options)
    if dataset == "tacos":
        return _tacos(config)
    datasets.map_size(config)
    config.model.window = config.input.num_clips // config.model.num_clips
    if dataset in ("didemo", "tempo"):
        _didemo(config)
    return config


def _tacos(config):
    config.model.num_clips = config.input.num_clips
    config.model.scale_layers = (6, 8, 8, 8)
    config.model.window = 1
    config.model.places = False
    config.model.context_layers, config.model.context_neighbours = 4, 3
    _narrow(config)
    config.model.lstm_layers, config.model.syntax_layers = 5, 2
    config.model.iou_low, config.model.iou_high = 0.5, 0.7
    config.model.video_dropout = config.model.query_dropout = 0.1
    config.optimizer.learning_rate = 1e-3
    config.optimizer.decay_at = ("20 epochs", "40 epochs")
    config.optimizer.decay_by = 0.1
    config.evaluation.nms_threshold = 0.3
    return config


def _didemo(config):
    config.model.places = False
    config.model.features = 256
    config.model.context_neighbours = 3  # of six clips
    _narrow(config)
    config.model.lstm_layers = config.model.syntax_layers = 1
    config.model.score_layers = 2
    config.model.iou_low, config.model.iou_high = 0.69, 1.0
    config.model.query_dropout = config.model.graph_dropout = 0.1
    config.batch_size = 64
    config.train_for = "40 epochs"
    config.optimizer.learning_rate = 5e-4
    config.optimizer.decay_at = ("10 epochs", "20 epochs", "30 epochs")
    config.optimizer.decay_by = 0.1


def _narrow(config):
    """The graphs that are matched, as on TACoS and DiDeMo."""
    config.model.match_neighbours = 3
    config.model.match_groups, config.model.match_width = 32, 4


def _embedded(config):
    config.model.num_clips = 32
    config.model.scale_layers = (16, 8)
    config.model.window = 1
    config.model.places = False  # of 64 features of length 1 in all they would leave little
    config.model.features = config.model.query_features = config.model.score_features = 64
    config.model.context_neighbours = 5
    config.model.context_groups = 8
    config.model.match_neighbours, config.model.match_width = 5, 8
    config.model.lstm_layers = config.model.syntax_layers = 1
    config.model.iou_low, config.model.iou_high = 0.5, 1.0
    config.input.normalize = False  # rows of length 1 would start the graphs near zero
    # Every layer between words and logits shrinks the words at first, until another query moves a logit by
    # 1/400 of the spread of all. With small steps only the places of moments are learnt for long.
    config.batch_size = 16
    config.optimizer.learning_rate = 3e-3
    config.optimizer.schedule = "cosine"
    config.optimizer.warmup = "1 epochs"
    config.optimizer.decay_at = ()
    config.evaluate_every = "2 epochs"
    config.train_for = "30 epochs"
    return config
