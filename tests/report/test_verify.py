"""Edits of reports. `LEAVES` edits every leaf of a report once; the digest, or the types, must notice each of them.

Then the same edits are *sealed again*, so that the digest agrees: what is still unnoticed must be in `DIGEST_ONLY`, the
written list of what no other number of a report implies.
"""

import json
import math
import re
import sys

import pytest
from msgspec import UNSET
from msgspec.structs import replace

from certify.errors import InputError, SoundnessError
from certify.report import FORMATS, rederive_smoothing, verify_report
from certify.report.findings import compare
from certify.report.rederive_lipschitz import expected_radius
from certify.results import report_from_json, report_to_json, seal
from certify.results.reports import unsampled_of
from certify.stats import failure_upper
from tests.report.edits import edited, flip, leaves, nudge, read
from tests.report.sample_reports import (
    BOUND,
    SAMPLES,
    SETTINGS,
    data_record,
    gate,
    lipschitz_clean,
    lipschitz_example,
    lipschitz_linf,
    lipschitz_mixed,
    lipschitz_report,
    network_alone,
    noise_tables,
    sequential_few,
    sequential_stopped,
    smoothing_abstaining,
    smoothing_clean,
    smoothing_float_fixed,
    smoothing_report,
    unbounded_with_data,
)

EDITED = [
    network_alone,
    lipschitz_mixed,
    lipschitz_linf,
    unbounded_with_data,
    smoothing_abstaining,
    smoothing_float_fixed,
    sequential_few,
    sequential_stopped,
]
NOT_RECORDED = re.compile(r"^(execution\b|examples\[\d+\]\.seconds)")

DIGEST_ONLY = [
    r"tool\.(version|python|torch|device_kind)",  # where it ran
    r"model\.(source|parameters|classes\[\d+\])",
    r"model\.input\.shape\[\d+\]",  # implied by the charge on alpha only with integer noise
    r"data\.selection",
    r"settings\.(limit|skip|seed|method|arithmetic|dtype|price|n|n0|float_noise|noise)",  # see SETTINGS_IMPLIED
    r"settings\.(procedure|bound)",  # play no part where radii were asked for
    r"network\.(upper|lower|method|proved|reason|data_floor|slope_floor)",  # rest on the weights
    r"layers\[\d+\]\..*",
    r"examples\[\d+\]\.(method|reason|clean_predicted)",
    r"examples\[\d+\]\.(margin_lower|gain_upper|error_upper)",  # of an abstention
    r"gates\[\d+\]\.(name|claim|confidence)",  # claim and confidence play no part on an estimate
    r"falsifier\.(level|tried)",
]


@pytest.mark.parametrize("build", SAMPLES.values(), ids=SAMPLES)
def test_an_untouched_report_is_consistent(build):
    assert verify_report(build()) == ()
    assert verify_report(report_from_json(report_to_json(build()), name="report")) == ()


NUDGED = (lipschitz_mixed, smoothing_float_fixed, sequential_few)  # every day, beside flips of all


@pytest.mark.parametrize(
    "build, change",
    [
        *((build, flip) for build in EDITED),
        *(pytest.param(one, nudge, marks=[] if one in NUDGED else pytest.mark.slow) for one in EDITED),
    ],
    ids=lambda part: part.__name__,
)
def test_every_edited_leaf_is_found(build, change):
    plain = json.loads(report_to_json(build()))
    paths = [path for path in leaves(plain) if not NOT_RECORDED.match(path)]
    assert len(paths) > 50
    for path in paths:
        report = read(edited(plain, path, change))
        assert report is None or verify_report(report), path


@pytest.mark.parametrize("build", [smoothing_abstaining, smoothing_clean], ids=lambda build: build.__name__)
@pytest.mark.parametrize(
    "name", ["sigma", "n", "n0", "alpha", "procedure", "bound", "seed", "dtype", "float_noise", "price"]
)
def test_settings_of_smoothing_are_implied_by_its_numbers(build, name):
    plain = json.loads(report_to_json(build()))
    change = flip if name != "price" else lambda price: price * 100
    assert verify_report(seal(read(edited(plain, f"settings.{name}", change))))


