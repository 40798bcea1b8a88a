"""The store of published numbers: what it holds, and beside which runs its rows stand."""

import dataclasses
import importlib

import pytest

from vmr_jax import published
from vmr_jax.configs import datasets
from vmr_jax.evaluation.metrics import canonical_name
from vmr_jax.models import architectures


def get_config(name, arg, **fields):
    config = importlib.import_module(f"vmr_jax.configs.{name}").get_config(arg)
    for field, value in fields.items():
        part, _, last = field.partition("__")
        config[part][last] = value
    return config


def values(name, arg, split, **fields):
    """(name, source) of a row -> metric -> value."""
    rows = published.rows(get_config(name, arg, **fields), split)
    return {(row["name"], row["source"]): row["metrics"] for row in rows}


def test_every_number_has_a_source_and_names_that_the_library_knows():
    for number in published.numbers():
        assert number.source and number.dataset in datasets.DATASETS
        # A method that the library does not have is named as the field writes it, and stands beside no run.
        ours = number.architecture in architectures()
        assert ours or (number.architecture[0].isupper() and not number.settings)
        if number.metric in published.TIMES:
            assert number.value > 0 and number.source.endswith("table 1")
        else:
            assert number.metric.removeprefix("VCMR-") == canonical_name(number.metric).removeprefix("VCMR-")
            assert 0 < number.value < 100
    # Of all but zero_shot, which is of no paper.
    assert {number.architecture for number in published.numbers()} & {*architectures()} == {
        *architectures()
    } - {"zero_shot"}


def test_a_number_stands_once():
    keys = [dataclasses.astuple(dataclasses.replace(n, value=0.0, note="")) for n in published.numbers()]
    assert len(set(keys)) == len(keys)


def test_settings_name_fields_of_the_config():
    for number in published.numbers():
        if number.architecture not in architectures():
            continue
        config = get_config(number.architecture, None)
        for setting in number.settings.split():
            path, _, value = setting.partition("=")
            part, field = path.split(".")
            assert field in config[part] and value, setting


def test_sources_that_disagree_both_stand():
    # FVMR's table 3 gives CTRL 14.00, FIAN's table 1 gives it 29.01, on the same split with the same features.
    rows = values("ctrl", "activitynet_captions,c3d", "anet_val_2")
    assert {metrics["R@1,IoU=0.5"] for metrics in rows.values()} == {14.00, 29.01}
    assert {source for _, source in rows} == {
        "Gao and Xu, ICCV 2021, table 3",
        "Qu et al., ACM MM 2020, table 1",
    }
    assert len({name for name, _ in rows}) == 2  # a reader can tell them apart


@pytest.mark.parametrize("name", ["fvmr", "fian", "two_d_tan", "ctrl", "cmin"])
def test_versions_of_tacos_never_share_a_row(name):
    # 10,146/4,589/4,083 pairs ('tall') are those of CTRL, CMIN, FIAN and FVMR; 2D-TAN counts its own.
    version = "2d_tan" if name == "two_d_tan" else "tall"
    other = {"2d_tan": "tall", "tall": "2d_tan"}[version]
    assert values(name, f"tacos,c3d,{version}", "test") and not values(name, f"tacos,c3d,{other}", "test")


def test_conventions_features_and_splits_part_rows():
    assert values("lgi", "activitynet_captions,c3d,lgi", "anet_val_1_and_2")
    assert not values("lgi", "activitynet_captions,c3d,2d_tan", "anet_val_1_and_2")
    assert values("fvmr", "charades_sta,vgg", "test") != values("fvmr", "charades_sta,i3d", "test")
    assert not values("fvmr", "charades_sta,vgg", "val")
    assert not values("fvmr", "charades_sta,vgg", "test", dataset__features="mine.hdf5")
    assert not values("fvmr", None, "test")


def test_features_of_a_pretrained_network_are_an_option():
    # LocVTP's row of VDI's table 2, beside a head that reads its features and beside no other features.
    expected = {"R@1,IoU=0.5": 43.60, "R@1,IoU=0.7": 26.30, "R@5,IoU=0.5": 81.90, "R@5,IoU=0.7": 55.30}
    assert [*values("two_d_tan", "charades_sta,locvtp", "test").values()] == [expected]
    assert expected not in values("two_d_tan", "charades_sta,vgg", "test").values()
    assert get_config("two_d_tan", "charades_sta,locvtp").dataset.feature_dim == 256


