"""`--mode=models`: the list of architectures, its filters, and that it needs no TensorFlow."""

import importlib
import re
import subprocess
import sys

import pytest

from vmr_jax.errors import UserError
from vmr_jax.models import architectures
from vmr_jax.modes import models


def names(**filters):
    return [entry.name for entry in models.selected(**filters)]


def test_without_a_filter_there_are_all():
    assert names() == architectures()


def test_filters_agree_with_cards_configs_and_imports():
    cards = {name: importlib.import_module(f"vmr_jax.models.{name}").CARD for name in architectures()}
    assert names(family="span") == [name for name in cards if cards[name].family == "span"]
    assert {"tmlga", "vslnet"} <= set(names(family="span"))
    assert names(supervision="weak") == [name for name in cards if cards[name].supervision == "weak"]
    assert {"cnm", "scn"} <= set(names(supervision="weak"))
    configs = {name: importlib.import_module(f"vmr_jax.configs.{name}").DATASETS for name in architectures()}
    assert names(dataset="didemo") == [name for name in configs if "didemo" in configs[name]]
    assert not {"scdm", "tga"} & set(names(dataset="didemo"))  # six chunks cannot be halved, nor windows
    assert sorted(names(imports=True) + names(imports=False)) == architectures()
    assert {"two_d_tan", "xml"} <= set(names(imports=True)) and "fvmr" in names(imports=False)
    assert names(family="ranking", supervision="weak") == ["rtbpn", "tga"]
    assert names(family="corpus", supervision="weak") == []


@pytest.mark.parametrize(
    "filters,message",
    [
        ({"family": "rankin"}, 'no family "rankin". Did you mean "ranking"[?] Known: ranking, span'),
        ({"supervision": "weakly"}, 'no supervision "weakly". Did you mean "weak"[?]'),
        ({"dataset": "didemoo"}, 'No config has the dataset "didemoo". Did you mean "didemo"[?]'),
    ],
)
def test_a_wrong_filter_names_the_nearest(filters, message):
    with pytest.raises(UserError, match=message):
        models.selected(**filters)


def test_the_table_says_what_each_is(capsys):
    models.models(dataset="charades_sta")
    text = capsys.readouterr().out
    assert "..." not in text and "\N{HORIZONTAL ELLIPSIS}" not in text  # nothing is cut
    shown = [word for word in re.findall(r"^\w+", text, re.MULTILINE) if word in architectures()]
    assert shown == [name for name in architectures() if name != "mxml"]  # it has no second language
    assert f"{len(shown)} of {len(names())} architectures" in text
    (fvmr,) = re.findall(r"^fvmr .*", text, re.MULTILINE)
    assert "Gao and Xu" in fvmr and "none" in fvmr and fvmr.split()[-1] == "60"  # numbers of FVMR in the store


def test_it_runs_without_tensorflow():
    program = (
        "import sys; sys.modules['tensorflow'] = sys.modules['tensorflow_datasets'] = None; "
        "sys.argv = ['vmr_jax', '--mode=models', '--family=corpus']; "
        "from vmr_jax.modes.launch import cli; cli()"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert re.search(r"^xml ", done.stdout, re.MULTILINE)
    assert f"{len(names(family='corpus'))} of {len(architectures())} " in done.stdout
