"""How sure a number is: bootstrap intervals and paired tests, both over videos.

Queries of one video share its content and are not independent, so the video with all its queries is what is
resampled (cluster bootstrap) and what changes sides (sign flips). All is a pure function of the arguments.
"""

from collections.abc import Sequence

import numpy as np

RESAMPLES = 1000  # of the bootstrap
FLIPS = 10_000  # of the sign-flip test, where it is not exact
COVERAGE = 0.95
_EXACT = 13  # videos with 2**13 = 8192 sign patterns, fewer than FLIPS
_TIE = 1e-9  # sums of IoUs that are equal on paper differ by rounding


def bootstrap_interval(
    values: np.ndarray, owner: np.ndarray, seed: int, weights: np.ndarray | None = None
) -> np.ndarray:
    """Percentile interval of the mean over queries, videos resampled with replacement.

    Args:
      values: [Q,M] what each of M metrics is the mean of.
      owner: [Q] the video of each query, any labels.
      seed: of the draws; the same seed gives the same videos for any values.
      weights: [Q] of the queries in the mean; None where all count alike.

    Returns:
      [2,M] low and high ends, `COVERAGE` between them.
    """
    sums, counts = _by_video(values, owner)
    videos = len(counts)
    if weights is not None:
        both, _ = _by_video(np.column_stack([values * weights[:, None], weights]), owner)
        sums, counts = both[:, :-1], both[:, -1]
    times = np.stack([np.bincount(d, minlength=videos) for d in draws(videos, seed)]).astype(np.float64)
    means = (times @ sums) / (times @ counts)[:, None]
    tail = (1 - COVERAGE) / 2
    return np.quantile(means, (tail, 1 - tail), axis=0)


def interval(
    values: np.ndarray,
    owner: np.ndarray,
    seed: int,
    weights: np.ndarray | None = None,
    bounds: tuple[float, float] = (0.0, 1.0),
) -> np.ndarray:
    """`bootstrap_interval`, or the exact one where no query has a hit, or all have.

    Resamples of equal values are equal, so that the bootstrap would say of 18 queries without a hit that 0.00
    is certain. Of n videos of which none differs, a share of up to 1 - 0.025^(1/n) may differ (Clopper and
    Pearson 1934; its one-sided form is the 'rule of three' of Hanley and Lippman-Hand 1983), each at most to
    the end of its range. n is the number of videos; with weights at most their effective number,
    (sum w)^2 / sum w^2 (Kish 1965).

    Args:
      values: [Q,M] what each of M metrics is the mean of.
      owner: [Q] the video of each query, any labels.
      seed: of the draws.
      weights: [Q] of the queries in the mean; None where all count alike.
      bounds: least and largest value that there can be: (-1, 1) of the differences of two systems.

    Returns:
      [2,M] low and high ends.
    """
    ends = bootstrap_interval(values, owner, seed, weights)
    values = np.asarray(values, np.float64)
    equal = (values == values[:1]).all(axis=0) & np.isin(values[0], (0.0, *bounds))
    number: float = len(np.unique(owner))
    if weights is not None:
        number = min(number, weights.sum() ** 2 / np.square(weights).sum())
    share = 1.0 - ((1.0 - COVERAGE) / 2) ** (1.0 / number)
    least, largest = bounds
    wide = np.stack([values[0] - share * (values[0] - least), values[0] + share * (largest - values[0])])
    return np.where(equal, wide, ends)


def draws(videos: int, seed: int) -> np.ndarray:
    """[RESAMPLES,videos] the videos of every resample."""
    return np.random.default_rng(seed).integers(videos, size=(RESAMPLES, videos))


def sign_flip_test(differences: np.ndarray, owner: np.ndarray, seed: int) -> np.ndarray:
    """Two-sided p-values that two systems are alike, by exchanging their answers on whole videos.

    Were they alike, the difference summed over a video would be as likely with the other sign. All sign
    patterns are counted where at most 13 videos differ; else `FLIPS` of them are drawn, and p is (1 + those
    at least as extreme) / (1 + FLIPS), which is never zero.

    Args:
      differences: [Q,M] of the two systems on the same query.
      owner: [Q] the video of each query.
      seed: of the drawn patterns.

    Returns:
      [M] p-values.
    """
    sums, _ = _by_video(differences, owner)
    sums = sums[(sums != 0).any(axis=1)]
    videos = len(sums)
    observed = np.abs(sums.sum(axis=0)) - _TIE
    if videos <= _EXACT:
        patterns = (np.arange(2**videos)[:, None] >> np.arange(videos)) & 1
        return (np.abs((1.0 - 2.0 * patterns) @ sums) >= observed).mean(axis=0)
    patterns = np.random.default_rng(seed).integers(2, size=(FLIPS, videos), dtype=np.int8)
    extreme = (np.abs((1 - 2 * patterns) @ sums) >= observed).sum(axis=0)
    return (1 + extreme) / (1 + FLIPS)


def holm(p_values: Sequence[float]) -> np.ndarray:
    """p-values of one family after Holm's step-down correction (Holm 1979), in the order given."""
    given = np.asarray(p_values, np.float64)
    order = np.argsort(given, kind="stable")
    scaled = given[order] * np.arange(len(given), 0, -1)
    adjusted = np.empty_like(given)
    adjusted[order] = np.minimum(np.maximum.accumulate(scaled), 1.0)
    return adjusted


def _by_video(values: np.ndarray, owner: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Sums [V,M] and numbers of queries [V], of the videos that have a query."""
    _, video = np.unique(owner, return_inverse=True)
    values = np.asarray(values, np.float64)
    sums = np.zeros((video.max(initial=-1) + 1, values.shape[1]))
    np.add.at(sums, video, values)
    return sums, np.bincount(video).astype(np.float64)