def test_rows_of_a_variant_need_its_settings():
    paper = values("fvmr", "charades_sta,i3d", "test")
    expected = {"R@1,IoU=0.5": 55.01, "R@1,IoU=0.7": 33.74, "R@5,IoU=0.5": 89.17, "R@5,IoU=0.7": 57.24}
    assert paper == {("published, i3d", "Gao and Xu, ICCV 2021, table 4"): expected}
    pool, conv = (values("two_d_tan", f"charades_sta,vgg,{option}", "test") for option in ("pool", "conv"))
    assert [name for name, _ in pool] == [
        "published, vgg, pool (Zhang et al., AAAI 2020)",
        "published, vgg, pool (official README)",
    ]
    assert {m["R@1,IoU=0.5"] for m in pool.values()} == {39.70, 40.94}
    assert {m["R@1,IoU=0.5"] for m in conv.values()} == {39.81, 42.80}
    assert [m["R@1,IoU=0.5"] for m in values("fian", "tacos,c3d,tall,soft", "test").values()] == [21.64]
    both = values("lgi", "charades_sta,i3d", "test")
    assert {m["mIoU"] for m in both.values()} == {51.38, 50.93}
    assert not values("lgi", "charades_sta,i3d,no_dqa", "test")


def test_flow_beside_rgb_is_another_feature():
    (fused,) = (m for (_, source), m in values("mcn", "didemo,fused", "test").items() if "README" not in source)
    assert fused == {"Rank@1": 28.10, "Rank@5": 78.21, "mIoU": 41.08}
    (rgb,) = values("mcn", "didemo,vgg", "test").values()
    assert rgb == {"Rank@1": 23.12, "Rank@5": 73.36, "mIoU": 35.49}


def test_a_row_without_suppression_stands_beside_no_run_with_it():
    (kept,) = values("xml", "tvr,resnet_i3d", "val").values()
    assert kept["VCMR-R@100,IoU=0.7"] == 22.47
    (suppressed,) = values("xml", "tvr,resnet_i3d", "val", evaluation__nms_threshold=0.5).values()
    assert suppressed["VCMR-R@100,IoU=0.7"] == 14.86  # the README's row with NMS at this IoU
    assert not values("xml", "tvr,resnet_i3d", "val", evaluation__nms_threshold=0.7)
    assert not values("relocl", "tvr,resnet_i3d", "val", evaluation__nms_threshold=0.5)


def test_a_number_from_memory_is_marked_where_it_is_printed():
    for number in published.numbers():
        assert ("from memory" in number.note) == number.source.endswith(published.UNCONFIRMED), number
    ((name, source),) = values("acrm", "charades_sta,i3d", "test")
    assert (name, source) == ("published, i3d", "Tang et al., TMM 2021 (unconfirmed)")


def test_rows_say_what_they_are():
    (row,) = published.rows(get_config("cmin", "activitynet_captions,c3d"), "anet_val_2")
    assert row["kind"] == "published" and row["source"] == "Zhang et al., SIGIR 2019"
    assert "grid of 200 clips" in row["note"]


@pytest.mark.parametrize("name", ["ctrl", "mcn", "cmin", "fian", "scdm", "fvmr", "vslnet", "two_d_tan", "mmn"])
def test_tacos_is_the_version_of_the_paper_unless_another_is_named(name):
    version = "2d_tan" if name in ("two_d_tan", "mmn") else "tall"
    assert get_config(name, "tacos").dataset.version == version
    assert get_config(name, "tacos,2d_tan").dataset.version == "2d_tan"
    stored = {n.version for n in published.numbers() if (n.architecture, n.dataset) == (name, "tacos")}
    assert stored <= {version}


@pytest.mark.parametrize(
    "name,convention", [("lgi", "lgi"), ("scdm", "lgi"), ("vslnet", "vslnet"), ("cmin", "2d_tan")]
)
def test_activitynet_has_the_convention_of_the_paper_unless_another_is_named(name, convention):
    assert get_config(name, "activitynet_captions").dataset.convention == convention
    stored = {
        n.version for n in published.numbers() if (n.architecture, n.dataset) == (name, "activitynet_captions")
    }
    assert stored == {convention}


def test_every_number_with_features_can_stand_beside_a_run():
    """A config with the options of its dataset, version and features, and the settings of its variant."""
    for number in published.numbers():
        if not number.features or number.architecture not in architectures():
            continue
        features = "fused" if number.features.endswith("+flow") else number.features
        config = get_config(
            number.architecture, ",".join(filter(None, (number.dataset, features, number.version)))
        )
        for setting in number.settings.split():
            path, _, value = setting.partition("=")
            part, field = path.split(".")
            kind = type(config[part][field])
            config[part][field] = value == "True" if kind is bool else kind(value)
        assert number in published.comparable(config, number.split), number
