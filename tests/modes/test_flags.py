"""The flags of the command: none is ignored, and what is wrong with one is said in one line."""

import pytest
from absl.testing import flagsaver

from vmr_jax.errors import UserError
from vmr_jax.modes.launch import MODES, OF_LIBRARY, help_text, main, parse


def refusal(*arguments):
    """The message with which a command line is refused, before anything is read or trained."""
    with flagsaver.flagsaver(), pytest.raises(UserError) as refused:
        main(parse(["vmr_jax", *arguments]))
    assert "\n" not in str(refused.value)
    return str(refused.value)


@pytest.mark.parametrize(
    "arguments,message",
    [
        (("--mode=models", "--config=nope.py"), "--mode=models does not read --config. It reads --arch"),
        (("--mode=models", "--config.seed=1"), "--mode=models does not read --config.seed."),
        (
            ("--mode=compare", "A", "B", "--top=3"),
            "does not read --top, which is of --mode=predict and --mode=se",
        ),
        (
            ("--config=configs/fvmr.py", "--query=a"),
            "--mode=train does not read --query, which is of --mode=pre",
        ),
        (("--mode=serve", "--workdir=DIR", "--video=x"), "--mode=serve does not read --video"),
        (("--confg=configs/fvmr.py",), 'There is no flag "--confg". Did you mean "--config"?'),
        (("--mode=compare", "A", "--wrkdir=B"), 'There is no flag "--wrkdir". Did you mean "--workdir"?'),
        (("--mode=predict", "--top=abc"), '--top is "abc"; it must be a whole number, such as 5.'),
        (("--mode=models", "--imports=maybe"), '--imports is "maybe"; it must be True or False.'),
        (("--config",), "Missing value for flag --config."),
        (
            ("--config=configs/fvmr.py", "runs/x"),
            "Unexpected argument 'runs/x'; flags look like --workdir=DIR.",
        ),
        (
            ("--mode=predict", "--workdir=~no_such_user/run"),
            "~no_such_user/run begins with ~no_such_user, a ho",
        ),
        (
            ("--mode=inspect", "--config=configs/fvmr.py", "--config.evaluation.keep=0"),
            "config.evaluation.keep is 0; it must be from 1 to",
        ),
        ((), "Give --config=configs/NAME.py to train, or --workdir=DIR of a run; --help lists the modes."),
    ],
)
def test_a_flag_that_nothing_reads_is_refused(arguments, message):
    assert message in refusal(*arguments)


def test_every_flag_is_of_a_mode_and_stands_in_the_help():
    from vmr_jax.modes.launch import _own_flags

    names = {flag.name for flag in _own_flags()}
    read = {name for mode in [*MODES.values(), *OF_LIBRARY.values()] for name in (*mode.common, *mode.flags)}
    assert names == read | {"mode"}
    text = help_text("vmr_jax")
    assert all(f"--{name} " in text for name in names) and all(f"\n  {name} " in text for name in MODES)
    assert len(text.splitlines()) < 50  # a screen
