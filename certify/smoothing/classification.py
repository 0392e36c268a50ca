"""Classification by votes: the task of a `Procedure`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from msgspec import UNSET, structs
from numpy.typing import NDArray

from certify.examples import Example
from certify.results import Counts, SmoothingExample, SmoothingSettings
from certify.smoothing.certificate import Certificate, select_class
from certify.smoothing.procedure import Procedure
from certify.smoothing.tasks import Drawn
from certify.smoothing.votes import Votes, check_classes


@dataclass(frozen=True, eq=False)
class Classification:
    """Which class wins the vote, and how far that holds; the choice is the selected class, none when invalid won."""

    procedure: Procedure

    def __post_init__(self) -> None:
        check_classes(self.procedure.classes)

    @property
    def settings(self) -> SmoothingSettings:
        """The settings of the run."""
        return self.procedure.settings

    @property
    def reading(self) -> Votes:
        """Votes per class."""
        return Votes(self.procedure.classes)

    @property
    def first_draws(self) -> int:
        """The first look where radii are asked for, else the most draws."""
        questions = self.procedure.questions
        return questions[0].test.looks[0] if questions else self.settings.n

    @property
    def sequential(self) -> bool:
        """Whether radii are asked for."""
        return bool(self.procedure.questions)

    def choose(self, pilot: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the class with the most votes."""
        selected = select_class(pilot.tolist())
        return np.array([] if selected is None else [selected], dtype=np.int64)

    def look(self, choice: NDArray[np.int64], estimation: NDArray[np.int64]) -> int:
        """Return the votes for the selected class."""
        return int(estimation[choice].sum())

    def draws_after(self, pilot: NDArray[np.int64], looks: Sequence[int]) -> int:
        """Return the draws that the procedure asks for."""
        return self.procedure.draws_after(pilot.tolist(), looks)

    def report(self, example: Example, drawn: Drawn) -> SmoothingExample:
        """Return the certified example that the counts give."""
        selection, estimation = tuple(drawn.pilot.tolist()), tuple(drawn.estimation.tolist())
        uniform = self.procedure.uniform_of(example.id, example.hash)
        certificate = self.procedure.certify(selection, estimation, drawn.looks, uniform)
        return structs.replace(
            classified(self.procedure, example, certificate, selection=selection, estimation=estimation, drawn=drawn),
            stopped="gs" if self.sequential else UNSET,
            decisions=certificate.decisions or UNSET,
            uniform=UNSET if uniform is None else uniform,
        )


def classified(
    procedure: Procedure,
    example: Example,
    certificate: Certificate,
    *,
    selection: tuple[int, ...],
    estimation: tuple[int, ...],
    drawn: Drawn,
) -> SmoothingExample:
    """Return the row of an example: its certificate, the votes of pilot and estimation, and what was drawn for them."""
    settings = procedure.settings
    return SmoothingExample(
        index=example.index,
        id=example.id,
        hash=example.hash,
        label=example.label,
        predicted=certificate.predicted,
        correct=certificate.predicted == example.label,
        radius=certificate.radius,
        norm=settings.norm,
        counts=Counts(selection=selection, estimation=estimation, n0=settings.n0, n=drawn.n, seed=settings.seed),
        procedure=procedure.name,
        seconds=drawn.seconds,
        reason=certificate.reason or UNSET,
    )
