"""Operations are counted as they are done, and the exponent is the slope of their logarithms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags

from vmr_jax.errors import UserError


@pytest.fixture(scope="module")
def growth(program):
    """The program."""
    return program("growth")


def test_operations_of_products_loops_and_branches(growth):
    def counted(function, *shapes):
        return growth.operations(jax.make_jaxpr(function)(*map(jnp.zeros, shapes)).jaxpr)

    # [2,3] times [3,3]: 6 numbers of 3 pairs.
    assert counted(jax.lax.dot, (2, 3), (3, 3)) == 36

    def loop(a, b):
        return jax.lax.scan(lambda x, _: (jax.lax.dot(x, b), None), a, None, length=5)[0]

    assert counted(loop, (2, 3), (3, 3)) == 5 * 36

    def branches(a, b):
        return jax.lax.switch(0, [jax.lax.dot, lambda a, b: jax.lax.dot(jax.lax.dot(a, b), b)], a, b)

    assert counted(branches, (2, 3), (3, 3)) == pytest.approx(72, abs=4)  # the dearer, and its index

    def convolution(x, kernel):  # 8 places of 5 features, each of 3 steps of 2 features
        return jax.lax.conv_general_dilated(x, kernel, (1,), "SAME", dimension_numbers=("NWC", "WIO", "NWC"))

    assert counted(convolution, (1, 8, 2), (3, 2, 5)) == 2 * 40 * 6


def test_the_exponent_is_a_slope(growth):
    assert growth.exponent((1, 2, 4), (3, 12, 48)) == pytest.approx(2)
    # Doubles, and at last is four times.
    points = {4 * 2**i: {"operations": x} for i, x in enumerate((3.0, 6.0, 12.0, 24.0, 96.0))}
    said = growth.said("vslnet", "batch", points)
    assert "mathematics 1; operations exponent 1.2" in said and said.endswith("last 2.00  FASTER")


def test_seconds_have_their_own_end_and_slack(growth):
    """A step that grows by 2.2 when its batch doubles, an exponent of 1.14, is within a fifth of linear."""
    points = {4: {"operations": 1.0, "cpu_seconds": 1.0}, 8: {"operations": 2.0, "cpu_seconds": 2.2}}
    points[16] = {"operations": 4.0}
    assert growth.said("vslnet", "batch", points) == (
        "vslnet       batch  4 to 16: mathematics 1; operations exponent 1.00, last 1.00; "
        "cpu seconds up to 8 exponent 1.14, last 1.14"
    )
    points[8]["cpu_seconds"] = 2.4  # 1.26
    assert growth.said("vslnet", "batch", points).endswith("FASTER")


def test_what_a_step_is_expected_to_take(growth):
    assert growth.expected_seconds(4, {}) == 0
    assert growth.expected_seconds(8, {4: {"cpu_seconds": 1.5}}) == pytest.approx(
        3
    )  # linear, as nothing is known
    # Four times as long for twice the length, and so again.
    assert growth.expected_seconds(16, {4: {"cpu_seconds": 1.0}, 8: {"cpu_seconds": 4.0}}) == pytest.approx(16)
    assert growth.expected_seconds(16, {4: {"cpu_seconds": 1.0}, 8: {"operations": 4.0}}) == np.inf


def test_points_that_stand_there_are_not_measured_again(growth, monkeypatch, tmp_path, capsys):
    asked = []

    def measured(name, axis, length, points):
        asked.append((length, [*points]))
        return {"operations": float(length), "cpu_seconds": 2.0 * length}

    monkeypatch.setattr(growth, "measured", measured)
    monkeypatch.setattr(growth, "command_and_commit", lambda given: {"command": "c", "commit": "a"})
    holder = flags.FlagValues()
    growth.define_flags(holder)
    picture = tmp_path / "growth.svg"
    holder(
        [
            "growth.py",
            "--models=vslnet",
            "--axes=batch",
            f"--output={tmp_path / 'a.csv'}",
            f"--picture={picture}",
        ]
    )
    monkeypatch.setattr(growth, "FLAGS", holder)
    growth.main([])
    growth.main([])
    assert asked == [(4, []), (16, [4]), (64, [4, 16])]
    first, second = capsys.readouterr().out.splitlines()
    assert first == second and first.endswith("seconds exponent 1.00, last 1.00")
    drawn = picture.read_text(encoding="utf-8")
    # A straight line in either panel that was measured, over all of its width. Operations are 4, 16 and 64: the
    # logarithms are 0.602, 1.204 and 1.806 of the two decades from 220 px up to 30.
    assert drawn.count("<polyline") == 2 and drawn.count("not measured") == 1
    assert 'points="58.0,162.8 183.0,105.6 308.0,48.4"' in drawn
    assert [name for name in growth.MATHEMATICS if f">{name}<" in drawn] == ["vslnet"]
    # Seconds are 8, 32 and 128.
    assert all(f">{power}<" in drawn for power in ("1", "10", "100", "1 s", "10 s", "100 s", "1 ks"))


def test_flags_that_fail_only_at_the_end_are_refused_at_the_beginning(growth, monkeypatch, tmp_path):
    monkeypatch.setattr(growth, "measured", lambda *_: pytest.fail("a step was measured"))
    holder = flags.FlagValues()
    growth.define_flags(holder)
    with pytest.raises(flags.IllegalFlagValueError, match="--steps=0"):  # there is no least of no steps
        holder(["growth.py", "--steps=0"])
    holder(["growth.py", f"--output={tmp_path / 'a.csv'}", f"--picture={tmp_path / 'absent' / 'a.svg'}"])
    monkeypatch.setattr(growth, "FLAGS", holder)
    with pytest.raises(UserError, match="a.svg cannot be written: there is no folder"):
        growth.main([])
