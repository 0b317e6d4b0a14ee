"""Tests partition keys: numbers, or names if the description says so. Selections of shards accept both."""

from __future__ import annotations

from typing import Any

import pytest

from laion_assets.dataset import Dataset, dataset_of
from laion_assets.errors import DatasetError
from laion_assets_tests.conftest import assert_one_line


def named(names: dict[int, str], **fields: Any) -> Dataset:
    """A dataset of npz files with these names."""
    layout = {"image_file": "{name}.npz", "metadata_file": "{name}.parquet", "has_text": False, "dimension": 8}
    return dataset_of({"name": "pairs", "names": names, "partition_keys": "names", **layout, **fields}, "pairs")


def test_names_stand_for_numbers_in_every_selection() -> None:
    dataset = named({0: "a/7c-9", 1: "b", 4: "2024-05"})
    assert dataset.shard_keys == ["a/7c-9", "b", "2024-05"]
    assert dataset.shard_numbers("2024-05,a/7c-9") == [0, 4]
    assert dataset.shard_numbers("0-3") == [0, 1]
    assert dataset.shard_numbers("4,b") == [1, 4]
    assert [dataset.shard_number(key) for key in dataset.shard_keys] == [0, 1, 4]
    assert dataset.key_of(9) == "9", "a partition of the table that the description does not have"


def test_numbers_are_the_keys_where_nothing_else_is_said() -> None:
    dataset = named({0: "a", 1: "b"}, partition_keys="numbers")
    assert dataset.shard_keys == ["0", "1"]
    assert dataset.shard_numbers("b") == [1]


@pytest.mark.parametrize("selection", ["c", "2", "b-c", "0-9", "", "-", "a,", "1-0"])
def test_a_selection_of_no_shard_names_what_there_is(selection: str) -> None:
    with pytest.raises(DatasetError) as caught:
        named({0: "a", 1: "b"}).shard_numbers(selection)
    assert_one_line(caught.value, "dataset pairs")


@pytest.mark.parametrize("name", ["a...b", "a,b", " a", "x" * 256, "1", "all"])
def test_a_name_that_cannot_be_a_key_is_refused(name: str) -> None:
    with pytest.raises(DatasetError) as caught:
        named({0: name, 1: "b"})
    assert_one_line(caught.value, "shard 0")


def test_keys_are_names_only_where_there_are_names() -> None:
    fields = {"name": "x", "shards": 2, "dimension": 8, "partition_keys": "names"}
    with pytest.raises(DatasetError, match="needs names"):
        dataset_of(fields, "x")


def test_a_later_version_of_the_form_is_refused() -> None:
    with pytest.raises(DatasetError, match="version: Input should be 1"):
        dataset_of({"name": "x", "shards": 2, "dimension": 8, "version": 2}, "x")
