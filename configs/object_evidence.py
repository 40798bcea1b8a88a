"""MML, object evidence (Vidanapathirana et al., 2020).

    python launch.py --config=configs/object_evidence.py
        the embedded dataset, on two CPU cores.
    python launch.py --config=configs/object_evidence.py:charades_sta --config.dataset.manual_dir=DIR
        the setting of the official code; DIR as in data/charades_sta/README.md, which names the captions and
        scores; with GloVe, and a vector of BERT for each query in bert_sentences.h5. Needs an accelerator.

The official README, Charades-STA C3D, R@1 / R@5 (%) at IoU .5: 31.9 / 65.2, on the windows of a proposal
network with its scores, the best of 15 epochs on the test split. Here the windows are CTRL's, and the
validation split chooses. Without the authors' files set config.model.use_objects=False, and use_captions=False.
"""

from vmr_jax.configs import common, ctrl, datasets

DATASETS = {name: datasets.DATASETS[name] for name in ("storyboard", "charades_sta")}
LACKING = dict.fromkeys(
    datasets.DATASETS.keys() - DATASETS,
    "MML reads captions of the frames and scores of what is in them, which nobody published for the dataset",
)


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS, LACKING)
    config = common.base("object_evidence")
    config.input.normalize = False
    config.batch_size = 56
    config.optimizer.learning_rate = 1e-3
    config.train_for = "60 epochs"  # of sentences: 15 of the official pairs, of which a sentence has four
    config.evaluation.nms_margin = 0.05
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        ctrl.set_windows(config, ctrl.EMBEDDED_WINDOWS)
        config.model.score_clips = 1.0
        config.model.features = config.model.hidden = 128
        config.model.action_features = 64
        config.optimizer.learning_rate = 5e-3
        config.train_for = "15 epochs"
        return config
    if not options:
        options = ("c3d",)
    datasets.manual_dataset(config, dataset, options)
    config.dataset.streams.captions = ("captions", 2048)
    config.dataset.streams.object_scores = ("object_scores", 150)
    config.dataset.streams.activity_scores = ("activity_scores", 400)
    config.text.sentence_features, config.text.sentence_dim = "bert_sentences.h5", 768
    config.input.num_clips, windows = ctrl.WINDOWS[dataset]
    ctrl.set_windows(config, windows)
    return config
