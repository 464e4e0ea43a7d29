"""Values as features, by hand."""

from __future__ import annotations

import numpy as np
import pytest

from polymask.errors import UserError
from polymask.structures.metadata import MetadataEncoding, check_kinds, measure_metadata

SAMPLES = [
    {"age": "20", "sex": "Male"},
    {"age": "40.0", "sex": "female"},
    {"age": "", "sex": "unknown"},
    {"age": "NaN", "sex": "male"},
]
KINDS = {"Age": "number", "sex": "category"}


def test_statistics_are_of_the_values_that_are_known() -> None:
    encoding = measure_metadata(KINDS, SAMPLES)
    assert encoding.statistics == {"Age": [30.0, 10.0], "sex": ["female", "male"]}
    assert encoding.sizes == [2, 3]


@pytest.mark.parametrize(
    ("attributes", "features"),
    [
        ({"age": "40", "sex": "MALE"}, [0, 1, 0, 0, 1]),
        ({"age": 15.0, "sex": "female"}, [0, -1.5, 0, 1, 0]),
        ({"age": "", "sex": "na"}, [1, 0, 1, 0, 0]),
        ({"sex": "never seen"}, [1, 0, 1, 0, 0]),
        ({}, [1, 0, 1, 0, 0]),
    ],
)
def test_values_become_features(attributes: dict, features: list[float]) -> None:
    encoding = MetadataEncoding(kinds=KINDS, statistics={"Age": [30.0, 10.0], "sex": ["female", "male"]})
    found = encoding.encode(attributes)
    assert found.dtype == np.float32
    assert found.tolist() == features


def test_a_number_that_never_changes_is_zero() -> None:
    encoding = measure_metadata({"age": "number"}, [{"age": "50"}, {"age": "50"}])
    assert encoding.encode({"age": "50"}).tolist() == [0, 0]


def test_mistakes_are_told_in_one_line() -> None:
    with pytest.raises(UserError, match=r"model.metadata.age=number, but 'old' is no number; mend the table"):
        measure_metadata({"age": "number"}, [{"age": "old"}])
    with pytest.raises(UserError, match=r"'site', of which no training sample has a value"):
        measure_metadata({"site": "category"}, [{"site": "unknown"}, {}])
    with pytest.raises(UserError, match=r"model.metadata.age='numbr' is unknown. Did you mean 'number'\?"):
        check_kinds({"age": "numbr"})
    with pytest.raises(UserError, match=r"model.metadata=\['age'\] must name columns with their kinds"):
        check_kinds(["age"])
