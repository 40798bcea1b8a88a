"""`--mode=models`: the list of architectures, its filters, and that it needs no TensorFlow."""

import importlib
import re
import subprocess
import sys

import pytest

from vmr_jax.configs import datasets
from vmr_jax.errors import UserError
from vmr_jax.models import architectures
from vmr_jax.modes import models


def names(**filters):
    return [entry.name for entry in models.selected(**filters)]


def card_of(name):
    return importlib.import_module(f"vmr_jax.models.{name}").CARD


def test_without_a_filter_there_are_all():
    assert names() == architectures()


def test_filters_agree_with_cards_configs_and_imports():
    cards = {name: card_of(name) for name in architectures()}
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


def test_the_table_has_a_line_for_each(capsys):
    models.models(dataset="charades_sta")
    lines = capsys.readouterr().out.splitlines()
    shown = [line.split()[0] for line in lines if re.match(r"\w+ .* (full|weak|none) ", line)]
    assert shown == [name for name in architectures() if name != "mxml"]  # it has no second language
    assert lines[0].split() == ["name", "paper", "labels", "family", "import", "datasets", "published"]
    assert [line.split()[0] for line in lines[1 : 1 + len(shown)]] == shown  # nothing is folded
    assert lines[2 + len(shown)].startswith(f"{len(shown)} of {len(names())} architectures")
    assert max(map(len, lines)) <= 112
    (fvmr,) = [line for line in lines if line.startswith("fvmr ")]
    # Of table 2 the row of I3D, the best of three kinds of features; it runs on all but nothing.
    assert "Gao and Xu, ICCV 2021" in fvmr and fvmr.split()[-2:] == [str(len(datasets.DATASETS)), "55.01"]


def test_all_of_one_is_told(capsys):
    models.models(architecture="mxml,fvmr")
    fvmr, mxml = capsys.readouterr().out.rstrip("\n").split("\n\n")
    assert fvmr.startswith("fvmr\n") and "nobody published any" in fvmr and "not on" not in fvmr
    mxml = " ".join(mxml.split())
    assert "mTVR: Multilingual Moment Retrieval in Videos. Lei et al., ACL 2021" in mxml
    assert (
        "datasets storyboard: video, subtitles tvr: resnet_i3d, resnet, i3d, video, subtitles not on films, "
        in mxml
    )
    assert mxml.count("mXML reads every query in a second language") == 1  # for all of its datasets at once
    assert all(" ".join(line.split()) in mxml for line in (*card_of("mxml").ours, *card_of("mxml").verified))


def test_one_that_the_other_flags_leave_out(capsys):
    models.models(architecture="fvmr", family="span")
    assert capsys.readouterr().out == "fvmr does not agree with the other flags.\n"
    models.models(architecture="mxml,mmn", dataset="didemo")
    told, _, last = capsys.readouterr().out.rpartition("\n\n")
    assert told.startswith("mmn\n")
    assert last.startswith("mxml does not run on didemo: mXML reads every query in a second language, which ")
    with pytest.raises(UserError, match='no architecture "fvmrr". Did you mean "fvmr"'):
        models.models(architecture="fvmrr")


@pytest.mark.parametrize("flag", ["--mode=models", "--help"])
def test_a_reader_that_has_read_enough_ends_it_in_silence(flag):
    program = f"import sys; sys.argv[1:] = ['{flag}']; from vmr_jax.modes.launch import cli; cli()"
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        process.stdout.close()
        said = process.stderr.read()
    assert process.returncode == 141 and said in ("", "Loading JAX\n")


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
