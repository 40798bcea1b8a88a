"""Parts that configs share: defaults, and how an argument is read.

A config is a locked ConfigDict. Its argument is `dataset[,option...]`: `charades_sta,clip`. Durations are text:
'300 steps' or '8 epochs'.
"""

import typing
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import ml_collections

from vmr_jax import models
from vmr_jax.errors import UserError, unknown
from vmr_jax.text import tokenize

COMPILATION_CACHE = "~/.cache/vmr_jax/compiled"
LIBRARY = "library"  # in the place of a dataset: jsonl, with the features of a library of videos
LIBRARY_ENCODERS = ("pixels", "clip", "clip_l14", "siglip")  # options of it; datasets.py has their widths


def base(model: str | type[models.GroundingModel]) -> ml_collections.ConfigDict:
    """Everything that does not depend on the dataset.

    Args:
      model: an architecture, a user's own class, or its place, 'my_project.models:Mine'.
    """
    config = ml_collections.ConfigDict()
    config.seed = 0
    config.init_from = ""  # folder of a run whose weights the training begins with; '': drawn by the seed
    config.dtype = "float32"  # of the computation; parameters and losses are always float32
    config.parallel = "pmap"  # or 'jit' (the path for several hosts)
    config.num_devices = 0  # 0: all
    config.batch_size = 32
    config.train_for = "30 epochs"
    config.evaluate_every = "1 epochs"
    config.checkpoint_every = "10 minutes"  # beside those after each evaluation; '0 minutes': those alone
    config.log_every = "10 steps"
    config.patience = 0  # evaluations without a better one before stopping; 0: never
    config.compilation_cache = COMPILATION_CACHE  # folder of programs, for the next start; '': none
    config.tensorboard = False  # events of losses and metrics in WORKDIR/tensorboard
    config.profile = False  # a trace of ten steps in WORKDIR/profile
    config.note = ""

    config.model = model_defaults(model)

    config.input = ml_collections.ConfigDict()
    config.input.num_clips = 256  # T
    # How the rows of a video become T clips: 'average', 'spread' (CMIN's) and 'interpolate' (VLG-Net's)
    # resample every video; 'pad' keeps the rows of shorter ones and averages those of longer ones, of which
    # 'cut' keeps the first T and 'pick' (LGI's) T at equal distances.
    config.input.resample = "average"
    config.input.normalize = True  # L2, each feature row
    config.input.queries_per_video = 1  # S > 1: every S training rows are queries of one video

    config.text = ml_collections.ConfigDict()
    config.text.vectors = ""  # GloVe .txt or .npz; '': the dataset's own; 'none': zeros
    config.text.dim = 300  # W
    config.text.tokenizer = "words"
    config.text.max_words = 20  # L
    config.text.max_verbs = 4  # V, of a semantic role tree; FVMR's
    config.text.max_nouns = 6  # N
    # Constituency trees of the sentences, (S (NP (DT a) ...) ...), in a file, or in several with commas between
    # them; '': the dataset's own; 'right_branching': those of a few rules.
    config.text.parses = ""
    config.text.max_nodes = 64  # Z, of such a tree
    config.text.characters = tokenize.CHARACTERS  # with ids from 2 on, for architectures that read them
    config.text.trainable = False
    config.text.vocabulary = ""  # JSON of words, such as an official checkpoint was trained with; '': of train
    config.text.features = ""  # token features by query id, file or folder, in place of word vectors
    config.text.feature_key = ""  # of the arrays in it
    config.text.translation_features = ""  # likewise of the queries in a second language
    config.text.sentence_features = ""  # one vector by query id, file or folder
    config.text.sentence_dim = 0
    config.text.encoder = ""  # 'distilbert' or 'clip'
    config.text.encoder_dir = ""  # folder with its vocabulary and weights
    config.text.max_subwords = 32  # S

    config.optimizer = ml_collections.ConfigDict()
    config.optimizer.name = "adam"  # 'adamw', 'bert_adam', 'tf_adam', 'sgd' (momentum b1)
    config.optimizer.learning_rate = 1e-4
    config.optimizer.b1 = 0.9
    config.optimizer.b2 = 0.999
    config.optimizer.weight_decay = 0.0
    config.optimizer.l2 = 0.0  # times the parameter, added to its gradient
    config.optimizer.no_decay = ""  # path regex of the parameters without either
    config.optimizer.eps = 1e-8
    config.optimizer.clip_norm = 0.0  # 0: off
    config.optimizer.clip_each = False  # True: the norm of each parameter, not of all
    config.optimizer.clip_value = 0.0  # of each number; 0: off
    config.optimizer.schedule = "constant"  # 'cosine', 'linear', 'step', 'inverse_sqrt'
    config.optimizer.warmup = "0 steps"
    config.optimizer.warmup_from = 0.0  # learning rate of the first step
    config.optimizer.decay_at = ()  # durations, for 'step'
    config.optimizer.decay_by = 0.1
    config.optimizer.rules = ((".*", 1.0),)  # (parameter path regex, learning-rate multiplier[, when])

    config.evaluation = ml_collections.ConfigDict()
    config.evaluation.protocol = "moment_retrieval"
    config.evaluation.batch_size = 32
    config.evaluation.splits = ()  # at the end; empty: all but train
    config.evaluation.select_split = "val"
    config.evaluation.select_by = "R@1,IoU=0.5"
    config.evaluation.top_n = (1, 5)
    config.evaluation.thresholds = (0.3, 0.5, 0.7)
    config.evaluation.strict = False  # True: IoU > m
    config.evaluation.nms_threshold = 0.5
    config.evaluation.nms_margin = 0.0  # > 0: NMS at m - nms_margin for each m instead
    config.evaluation.corpus_videos = 100  # of the protocol 'corpus': the best ones, which are searched
    config.evaluation.corpus_top_n = (1, 10, 100)
    config.evaluation.keep = 5
    config.evaluation.discounted = False  # dR@n,IoU=m too, at the end
    config.evaluation.sanity = ("blind", "shuffled")  # each one more pass over what is evaluated; (): none

    config.retrieval = ml_collections.ConfigDict()  # of --mode=index and --mode=search
    # Of the indexed rows: 'float32', 'bfloat16', 'int8'; 'int8+float32', 'int8+bfloat16' and 'bfloat16+float32'
    # keep finer rows on the disk, by which the best hundred are ranked again.
    config.retrieval.dtype = "float32"
    config.retrieval.recall = 1.0  # below 1 a TPU may be faster (jax.lax.approx_max_k)
    config.retrieval.nms_threshold = 0.5
    return config


