"""The TFDS builder of Charades-STA; imported only when records are prepared or read."""

import dataclasses
import functools
from collections.abc import Iterator, Sequence
from pathlib import Path

import tensorflow_datasets as tfds

from data import schema
from data.charades_sta import annotations
from vmr_jax.text.parse import parse, parser_name


@dataclasses.dataclass(eq=False)
class CharadesStaConfig(tfds.core.BuilderConfig):
    """The options that decide what the records hold; see `annotations.read`."""

    split_file: str = ""
    val_fraction: float = 0.0
    extra_queries: str = ""


class CharadesSta(tfds.core.GeneratorBasedBuilder):
    """Charades-STA (Gao et al., TALL, ICCV 2017): one record per video, features apart.

    `info.metadata` holds what `annotations.Annotations` counts, and the parser of the role trees.
    """

    VERSION = tfds.core.Version("1.0.0")
    RELEASE_NOTES = {"1.0.0": "First records."}
    MANUAL_DOWNLOAD_INSTRUCTIONS = "See data/charades_sta/README.md."
    url_infos = None  # nothing is downloaded, so there is no file of checksums to look for

    def _info(self) -> tfds.core.DatasetInfo:
        return tfds.core.DatasetInfo(
            builder=self,
            description="Sentences and moments in the videos of Charades: see data/charades_sta/README.md.",
            features=schema.feature_spec({}),
            metadata=tfds.core.MetadataDict(),
            disable_shuffling=True,
        )

    def _split_generators(self, dl_manager: tfds.download.DownloadManager) -> dict[str, Iterator]:
        config = self.builder_config
        found = annotations.read(
            Path(dl_manager.manual_dir), config.split_file, config.val_fraction, config.extra_queries
        )
        self.info.metadata.update(
            dropped=found.dropped, clipped=found.clipped, extra=found.extra, parser=parser_name()
        )
        return {name: self._generate_examples(videos) for name, videos in found.splits.items()}

    def _generate_examples(self, videos: Sequence[annotations.Video]) -> Iterator[tuple[int, dict]]:
        for i, video in enumerate(videos):
            queries = [_query(sentence) for sentence in video.queries]
            yield i, schema.record(video.id, video.duration, queries, f"{video.source}, video {video.id}")


def _query(sentence: annotations.Sentence) -> schema.Query:
    roles = _parsed(sentence.text)
    return schema.Query(
        qid=sentence.qid,
        text=sentence.text,
        span=sentence.span,
        verbs=roles.verbs,
        nouns=roles.nouns,
        edges=roles.edges,
        static=roles.chunks,
    )


_parsed = functools.lru_cache(maxsize=None)(parse)  # 16,128 official rows are 9,959 different sentences
