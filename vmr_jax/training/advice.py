"""Warnings before training that will not fail, and will not lead far either."""

from typing import Any

_FEW_STEPS = 300
_LARGE_BATCH = 4096  # rows; the largest of the field's papers has 1,024


def advice(config: Any, queries: int, total_steps: int) -> list[str]:
    """Sentences on the length of a run and the size of its batches, each with the settings that mend it.

    Args:
      config: the resolved config.
      queries: number of training queries.
      total_steps: of the run.
    """
    found = []
    size = config.batch_size
    if total_steps < _FEW_STEPS:
        smaller = "a smaller config.batch_size, or " if size > 1 else ""
        found.append(
            f"Training takes {total_steps:,} steps in all ({config.train_for} of {queries:,} queries, batches "
            f"of {size}); under {_FEW_STEPS} most architectures have hardly begun to learn. Set {smaller}a "
            "longer config.train_for, such as '2000 steps'."
        )
    if size > queries:
        found.append(
            f"config.batch_size is {size:,} and the split train has {queries:,} queries: every batch is filled "
            f"up with rows that count for nothing. Set it to {queries:,} or less."
        )
    elif size > _LARGE_BATCH:
        found.append(
            f"config.batch_size is {size:,}; the field trains with 4 to 1,024. Larger ones need much memory "
            "and take few steps. Set a smaller one unless that is meant."
        )
    return found
