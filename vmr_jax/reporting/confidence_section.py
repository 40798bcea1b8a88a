"""The section 'Confidence' of a report: how often a moment of a score is right."""

from collections.abc import Mapping

from vmr_jax.reporting.markup import Markup, tag
from vmr_jax.reporting.run_files import Run
from vmr_jax.reporting.summary import headline_split


def confidence(run: Run) -> list[Markup]:
    """A table of the moments by confidence, split by split; nothing where the run has none."""
    found = run.results.get("confidence")
    if not found:
        return []
    fitted, headline = found["split"], headline_split(run)
    splits: Mapping = found["splits"]
    first = headline if headline in splits else next(iter(splits))
    rest = [
        tag("details", tag("summary", name), _table(name, split))
        for name, split in splits.items()
        if name != first
    ]
    formula = f"1 / (1 + exp(-({found['slope']:.4g} score {found['intercept']:+.4g})))"
    return [
        tag(
            "p",
            f"The probability that a moment has an IoU of 0.5 or more with the annotated one is {formula}, "
            f"fitted to {found['queries']:,} queries of {fitted}. Below, moments of the given video that came "
            "first, in percent: how sure the formula was of them, and how many were right. On "
            f"{fitted} each half is judged by a fit to the other.",
            class_="caption",
        ),
        _table(first, splits[first]),
        *rest,
    ]


def _table(name: str, split: Mapping) -> Markup:
    head = tag("tr", *(tag("th", text, scope="col") for text in ("confidence", "right", "moments")))
    rows = [
        tag("tr", tag("td", f"{100 * said:.1f}"), tag("td", f"{100 * was:.1f}"), tag("td", f"{hits:,}"))
        for hits, said, was in split["bins"]
    ]
    text = f"{name}: {100 * split['error']:.1f} points off on average"
    table = tag("table", tag("caption", text), tag("thead", head), tag("tbody", *rows), class_="metrics")
    return tag("div", table, class_="scroll", tabindex="0", role="region", aria_label=f"Confidence on {name}")