def in_words_of_a_source(report):
    """The report with the words for its selection that reading a file gives, so that its places follow one another."""
    if not report.examples or report.data is UNSET:
        return report
    first, count = report.examples[0].index, len(report.examples) + len(unsampled_of(report))
    return seal(replace(report, data=replace(report.data, selection=f"rows {first}-{first + count - 1} of 10000")))


def test_an_edit_that_is_sealed_again_is_found_wherever_numbers_imply_it():
    """What stays unnoticed in some sample is excused by the list, and each line of the list excuses such an edit."""
    unnoticed = set()
    for build in EDITED:
        plain = json.loads(report_to_json(in_words_of_a_source(build())))
        for path in leaves(plain):
            report = read(edited(plain, path, flip))
            if report is not None and not verify_report(seal(report)):
                unnoticed.add(path)
    allowed = [re.compile(pattern) for pattern in (*DIGEST_ONLY, "digest")]
    hashed = {path for path in unnoticed if not NOT_RECORDED.match(path)}
    assert {path for path in hashed if not any(one.fullmatch(path) for one in allowed)} == set()
    for pattern in allowed:
        assert any(pattern.fullmatch(path) for path in unnoticed), pattern


# ---- one contradiction at a time -----------------------------------------------------------------------------------


def places(report):
    return {finding.where for finding in verify_report(seal(report))}


def with_example(report, place, **changes):
    rows = list(report.examples)
    rows[place] = replace(rows[place], **changes)
    return replace(report, examples=tuple(rows))


def test_one_float_more_of_radius_is_found():
    for report, place in ((smoothing_clean(), 3), (lipschitz_clean(), 3)):
        radius = math.nextafter(report.examples[place].radius, math.inf)
        assert f"examples[{place}].radius" in places(with_example(report, place, radius=radius))


def test_a_vote_moved_between_classes_moves_the_radius():
    report = smoothing_clean()
    counts = report.examples[95].counts
    moved = replace(counts, estimation=(counts.estimation[0] - 1, counts.estimation[1] + 1, 0, 0))
    assert "examples[95].radius" in places(with_example(report, 95, counts=moved))


def test_fewer_draws_than_the_plan_asks_for_are_found():
    report = smoothing_clean()
    counts = report.examples[0].counts
    fewer = replace(counts, estimation=(0, 128, 0, 0), n=128)
    assert "examples[0].counts.n" in places(with_example(report, 0, counts=fewer))


def test_draws_after_an_invalid_pilot_are_found():
    report = smoothing_abstaining()
    counts = replace(report.examples[4].counts, estimation=(0, 128, 0, 0), n=128)
    assert places(with_example(report, 4, counts=counts)) == {"examples[4].counts.n"}


def test_a_label_outside_the_classes_is_found():
    report = lipschitz_mixed()
    rows = (*report.examples[:2], replace(report.examples[2], label=3))
    assert "examples[2].label" in places(replace(report, examples=rows, data=data_record(rows)))


def test_values_of_another_type_differ():
    assert [str(finding) for finding in compare("a", 1, True)] == ["a: expected 1, found True"]
    assert list(compare("a", (1, 2), [1, 2])) == []


def test_negative_votes_are_found():
    report = smoothing_clean()
    counts = report.examples[0].counts
    votes = replace(counts, estimation=(-1, counts.n + 1, 0, 0))
    assert "examples[0].counts.estimation" in places(with_example(report, 0, counts=votes))


def test_a_radius_of_zero_is_an_abstention(monkeypatch):
    report = smoothing_report([0.5], settings=replace(SETTINGS, procedure="fixed"))
    monkeypatch.setattr(rederive_smoothing, "BOUNDS", {"two-interval": lambda *_: 0.0})
    assert verify_report(report) == ()


def test_the_predicted_class_is_that_of_the_pilot_with_ties_to_the_lowest():
    settings = replace(SETTINGS, procedure="fixed")
    report = smoothing_report([0.5], settings=settings)
    assert report.examples[0].counts.selection == (8, 8, 0, 0)
    assert verify_report(report) == ()
    assert "examples[0].predicted" in places(with_example(report, 0, predicted=1, correct=True, reason=UNSET))


def test_the_charge_on_alpha_cannot_be_dropped():
    report = smoothing_clean()
    free = replace(report, tables=replace(report.tables, alpha_charged=0.0))
    assert "tables.alpha_charged" in places(free)


