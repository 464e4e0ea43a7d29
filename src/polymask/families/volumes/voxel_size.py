"""The size of a voxel in micrometres."""

from __future__ import annotations

from collections.abc import Sequence

from polymask.errors import UserError, number


def parse_voxel_size(value: Sequence[float] | None) -> tuple[float, float, float] | None:
    """Return `data.voxel_size` as (z, y, x) in micrometres, None when it is unknown.

    Raises:
        UserError: It is not three numbers above 0.
    """
    if value is None:
        return None
    if not isinstance(value, Sequence) or isinstance(value, str) or len(value) != 3:
        raise UserError(
            f"data.voxel_size={value} is not valid; give three lengths in micrometres, those of z, y and x, "
            "such as [0.2,0.125,0.125], or null."
        )
    z, y, x = (number("data.voxel_size", side, above=0, what="three lengths") for side in value)
    return float(z), float(y), float(x)
