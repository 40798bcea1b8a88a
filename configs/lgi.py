"""LGI (Mun, Cho, Han, CVPR 2020).

    python launch.py --config=configs/lgi.py
        the embedded dataset, in five minutes on two CPU cores.
    python launch.py --config=configs/lgi.py:charades_sta,i3d --config.dataset.manual_dir=DIR
        the paper's setting; DIR as in data/charades_sta/README.md. On ActivityNet Captions the convention
        is lgi unless another one is named; it tests on both validation files, as the paper does.

Options no_sqan (one phrase, the sentence; one non-local block of one head, as in the official ablation), no_dqa
and no_tag (without that loss) are ablations of the paper.

LGI predicts one moment per query, so R@5 equals R@1. Paper, R@1 (%) at IoU .5/.7 and mIoU: Charades-STA 59.46 /
35.48, 51.38; ActivityNet Captions 41.51 / 23.07, 41.13 (.3: 58.52). The official repository reports a second
run: 59.17 / 35.32, 50.93 (.3: 72.18); 41.65 / 24.10, 41.48 (.3: 58.48). On novel words (VDI, CVPR 2023, table
1): Charades-CG 26.48 / 12.47, 27.62; ActivityNet-CG 23.10 / 9.03, 26.95. The official code selects on the test
split; here it is the validation split.

Word vectors are learned from random ones, so none are read; --config.text.trainable=False with
--config.text.vectors=FILE takes those of a file as they are, as is done on the embedded dataset. What differs
otherwise: training picks the rows of long videos from no random offset (vmr_jax/models/lgi.py); the last
batch of an epoch is filled up, not dropped; annotations are cut to their video. The settings of datasets that
are not in the paper are ours, those of the nearer of its two.

An official checkpoint holds word vectors by number; the words are in train_info_*.json, which the official
preprocessing writes. Both become a file of word vectors, then a run:

    python -m vmr_jax.torch_import.lgi model.pkl train_info.json words.npz
    python launch.py --mode=import --config=configs/lgi.py:charades_sta,i3d --checkpoint=model.pkl --workdir=DIR
        --config.dataset.manual_dir=DIR --config.text.trainable=False --config.text.vectors=words.npz
"""

from vmr_jax.configs import common, datasets

_ABLATIONS = ("no_sqan", "no_dqa", "no_tag")
DATASETS = {dataset: (*options, *_ABLATIONS) for dataset, options in datasets.DATASETS.items()}


def get_config(arg=None):
    """Returns the config for `dataset[,option...]`; see DATASETS."""
    dataset, options = common.parse_arg(arg, DATASETS)
    config = common.base("lgi")
    config.input.num_clips = 128
    # Every row of a small test bed counts.
    config.input.resample = "pad" if dataset in datasets.EMBEDDED else "pick"
    config.input.normalize = False
    config.text.trainable = True
    config.batch_size = 100
    config.optimizer.learning_rate = 4e-4
    _of_dataset(config, "charades" if dataset.startswith("charades") else "activitynet")
    if dataset in datasets.EMBEDDED:
        datasets.embedded(config, dataset)
        config.model.features = 64
        config.model.attention_features = 32
        config.model.num_phrases = 3
        config.model.local_kernel = 5
        config.model.dropout = 0.2
        config.text.trainable = False  # synonyms are near in the dataset's vectors
        config.batch_size = 16
        config.optimizer.learning_rate = 1e-3
        config.optimizer.schedule = "cosine"
        config.train_for = "28 epochs"
    else:
        datasets.manual_dataset(config, dataset, options, paper=("lgi",))
        config.text.vectors = "none"
        config.text.tokenizer = "no_punctuation"
        if dataset.startswith("activitynet"):
            config.text.max_words = 25
    _ablate(config, options)
    return config


def _of_dataset(config, nearest):
    """The official settings of Charades-STA or ActivityNet Captions."""
    charades = nearest == "charades"
    config.model.num_phrases = 3 if charades else 5
    config.model.self_overlap = 0.3 if charades else 0.2
    config.model.global_layers = 2 if charades else 1
    config.model.heads = 4 if charades else 1
    config.model.activation = "relu" if charades else "sigmoid"
    config.train_for = "500 epochs" if charades else "300 epochs"


def _ablate(config, options):
    if "no_sqan" in options:
        config.model.num_phrases = config.model.global_layers = config.model.heads = 1
    if "no_dqa" in options:
        config.model.diversity_weight = 0.0
    if "no_tag" in options:
        config.model.guidance_weight = 0.0