def test_float_noise_cannot_pose_as_integer_noise():
    report = smoothing_float_fixed()
    posing = replace(report, tables=replace(noise_tables(report.settings), plan=None, plan_sha256=None))
    assert "tables.noise_law" in places(posing)


def test_the_words_of_the_noise_are_those_of_its_law():
    report = smoothing_clean()
    for words in ("float64 Gaussian noise added in float64 (not float-sound)", report.tables.noise.lower()):
        assert places(replace(report, tables=replace(report.tables, noise=words))) == {"tables.noise"}


@pytest.mark.parametrize("build", [smoothing_clean, lipschitz_mixed], ids=lambda build: build.__name__)
def test_the_selection_holds_the_examples(build):
    """Nothing was left out behind the first example, and there are no more than were asked for."""
    report = build()
    count = len(report.examples)
    moved = tuple(replace(example, index=example.index + 4) for example in report.examples)
    for skip, limit, found in (
        (4, count, set()),
        (5, None, {"settings.skip", "examples[0].index", "data.selection"}),
        (-1, None, {"settings.skip", "examples[0].index", "data.selection"}),
        (0, None, {"examples[0].index", "data.selection"}),
    ):
        settings = replace(report.settings, skip=skip, limit=limit)
        assert places(in_words_of_a_source(replace(report, examples=moved, settings=settings))) == found
    short = replace(report.settings, limit=count - 1)
    assert places(replace(report, settings=short)) == {"settings.limit"}


def test_an_unbounded_network_certifies_nothing():
    report = unbounded_with_data()
    sure = replace(lipschitz_example(1, 1.0), label=1)
    rows = (report.examples[0], sure, *report.examples[2:])
    assert "examples[1].radius" in places(replace(report, examples=rows, data=data_record(rows)))


def test_an_estimated_network_constant_certifies_nothing():
    rows = [lipschitz_example(0, 1.0)]
    assert verify_report(lipschitz_report(rows)) == ()
    report = lipschitz_report(rows, network=replace(BOUND, proved=False))
    assert "examples[0].radius" in {finding.where for finding in verify_report(report)}


@pytest.mark.parametrize("field", ["data_floor", "slope_floor", "lower"])
def test_a_slope_above_the_upper_bound_is_found(field):
    report = network_alone()
    assert places(replace(report, network=replace(report.network, **{field: 3.0})))


def test_a_report_that_was_broken_by_the_falsifier_is_found():
    report = lipschitz_clean()
    assert places(replace(report, falsifier=replace(report.falsifier, found=1))) == {"falsifier.found"}


def test_a_verdict_that_was_turned_is_found():
    report = lipschitz_mixed()
    turned = (replace(report.gates[0], verdict="passed"),)
    assert places(replace(report, gates=turned)) == {"gates[0].verdict"}


def test_examples_in_another_order_or_twice_are_found():
    report = lipschitz_mixed()
    rows = report.examples
    assert places(replace(report, examples=rows[::-1]))
    same_place = (*rows, replace(rows[-1], id="another"))
    assert "examples[3].index" in places(replace(report, examples=same_place, data=data_record(same_place)))
    same_name = (*rows, replace(rows[-1], index=7))
    assert "examples" in places(replace(report, examples=same_name, data=data_record(same_name)))


def test_a_difference_of_logits_that_never_changes_proves_every_radius():
    row = replace(lipschitz_example(0, 1.0), gain_upper=0.0)
    assert expected_radius(BOUND, row) == sys.float_info.max
    report = lipschitz_report([replace(row, radius=sys.float_info.max)])
    assert verify_report(report) == ()
    assert FORMATS["tsv"](report).splitlines()[1].split("\t")[3] == "1000000000000.000000"
    assert all(view(report) for view in FORMATS.values())


def test_a_gate_that_does_not_fit_the_report_is_a_finding_and_no_crash():
    report = lipschitz_linf()
    unfit = (replace(report.gates[0], metric="mean_radius"),)
    assert "gates" in places(replace(report, gates=unfit))


@pytest.mark.parametrize(
    "changes",
    [
        {"alpha": 0.0},
        {"alpha": 0.5},
        {"alpha": float("nan")},
        {"sigma": 0.0},
        {"sigma": -1.0},
        {"sigma": float("nan")},
        {"sigma": float("inf")},
        {"n": 0},
        {"n": 10**30},
        {"n0": 0},
        {"n0": 10**30},
        {"price": float("nan")},
    ],
    ids=str,
)
def test_settings_without_a_meaning_are_findings_and_no_crash(changes):
    report = smoothing_abstaining()
    broken = replace(report, settings=replace(report.settings, **changes), digest="")
    assert any(finding.where in ("examples", "tables.plan") for finding in findings_unsealed(broken))


