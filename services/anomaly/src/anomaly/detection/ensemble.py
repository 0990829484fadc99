"""The default: all fields together, novelty of each, and rules for broken instruments. Pure.

Every member's score is a tail probability, so the ensemble is the largest of them and one threshold
means the same for every member and every device. The explanation is the leading member's. A
contract with one measure has no fields that move together: there novelty scores alone. A Random
Cut Forest can join: dearer, so it is asked for.
"""

from collections.abc import Sequence

import numpy as np

from anomaly.detection import forest, monitor, novelty, rules
from anomaly.detection.interface import (
    Batch,
    Detector,
    Scores,
    State,
    nothing,
    of_prefix,
    with_prefix,
)

DETECTOR_ID = "ensemble/1"
WITH_FOREST_ID = "ensemble-forest/1"
THRESHOLD = 0.9977
"""Chosen once for NAB and SKAB together; see docs/anomaly.md for what it means elsewhere."""


class Ensemble:
    """Several detectors as one."""

    def __init__(self, members: Sequence[Detector]) -> None:
        """Fix the members; their names must differ."""
        self._members = {each.identity.partition("/")[0]: each for each in members}

    @property
    def identity(self) -> str:
        """Name and version."""
        return WITH_FOREST_ID if "forest" in self._members else DETECTOR_ID

    def begin(self, devices: int, fields: int) -> State:
        """A state that has seen nothing."""
        state: State = {}
        for name, member in self._members.items():
            state |= with_prefix(name, member.begin(devices, fields))
        return state

    def score(self, batch: Batch, state: State) -> tuple[Scores, State]:
        """See `interface.Detector`."""
        result = nothing(batch.values.shape)
        after: State = {}
        for name, member in self._members.items():
            said, left = member.score(batch, of_prefix(name, state))
            after |= with_prefix(name, left)
            leads = np.flatnonzero(~(said.score <= result.score) & ~np.isnan(said.score))
            result.score[leads] = said.score[leads]
            result.contributions[leads] = said.contributions[leads]
            np.copyto(result.expected, said.expected, where=np.isnan(result.expected))
        return result, after


def default(
    fields: int,
    monitoring: monitor.Tuning | None = None,
    novel: novelty.Tuning | None = None,
    ruled: rules.Tuning | None = None,
    trees: forest.Tuning | None = None,
) -> Ensemble:
    """The members that suit a contract of so many measures; a forest only if `trees` are given."""
    if fields == 1:
        return Ensemble([novelty.Novelty(novel)])
    members: list[Detector] = [monitor.Monitor(monitoring)]
    members += [novelty.Novelty(novel), rules.Rules(ruled)]
    return Ensemble([*members, forest.Forest(trees)] if trees else members)