def bert_adam(config: ml_collections.ConfigDict) -> None:
    """The optimizer of XML's line, and 100 epochs of 128 examples (official code: BertAdam and its options)."""
    config.batch_size = 128
    config.optimizer.name = "bert_adam"
    config.optimizer.eps = 1e-6
    config.optimizer.weight_decay = 0.01
    config.optimizer.no_decay = r".*bias|.*/(norm|output_norm)/scale"  # as there: not cross_norm
    config.optimizer.clip_norm = 1.0
    config.optimizer.clip_each = True
    config.optimizer.schedule = "linear"
    config.optimizer.warmup = "1 epochs"
    config.train_for = "100 epochs"


def model_defaults(name: str | type[models.GroundingModel]) -> ml_collections.ConfigDict:
    """`config.model`: the name of an architecture, and its hyper-parameters with the defaults of the class.

    Left out are fields that a config file cannot hold, such as a function. A field whose default is None takes
    values of the type that is annotated.

    Args:
      name: as in `vmr_jax.models.model_class`.
    """
    kind = models.model_class(name)
    hints = typing.get_type_hints(kind)
    config = ml_collections.ConfigDict({"name": models.model_name(kind)})
    fields: dict[str, Any] = models.model_fields(kind)
    for field, default in fields.items():
        if default is None:
            types = [hint for hint in typing.get_args(hints[field]) if hint is not type(None)]
            config[field] = ml_collections.config_dict.placeholder(types[0] if types else object)
        elif isinstance(default, bool | int | float | str | tuple):
            if isinstance(default, int) and hints[field] is float:
                default = float(default)
            config[field] = default
    return config


def parse_arg(
    arg: str | None, datasets: Mapping[str, tuple[str, ...]], lacking: Mapping[str, str] | None = None
) -> tuple[str, tuple[str, ...]]:
    """Splits 'dataset,option,...' and checks it against what a config knows.

    Args:
      arg: what stands after the colon of --config; None or '' is 'storyboard'. 'library[,ENCODER]' is 'jsonl'
        with the features of a library of videos.
      datasets: dataset name -> its options.
      lacking: name of a dataset that is left out -> why, for the message.

    Returns:
      The dataset and the options.

    Raises:
      UserError: for an unknown dataset or option, with the nearest name, and for a dataset that is left out.
    """
    dataset, *options = (arg or "storyboard").split(",")
    if dataset == LIBRARY and "jsonl" in datasets:  # your own data, with the features of a library of videos
        dataset, datasets = "jsonl", {"jsonl": (*datasets["jsonl"], *LIBRARY_ENCODERS, LIBRARY)}
        options.append(LIBRARY)
    why = (lacking or {}).get("jsonl" if dataset == LIBRARY else dataset)
    if why:
        raise UserError(f'This config has no dataset "{dataset}": {why}. Known: {", ".join(datasets)}.')
    if dataset not in datasets:
        raise unknown("This config has no dataset", dataset, datasets)
    for option in options:
        if option not in datasets[dataset]:
            raise unknown(f"For {dataset} this config has no option", option, datasets[dataset])
    return dataset, tuple(options)


def chosen(options: Sequence[str], known: Collection[str], what: str) -> str:
    """The one option that is among the `known`, '' for none; UserError for several: name one `what`."""
    named = [option for option in options if option in known]
    if len(named) > 1:
        raise UserError(f"Name one {what}, not {len(named)}: {', '.join(named)}.")
    return named[0] if named else ""
