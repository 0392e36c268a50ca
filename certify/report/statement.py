"""What a certificate of a report promises, field by field and in words; a pure function of what was run.

*Object.* A Lipschitz certificate speaks of the network itself (``base``), a smoothing certificate of the noisy vote
(``smoothed``): the base network is promised nothing by it.

*Domain.* ``real ball``: every real x' with ||x' - x|| < radius. ``grid``: every such x' whose pixels are k/255 with
integer k. Integer noise gives ``grid``: Z is the rounding of real Gaussian noise to the grid, so for x' on the grid
the sum x' + Z is exact in the machine and equals the rounding of x' plus the real noise. The vote is then the smoothed
vote of the *function* f o round, the theorem of Cohen, Rosenfeld and Kolter (2019, arXiv 1902.02918, Theorem 1) applies
to it, and no floating-point step separates the theorem from the program. Noise uniform on whole levels has a theorem of
its own, of counting grid points, in l1 (`certify.stats.uniform`). In real arithmetic the same certificate holds at
every real x' of the ball, with the sum rounded before f; the machine cannot add there exactly, so the domain claimed is
the grid. With float noise fl(x + noise) is no function of x + noise (arXiv 2207.07209), hence ``not float-sound``.

*Radius.* The inequality is strict: the theorem holds on the open ball, and a margin that is exactly used up is a tie.

*Deterministic splitting* (`certify.stats.splitting`) promises on the grid as well, and its certificates never fail: no
sentence of its statement speaks of chance. It is the smoothed object that is promised, as with noise.

*Jointly.* N certificates that fail with probability at most alpha each have at most alpha N false ones expected,
whatever their dependence; with noise of its own for each example their number is stochastically at most a
Binomial(N, alpha) variable, whose quantiles are given; and by the union bound all N hold together with the failure
probability of one if each is run at alpha / N.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from decimal import ROUND_FLOOR, Context, Decimal

from msgspec import UNSET

from certify.report.figures import upper_figure
from certify.report.promise_words import (
    INTEGER_NOISE_LAWS,
    NORM_WORDS,
    describe_input_space,
    points_words,
    promise_words,
    scores_in_use,
    scores_words,
)
from certify.results import (
    LipschitzExample,
    LipschitzSettings,
    ModelRecord,
    NetworkBound,
    SmoothingSettings,
    Statement,
    Tables,
)
from certify.stats import false_certificates_quantile
from certify.stats.radius import RANDOMIZED
from certify.stats.splitting import offsets_sha256, split_shifts
from certify.stats.uniform import grid_steps, half_width

NEVER_FAILS = "all certificates hold together: nothing in them is random"
QUANTILES = (0.95, 0.99)
NOISE_WORDS: Mapping[str, Callable[[float], str]] = {
    "gaussian": lambda sigma: f"Gaussian noise, sigma {sigma!r}",
    "gaussian-255": lambda sigma: f"Gaussian noise rounded to the 8-bit grid, sigma {sigma!r}",
    "gaussian-diagonal": lambda sigma: f"Gaussian noise, sigma {sigma!r} times the scale of each coordinate",
    "gaussian-diagonal-255": lambda sigma: (
        f"Gaussian noise rounded to the 8-bit grid, sigma {sigma!r} times the scale of each coordinate"
    ),
    "uniform": lambda sigma: f"uniform noise of half-width {half_width(sigma)!r}, sigma {sigma!r}",
    "uniform-255": lambda sigma: (
        f"noise uniform on the whole levels -{grid_steps(sigma)}..{grid_steps(sigma)} of 1/255, sigma {sigma!r}"
    ),
    "split-255": lambda sigma: (
        f"midpoints of cells of {split_shifts(sigma)} levels of 1/255, at all of as many shifts, sigma {sigma!r}"
    ),
}
ARITHMETIC_WORDS: Mapping[str, str] = {
    "exact": "exact: real arithmetic on the stored weights",
    "float64": "float64: the deployed program, in any order of summation",
    "float32": "float32: the deployed program, in any order of summation",
}
OBJECT_WORDS: Mapping[str, str] = {
    "exact": "the real-arithmetic network",
    "float64": "the network run in float64",
    "float32": "the network run in float32",
}


def lipschitz_statement(
    *, settings: LipschitzSettings, model: ModelRecord, network: NetworkBound, examples: Sequence[LipschitzExample]
) -> Statement:
    """Return the statement of a Lipschitz report over its examples (none: the network alone)."""
    return Statement(
        text=_lipschitz_text(settings, model, network, examples),
        object="base",
        arithmetic=ARITHMETIC_WORDS[settings.arithmetic],
        domain="real ball",
        failure_probability=0.0,
        joint=NEVER_FAILS,
    )


def _lipschitz_text(
    settings: LipschitzSettings, model: ModelRecord, network: NetworkBound, examples: Sequence[LipschitzExample]
) -> str:
    who = f"{OBJECT_WORDS[settings.arithmetic]} with the weights of sha256 {model.sha256}"
    bounded = network.proved and (network.upper is not None or any(example.radius > 0.0 for example in examples))
    if not bounded:
        return f"Nothing is certified: no bound is proved for {who}, {describe_input_space(model)}."
    distance = NORM_WORDS[settings.norm]
    if network.upper is not None and not examples:
        bound = upper_figure(network.upper)
        return (
            f"The logits f of the real-arithmetic network with the weights of sha256 {model.sha256} change by at most "
            f"{bound} times the change of the input, in {settings.norm}, {describe_input_space(model)}."
        )
    return (
        f"For each example x with a positive radius, {who} gives the predicted class to every x' with "
        f"{distance} < radius, {describe_input_space(model)}."
    )


def smoothing_statement(*, settings: SmoothingSettings, model: ModelRecord, tables: Tables, examples: int) -> Statement:
    """Return the statement of a smoothing report over ``examples`` examples; its noise law decides the domain."""
    on_grid = tables.noise_law in INTEGER_NOISE_LAWS
    if settings.deterministic:
        return _split_statement(settings, model, tables)
    return Statement(
        text=_smoothing_text(settings, model, tables, on_grid=on_grid),
        object="smoothed",
        arithmetic=smoothing_arithmetic(settings, on_grid=on_grid),
        domain="grid" if on_grid else "real ball",
        failure_probability=settings.alpha,
        joint=joint_statement(examples, settings.alpha),
    )


def _split_statement(settings: SmoothingSettings, model: ModelRecord, tables: Tables) -> Statement:
    """Return the statement of deterministic splitting: the offsets of the cells are part of what is certified."""
    offsets = f"offsets of seed {settings.seed}, sha256 {offsets_sha256(settings.seed, model.input.size, settings.n)}"
    return Statement(
        text=(
            f"For each example x with a positive radius, without exception, the splitting classifier "
            f"({noise_words(tables.noise_law, settings)}, {offsets}; its answer is the class with the most votes) of "
            f"the network with the weights of sha256 {model.sha256} {promise_words(settings)} "
            f"{points_words(settings, model, on_grid=True)}. Nothing in this is random. The network itself is promised "
            "nothing."
        ),
        object="smoothed",
        arithmetic=f"the network as run in {settings.program}; it sees fixed numbers of whole pixel levels",
        domain="grid",
        failure_probability=0.0,
        joint=NEVER_FAILS,
    )


def _smoothing_text(settings: SmoothingSettings, model: ModelRecord, tables: Tables, *, on_grid: bool) -> str:
    classifier = f"the smoothed classifier ({noise_words(tables.noise_law, settings)}{_scores(tables)})"
    return (
        f"For each example x with a positive radius, except with probability at most {settings.alpha!r} over its own "
        f"draws, {classifier} of the network with the weights of sha256 {model.sha256} "
        f"{promise_words(settings)} {points_words(settings, model, on_grid=on_grid)}. The network without noise is "
        f"promised nothing.{_randomized(settings)}{_score_choice(tables)}"
    )


def noise_words(noise_law: str, settings: SmoothingSettings) -> str:
    """Return which noise the input gets."""
    return NOISE_WORDS[noise_law](settings.sigma) if noise_law in NOISE_WORDS else f"unknown noise {noise_law!r}"


def _scores(tables: Tables) -> str:
    """Return which scores are smoothed in place of votes, if any."""
    chosen = scores_in_use(tables)
    if chosen is None:
        return ""
    return f"; its answer is {scores_words(chosen.map, chosen.temperature)}"


def _score_choice(tables: Tables) -> str:
    """Return what radii of scores rest on, and what their choice means for statements about the population."""
    table = tables.scores
    if table is UNSET:
        return ""
    proved = scores_in_use(tables) is not None and table.lipschitz is not None
    slopes = (
        " Radii may rest on the proved Lipschitz constant of the logits, less the rounding of program and noise; that "
        "of the program is bounded on one ball around all examples of the run, so a radius also depends on the others."
    )
    number = len(table.candidates)
    chosen = (
        f" What is smoothed was chosen among {number} candidates, votes included, on the selection draws of these "
        "examples: a limit on the population is at a confidence that lets the limits of all candidates hold together."
    )
    return f"{slopes if proved else ''}{chosen if number > 1 else ''}"


def _randomized(settings: SmoothingSettings) -> str:
    if settings.bound not in RANDOMIZED or settings.at:
        return ""
    return " The bound is randomized: each radius also depends on a number drawn for the example from the run's seed."


def smoothing_arithmetic(settings: SmoothingSettings, *, on_grid: bool) -> str:
    """Return what a smoothed certificate covers of the program's arithmetic."""
    run = f"the network as run in {settings.program}"
    if on_grid:
        return f"{run}; inputs with integer noise are exact; the noise generator is assumed ideal"
    return f"{run}; float noise: not float-sound; the noise generator is assumed ideal"


def joint_statement(examples: int, alpha: float) -> str:
    """Return what holds for many certificates together, each false with probability at most ``alpha``.

    Example:
        >>> joint_statement(500, 0.001)
        'of 500 examples at most 0.5 false certificates are expected; with noise of its own for each example at most 2
        with probability 0.95, at most 3 with probability 0.99; all hold together, except with probability 0.001, when
        each is run at alpha 0.000002'
    """
    if not examples:
        return "no examples"
    quantiles = ", ".join(
        f"at most {false_certificates_quantile(examples, alpha, 1.0 - level)} with probability {level}"
        for level in QUANTILES
    )
    written = Decimal(repr(alpha))
    each = Context(prec=5, rounding=ROUND_FLOOR).divide(written, Decimal(examples)).normalize()
    return (
        f"of {examples} examples at most {(written * examples).normalize():f} false certificates are expected; "
        f"with noise of its own for each example {quantiles}; "
        f"all hold together, except with probability {alpha!r}, when each is run at alpha {each:f}"
    )
