"""Each of the nine faults is in Ray's scheduler, and not in ours."""

from __future__ import annotations

import pytest

from tests.asha_faults import FAULTS, Fault, Ours, Ray


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.name)
def test_ray_has_the_fault_and_we_have_not(fault: Fault) -> None:
    assert fault.play(Ray) == fault.ray
    assert fault.play(Ours) == fault.ours
    assert fault.ray != fault.ours
