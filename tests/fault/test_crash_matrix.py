"""Every service dies at every failpoint of its own, and the tables show nothing of it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from fault import matrix
from fault.matrix import Cell, Group

SEED = 20260101
CELLS = matrix.cells(SEED)
BY_DEPLOYMENT = sorted(CELLS, key=lambda cell: cell.reshards)


@pytest.fixture(scope="module")
def group(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Group]:
    """A deployment for all cells that reshard, or for all that do not."""
    directory: Path = tmp_path_factory.mktemp("matrix")
    with matrix.deployed(directory, seed=SEED, reshards=request.param) as deployment:
        yield deployment


@pytest.mark.parametrize(
    ("group", "cell"),
    [pytest.param(cell.reshards, cell, id=cell.name) for cell in BY_DEPLOYMENT],
    indirect=["group"],
)
def test_a_death_at_a_failpoint_changes_no_table(group: Group, cell: Cell) -> None:
    """The service dies there by SIGKILL, comes back, and each reading is there once, in order."""
    verdict = group.run(cell)
    assert verdict.error == ""
    assert verdict.readings > 0
    assert verdict.audit == dict.fromkeys(verdict.audit, 0)


@pytest.mark.parametrize("group", [False, True], indirect=True, ids=["flowing", "resharding"])
def test_all_deaths_together_changed_no_table(group: Group) -> None:
    """What one cell left behind did not break the tables in a later one, and all services end."""
    verdict = group.balance("all")
    assert verdict.error == ""
    assert verdict.audit == dict.fromkeys(verdict.audit, 0)


def test_every_failpoint_has_a_cell() -> None:
    """No failpoint of any service is left out, and each dies at an arrival that can come."""
    found = {(cell.service, cell.failpoint.name) for cell in CELLS}
    assert found == {
        (service, point.name) for point in matrix.FAILPOINTS for service in point.services
    }
    assert all(1 <= cell.nth <= matrix.MAX_NTH for cell in CELLS)