def test_a_library_that_proves_no_bound_is_a_finding_and_no_crash(monkeypatch):
    settings = replace(SETTINGS, procedure="fixed", n=5, float_noise=True)
    report = smoothing_report([0.6], settings=settings, integer_noise=False)
    monkeypatch.setattr("scipy.special.betaincc", lambda *_: math.nan)
    with pytest.raises(SoundnessError):
        failure_upper(3, 5, 0.001)
    assert "examples" in places(report)


@pytest.mark.parametrize("half", ["\\ud800", "\\uDFFF", "\\udc00\\ud800"])
@pytest.mark.parametrize("text", ['"procedure": "planned"', '"noise": "gaussian"', '"schema":', '"norm": "l2"'])
def test_half_of_a_surrogate_pair_is_refused_wherever_it_stands(half, text):
    whole = report_to_json(smoothing_abstaining())
    assert text in whole
    with pytest.raises(InputError, match="surrogate"):
        report_from_json(whole.replace(text, f"{text[:-2]}{half}{text[-2:]}", 1), name="edited")


def test_two_escapes_that_make_one_character_are_read():
    whole = report_to_json(smoothing_abstaining()).replace("certify safetensors", "\\ud83d\\ude00", 1)
    assert report_from_json(whole, name="edited").model.source == "\U0001f600"


def findings_unsealed(report):
    """Return the findings of a report that may hold numbers its own JSON refuses."""
    from certify.report.verify import _attempt

    checks = (rederive_smoothing.check_tables, rederive_smoothing.check_examples)
    return [finding for check in checks for finding in _attempt("examples", check, report)]


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("field", ["margin_lower", "gain_upper", "error_upper"])
def test_numbers_that_are_not_finite_prove_no_radius(field, bad):
    row = replace(lipschitz_example(0, 1.0), **{field: bad})
    assert expected_radius(BOUND, row) == 0.0


def test_a_radius_is_never_above_the_exact_quotient():
    from fractions import Fraction

    for margin in (0.1, 1 / 3, 0.7, 5.0):
        for gain in (0.3, 1.0, 2.5, 7.1):
            row = lipschitz_example(0, margin, gain=gain)
            exact = (Fraction(margin) - Fraction(row.error_upper)) / Fraction(gain)
            assert exact * (1 - Fraction(1, 2**50)) < Fraction(expected_radius(BOUND, row)) <= exact


def test_gates_are_judged_again_from_what_they_asked():
    report = smoothing_clean()
    easier = replace(report.gates[0], threshold=0.5)
    assert {"gates[0].reason"} <= places(replace(report, gates=(easier, *report.gates[1:])))
    assert gate(0.1, 0.5).claim == "population"


@pytest.mark.parametrize(
    "words, found",
    [
        ("images 0-2 of 9", set()),
        ("all 3", set()),
        ("three of mine", set()),
        ("images 1-3 of 9", {"data.selection"}),
        ("images 0-2 of 2", {"data.selection"}),
        ("all 30", {"data.selection"}),
    ],
)
def test_places_named_in_the_words_for_the_selection_are_those_it_has(words, found):
    report = lipschitz_report([lipschitz_example(index, 1.0) for index in range(3)])
    assert places(replace(report, data=replace(report.data, selection=words))) == found


@pytest.mark.parametrize(
    "shares, holds", [((0.25, 0.75), True), ((0.0, 0.0), True), ((0.6, 0.6), False), ((-1, 2), False)]
)
def test_shares_of_a_growth_are_shares_of_one_whole(shares, holds):
    report = network_alone()
    layers = tuple(replace(layer, share=share) for layer, share in zip(report.layers[:2], shares, strict=True))
    assert places(replace(report, layers=layers)) == (set() if holds else {"layers.share"})


def test_the_arithmetic_that_ran_is_the_one_that_was_asked_for():
    for report in (smoothing_clean(), lipschitz_clean()):
        assert places(replace(report, tool=replace(report.tool, dtype="bfloat16"))) == {"tool.dtype"}
