"""Divides a function by what its steps depend on: the video, the query, or both.

The function is traced once, calls inside it are written out, and every step (an equation of the jaxpr) gets the
set of inputs that reach it. That is exact, and needs no knowledge of what is traced. A loop is one step.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
from jax.extend import core

from vmr_jax.types import Batch, fields_of

# Fields of a batch; those of both (annotations) and of the row (masks, positions) are of no stage.
VIDEO, QUERY = (
    tuple(name for name, info in fields_of(Batch).items() if info.of == kind) for kind in ("video", "query")
)

_CALLS = {
    "jit", "pjit", "closed_call", "core_call", "custom_jvp_call", "custom_vjp_call", "checkpoint", "remat2",
}  # fmt: skip
# These only repeat or reshape numbers. They are done where the result is read: of a query that is spread over
# a map, the query goes from one stage to the next, not the map.
_LAYOUT = {"broadcast_in_dim", "reshape", "squeeze", "expand_dims"}


class Stages(NamedTuple):
    """Three functions that, one after the other, do what the whole does; they hand over lists of arrays."""

    video: Callable[[Any, Any], list]  # (variables, video) -> what `match` needs of the video
    query: Callable[[Any, Any], list]  # (variables, query) -> what `match` needs of the query
    match: Callable[[Any, list, list], Any]  # (variables, of the video, of the query) -> the result


def split(function: Callable[[Any, Any, Any], Any], variables: Any, video: Any, query: Any) -> Stages:
    """The stages of `function(variables, video, query)`, from trees of arrays or of their shapes.

    Steps that depend on neither video nor query are done in every stage that needs them.
    """
    leaves, inputs = jax.tree.flatten((variables, video, query))
    result = jax.tree.structure(jax.eval_shape(function, variables, video, query))
    closed = jax.make_jaxpr(lambda *given: jax.tree.leaves(function(*inputs.unflatten(given))))(*leaves)
    closed = jax.make_jaxpr(lambda *given: _written_out(closed, given))(*leaves)
    whole, places = closed.jaxpr, iter(closed.jaxpr.invars)
    common, of_video, of_query = ([next(places) for _ in jax.tree.leaves(t)] for t in (variables, video, query))
    reach = _reach(whole, of_video, of_query)

    def of(step):
        return reach[step.outvars[0]]

    steps, start = _backwards(whole, whole.outvars, lambda s: len(of(s)) != 1 or s.primitive.name in _LAYOUT)
    video_out, query_out = ([v for v in start if reach[v] == {name}] for name in ("video", "query"))

    def stage(start, steps, wanted):
        part = whole.replace(invars=common + start, outvars=wanted, eqns=steps)
        run = core.jaxpr_as_fun(core.ClosedJaxpr(part, closed.consts))
        return lambda *trees: run(*jax.tree.leaves(trees))

    video_steps, _ = _backwards(whole, video_out, lambda s: of(s) <= {"video"})
    query_steps, _ = _backwards(whole, query_out, lambda s: of(s) <= {"query"})
    match = stage(video_out + query_out, steps, whole.outvars)
    return Stages(
        video=stage(of_video, video_steps, video_out),
        query=stage(of_query, query_steps, query_out),
        match=lambda *trees: result.unflatten(match(*trees)),
    )


def _reach(whole: core.Jaxpr, of_video: list, of_query: list) -> dict[core.Var, frozenset[str]]:
    """Which of 'video' and 'query' every value depends on."""
    reach = dict.fromkeys([*whole.constvars, *whole.invars], frozenset())
    reach |= dict.fromkeys(of_video, frozenset({"video"})) | dict.fromkeys(of_query, frozenset({"query"}))
    for step in whole.eqns:
        found = frozenset().union(*(reach[v] for v in _values(step.invars)))
        reach |= dict.fromkeys(step.outvars, found)
    return reach


def _backwards(whole: core.Jaxpr, wanted: list, kept: Callable) -> tuple[list, list]:
    """The steps to `wanted`, as far back as they are kept, and the values that they start from."""
    steps, start = [], dict.fromkeys(_values(wanted))
    for step in reversed(whole.eqns):
        if kept(step) and any(v in start for v in step.outvars):
            steps.append(step)
            start = {v: None for v in start if v not in step.outvars} | dict.fromkeys(_values(step.invars))
    return steps[::-1], list(start)


def _values(atoms: list) -> list[core.Var]:
    return [v for v in atoms if not isinstance(v, core.Literal)]


def _written_out(closed: core.ClosedJaxpr, given: Sequence[Any]) -> list[Any]:
    """Evaluates a jaxpr, the inside of calls step by step."""
    jaxpr = closed.jaxpr
    values = dict(zip(jaxpr.constvars + jaxpr.invars, [*closed.consts, *given], strict=True))
    for step in jaxpr.eqns:
        if step.primitive.name in _CALLS:
            inner = step.params.get("jaxpr") or step.params["call_jaxpr"]
            inner = inner if isinstance(inner, core.ClosedJaxpr) else core.ClosedJaxpr(inner, ())
            found = _written_out(
                inner, [v.val if isinstance(v, core.Literal) else values[v] for v in step.invars]
            )
            values |= zip(step.outvars, found, strict=True)
        else:
            start = list(dict.fromkeys(_values(step.invars)))
            alone = jaxpr.replace(constvars=[], invars=start, outvars=step.outvars, eqns=[step])
            found = core.jaxpr_as_fun(core.ClosedJaxpr(alone, ()))(*(values[v] for v in start))
            values |= zip(step.outvars, found, strict=True)
    return [v.val if isinstance(v, core.Literal) else values[v] for v in jaxpr.outvars]
