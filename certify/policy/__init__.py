r"""Gates: a policy and a report in, one verdict per gate out.

A gate compares a count of examples with a threshold, on integers. Let V_i = 1 when example i counts, n the examples, a
the threshold, delta = 1 - confidence, and alpha the chance that one V_i = 1 is false (0 for Lipschitz certificates, and
for those of deterministic splitting).

- claim ``population``: "the share in the population is at least a". **Passed** when the lower limit of the share is at
  least a, **failed** when the upper limit of the share that this procedure certifies is below a, **undecided** between
  the two: never a pass. Needs examples drawn independently from the population.
- claim ``list``: "of these n examples at least a n are truly certified". At most q of n certificates are false with
  probability 1 - delta (q = 0 when alpha is 0), so it passes from ceil(a n) + q on, and fails below: no middle zone.
- on ``estimate``: the plain share against a; no confidence is claimed.

The statements and their proofs stand in `certify.stats.populations`.

*Which alpha for clean accuracy?* For smoothing V_i = 1 says that the vote was not an abstention and named the label. An
answer is given only with a positive radius, and that this radius is too large, or the class not the smoothed
classifier's, has probability at most alpha: the certificate at radius 0 is the claim "the smoothed classifier's answer
is this class". So clean accuracy of a smoothed classifier is its certified accuracy at radius 0, with the same alpha.
For Lipschitz reports it counts the network's own argmax, an observation that nothing random can falsify: alpha = 0.

*Asked radii, and stopping early.* A run that decides asked radii (`at`) speaks of these alone: a gate at another radius
is an error of the policy, and clean accuracy is the question at a radius so small that it means any positive one
(`SMALLEST` sigma). Each V_i depends on the draws of its own example only, so a verdict that the examples without draws
cannot change is that of the whole run, and no level is spent by stopping there: **passed** when the certified examples
alone suffice, **failed** when these and all open ones would not. The record then says how many are certified at least
and at most, never a share of those drawn. An example that ended undecided counts as not certified; for a list claim,
where the other answer could have made the difference, it stays open, and the verdict may end undecided.

*Norms.* A gate on smoothed certificates may ask in another norm than theirs: its ball lies in a ball of the
certificates' norm, and what counts is a radius of at least that (`certify.stats.needed_radius`); the row says so. For
Lipschitz certificates the other norm is another run.

A threshold that is out of reach of n examples can only fail or stay undecided; the reason then names the least number
of examples that could pass. A radius that no vote can reach with the draws asked for is an error of the policy
(`InputError`), not a verdict on the model.

*Tasks and scales.* A certificate of the task "among the k likeliest" does not say which class is answered: a gate on
clean accuracy is refused there, and the reason of any other says what was counted. A radius in weighted-l2 is measured
in the scales of the noise, so a gate in that norm names them, by their hash (`promises`).

*Other questions.* A gate may ask for the share in every class (`classes`), for the mean radius (`means`), for the
network's own constant (`networks`), or for a share that drops by little from an earlier report (`drops`); each module
states its rule and why it holds. A mean is judged on whole runs: no later example may be missing.
Readings of curvature certify nothing: a gate on one needs leave, and its row says what it is (`diagnostics`).

`gates` says what a gate may ask, `requirements` which counts decide it, `tallies` what it has seen, `settlement` when
no later example matters, `fits` which report can answer it, and `verdicts` puts them together.
"""

from certify.policy.diagnostics import refuse_diagnostic
from certify.policy.fits import SMALLEST, answers_gate, asked_radii, check_fits, check_norm, in_native_norm
from certify.policy.gates import DIAGNOSTICS, Gate, parse_gates
from certify.policy.requirements import least_examples, requirement
from certify.policy.settlement import Settlement
from certify.policy.tallies import Tally, tally
from certify.policy.verdicts import evaluate_gates, gate_exit_code

__all__ = [
    "DIAGNOSTICS",
    "SMALLEST",
    "Gate",
    "Settlement",
    "Tally",
    "answers_gate",
    "asked_radii",
    "check_fits",
    "check_norm",
    "evaluate_gates",
    "gate_exit_code",
    "in_native_norm",
    "least_examples",
    "parse_gates",
    "refuse_diagnostic",
    "requirement",
    "tally",
]
