"""Advice: leaves that fit, contradictions by name, prices with sources."""

from __future__ import annotations

import functools
import json
import random
import re
from pathlib import Path
from typing import Any

import pytest

from ppml_lab import __main__ as prompt
from ppml_lab.cli import experiments
from ppml_lab.lab import advice
from ppml_lab.lab.advice import computed, leaf, leaves, questions, template
from ppml_lab.lab.advice.leaf import Leaf
from ppml_lab.lab.explorer.query import Evidence

ROOT = Path(__file__).resolve().parents[2]
LEAVES = leaves.find()
MILLION = 1_000_000

SITUATIONS: dict[str, tuple[dict[str, Any], str, set[str], set[str]]] = {
    "a keyboard with a million phones": (
        {
            **{"pooled": "no", "trust": "sum", "split": "rows", "protect": "client"},
            **{"release": "updates", "kind": "devices", "bandwidth": "low"},
            **{"malicious": "no", "loss": "little", "participants": MILLION},
        },
        "secure_sum_central_dp",
        set(),
        {"silo_example_dp", "shares_training_dp", "local_dp", "few_units"},
    ),
    "a keyboard whose server is trusted, and whose phones come when they can": (
        {
            **{"pooled": "no", "trust": "server", "split": "rows", "protect": "client"},
            **{"release": "updates", "kind": "devices", "participants": MILLION},
        },
        "correlated_noise",
        {"federated_central_dp", "secure_sum_central_dp"},
        {"federated_alone", "federated_secure_sum"},
    ),
    "four hospitals": (
        {
            **{"pooled": "no", "trust": "sum", "split": "rows", "protect": "example"},
            **{"release": "model", "kind": "silos", "loss": "little"},
            **{"malicious": "no", "participants": 4, "auditor": "external"},
        },
        "silo_example_dp",
        {"shares_training_dp", "alone", "silo_own_dp"},
        {"federated_central_dp", "secure_sum_central_dp", "federated_secure_sum"},
    ),
    "four hospitals who trust nobody": (
        {
            **{"pooled": "no", "trust": "nobody", "split": "rows"},
            **{"protect": "example", "release": "model", "kind": "silos"},
            "participants": 4,
        },
        "silo_own_dp",
        {"alone"},
        {"silo_example_dp", "shares_training_dp", "local_dp"},
    ),
    "two banks with the same customers": (
        {
            **{"pooled": "no", "trust": "parties", "split": "columns"},
            **{"protect": "example", "release": "model", "kind": "silos"},
            "participants": 2,
        },
        "shares_training_dp",
        {"columns_elsewhere", "alone"},
        {"silo_example_dp", "federated_alone", "shares_training"},
    ),
    "a statistics office": (
        {
            **{"pooled": "yes", "trust": "server", "protect": "example"},
            **{"release": "statistics", "auditor": "external"},
        },
        "noised_statistics",
        set(),
        {"central_dp", "computing_on_shares"},
    ),
    "a factory's five sites": (
        {
            **{"pooled": "no", "trust": "server", "split": "rows", "protect": "none"},
            **{"release": "model", "kind": "silos", "data": "personal"},
            **{"malicious": "no", "loss": "none", "participants": 5},
        },
        "federated_secure_sum",
        {"federated_alone", "personal_models"},
        {"federated_central_dp", "local_dp", "robust_rules"},
    ),
    "a ward's 42 patients": (
        {
            **{"pooled": "yes", "trust": "server", "protect": "example"},
            **{"release": "model", "participants": 1, "rows": 42, "epsilon": 1.0},
            **{"dimension": 10, "rounds": 30},
        },
        "central_dp",
        set(),
        {"federated_alone", "local_dp", "central_plain"},
    ),
    "a survey of phones whose makers nobody trusts": (
        {
            **{"pooled": "no", "trust": "nobody", "split": "rows"},
            **{"protect": "client", "release": "statistics", "kind": "devices"},
            **{"loss": "much", "participants": MILLION},
        },
        "local_dp",
        {"shuffled"},
        {"noised_statistics", "computing_on_shares"},
    ),
    "fifty competitors, some of whom may poison": (
        {
            **{"pooled": "no", "trust": "server", "split": "rows", "protect": "none"},
            **{"release": "model", "kind": "silos", "malicious": "yes"},
            "participants": 50,
        },
        "federated_alone",
        {"robust_rules", "alone"},
        {"federated_central_dp"},
    ),
    "five clinics who want to hide that they take part": (
        {
            **{"pooled": "no", "trust": "server", "split": "rows"},
            **{"protect": "organisation", "release": "model", "participants": 5},
        },
        "alone",
        {"few_units"},
        {"federated_central_dp", "secure_sum_central_dp", "local_dp"},
    ),
    "a model that others may ask, and not see": (
        {
            **{"pooled": "no", "trust": "parties", "protect": "example"},
            **{"release": "predictions", "participants": 3},
        },
        "shares_training_dp",
        {"inference_on_shares"},
        {"silo_example_dp", "shares_training"},
    ),
    "a start-up that wants synthetic rows": (
        {"pooled": "yes", "release": "synthetic", "protect": "example"},
        "synthetic_data",
        set(),
        {"central_dp", "noised_statistics"},
    ),
}


def told(situation: dict[str, Any]) -> advice.Answers:
    numbers = {k: v for k, v in situation.items() if k in advice.Numbers._fields}
    chosen = {k: v for k, v in situation.items() if k not in numbers}
    return advice.Answers(chosen, advice.Numbers(**numbers))


@pytest.mark.parametrize("name", SITUATIONS)
def test_situations(name: str) -> None:
    situation, first, among, never = SITUATIONS[name]
    found = advice.advise(told(situation))
    names = [one.name for one in found.fits]
    assert names[0] == first
    assert among <= {*names}
    assert not never & {*names}
    assert first == "synthetic_data" or not found.relax
    for one in found.fits:
        assert contradiction(one.leaf, one.name, found.answers) is None


def test_a_ward_is_told_how_large_its_noise_is() -> None:
    found = advice.advise(told(SITUATIONS["a ward's 42 patients"][0]))
    shown = advice.rendered(found.fits[0], found.answers, Evidence.committed())
    ratio = {one["what"]: one["value"] for one in shown["computed"]}
    assert ratio["noise over signal in a round"] > 0.9
    assert "commit" in shown["measured"][0]
    assert "seeds" in shown["measured"][0]


def test_where_no_pattern_fits_it_says_which_answer_to_give_up() -> None:
    found = advice.advise(
        told({"pooled": "yes", "release": "synthetic", "protect": "example"})
    )
    assert "Central training + DP" in found.relax["release synthetic"]
    assert {one.leaf.role for one in found.fits} == {"not here"}


MAY_SEE = {
    "server": {"rows", "updates", "sum", "shares", "noised", "nothing"},
    "sum": {"sum", "shares", "noised", "nothing"},
    "parties": {"shares", "noised", "nothing"},
    "nobody": {"noised", "nothing"},
}


def contradiction(one: Leaf, name: str, answers: advice.Answers) -> str | None:
    """Which answer a leaf contradicts, by other rules than its own needs."""
    said = answers.chosen
    if one.role == "not here":
        return None
    if one.shows not in MAY_SEE[said.get("trust", "server")]:
        return "trust"
    if said.get("pooled") == "no" and one.shows == "rows":
        return "pooled"
    protect = said.get("protect")
    if protect and one.role == "pattern" and protect not in one.units:
        return "protect"
    is_statistic = "statistics" in name
    release = said.get("release")
    if release == "synthetic" or (is_statistic and release not in (None, "statistics")):
        return "release"
    if release == "statistics" and not (
        is_statistic or name in ("local_dp", "computing_on_shares")
    ):
        return "release"
    federated = {"federated_alone", "federated_secure_sum", "federated_central_dp"}
    federated |= {"secure_sum_central_dp", "silo_example_dp", "silo_own_dp"}
    federated |= {"local_dp", "correlated_noise", "personal_models", "robust_rules"}
    if said.get("split") == "columns" and name in federated:
        return "split"
    if said.get("loss") == "none" and name in ("local_dp", "silo_own_dp"):
        return "loss"
    if said.get("malicious") == "no" and name == "robust_rules":
        return "malicious"
    if said.get("data") == "alike" and name == "personal_models":
        return "data"
    count = answers.numbers.participants
    by_noise = {"federated_central_dp", "secure_sum_central_dp", "correlated_noise"}
    if count is not None and count < 20 and name in by_noise:
        return "participants"
    return None


def test_a_thousand_random_answers() -> None:
    rng = random.Random(0)
    refused = fitted = 0
    for _ in range(1000):
        chosen = {
            question.name: rng.choice([*question.answers])
            for question in advice.QUESTIONS
            if question.answers and rng.random() < 0.7
        }
        count = rng.choice([None, 2, 4, 19, 20, 500, 1000, MILLION])
        answers = advice.Answers(chosen, advice.Numbers(participants=count))
        pairs = [
            conflict
            for conflict in questions.CONFLICTS
            if conflict.one in chosen.items() and conflict.other in chosen.items()
        ]
        if pairs:
            refused += 1
            with pytest.raises(ValueError, match="contradict each other") as error:
                advice.advise(answers)
            one, other, why = pairs[0]
            assert " ".join(one) in str(error.value)
            assert " ".join(other) in str(error.value)
            assert why in str(error.value)
            continue
        fitted += 1
        found = advice.advise(answers)
        assert found.fits, chosen
        for one in found.fits:
            wrong = contradiction(one.leaf, one.name, answers)
            assert wrong is None, (one.name, wrong, chosen)
        if not any(one.leaf.role == "pattern" for one in found.fits):
            assert found.relax or len(chosen) > 4, chosen
    assert refused > 100
    assert fitted > 300


@pytest.mark.parametrize(
    ("situation", "said"),
    [
        ({"cohort": 5, "participants": 4}, "cohort 5 and participants 4 contradict"),
        ({"participants": 9, "rows": 8}, "participants 9 and rows 8 contradict"),
        ({"protect": "none", "epsilon": 2.0}, "epsilon 2 and protect none contradict"),
        ({"protect": "persn"}, "protect must be one of none, example"),
        ({"pool": "no"}, "there is no question 'pool' .did you mean 'pooled'"),
        ({"participants": 0}, "participants must be an integer of at least 1"),
        ({"delta": 1.0}, "delta must lie in"),
    ],
)
def test_bad_answers(situation: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        advice.advise(told(situation))


def test_at_most_twelve_questions_as_plain_data() -> None:
    assert len(advice.QUESTIONS) <= 12
    plain = json.loads(json.dumps(questions.as_json()))
    assert [q["name"] for q in plain["questions"]][:2] == ["pooled", "trust"]
    for one in LEAVES.values():
        json.dumps(one._asdict())


def test_a_leaf_is_a_file_and_its_words_are_questions() -> None:
    folder = ROOT / "ppml_lab" / "lab" / "advice" / "leaves"
    assert {*LEAVES} == {path.stem for path in folder.glob("[!_]*.py")}
    known = {q.name: {*q.answers} for q in advice.QUESTIONS}
    for name, one in LEAVES.items():
        cautions = [c.answers for c in (*one.cautions, *one.ruled_out)]
        for needed in (one.needs, *cautions):
            for question, answers in needed.items():
                assert {*answers} <= known[question], (name, question)
        assert {*one.reasons} <= {*known}, name
        assert {*one.units} <= known["protect"], name
        assert {*one.computed} <= {*computed.KINDS}, name


def test_every_leaf_says_against_whom_and_whether_it_is_measured() -> None:
    whom = re.compile(r"against|Against|Nobody|Nothing is promised|a minority")
    evidence = Evidence.committed()
    for name, one in LEAVES.items():
        assert whom.search(one.against), name
        for text in one.measured:
            shown = template.statement(text, evidence)
            assert "commit " in shown or "ot measured" in shown, (name, shown)
        assert one.not_protected, name
        assert one.attack, name


def prose(text: str) -> str:
    """A text without its queries and without names of code."""
    return re.sub(r"`[^`]*`", "", template.PLACE.sub("", text))


def test_no_digit_of_a_leaf_is_outside_of_a_query() -> None:
    for name, one in LEAVES.items():
        texts = [*one.measured, *one.reasons.values()]
        texts += [one.title, one.what, one.against, one.not_protected, one.attack]
        texts += [one.production, one.roles]
        texts += [c.why for c in (*one.cautions, *one.ruled_out)]
        for text in texts:
            assert not re.search(r"\d", prose(text)), (name, text)
    for question in advice.QUESTIONS:
        for text in (question.text, *question.answers.values()):
            assert not re.search(r"\d", text)


def test_every_next_command_exists(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    called: list[str] = []

    def unrun(name: str, function: Any) -> Any:
        @functools.wraps(function)
        def instead(*args: Any, **kwargs: Any) -> None:
            called.append(name)

        return instead

    for name, function in prompt.COMMANDS.items():
        monkeypatch.setitem(prompt.COMMANDS, name, unrun(name, function))
    numbers = advice.Numbers(MILLION, 1000, 10**8, 10**6, 0.5, 1e-9, 7)
    parsed: set[str] = set()
    for name, one in LEAVES.items():
        for answers in (advice.Answers({}), advice.Answers({}, numbers)):
            for line in leaf.commands(one, answers):
                python, flag, module, *args = line.split()
                assert (python, flag) == ("python", "-m")
                if module == "ppml_lab":
                    if line not in parsed:
                        assert prompt.main(args) == 0, line
                        assert called.pop() == args[0]
                    parsed.add(line)
                    if args[0] == "show":
                        table = args[1].replace("/paper_fashion", "")
                        assert (ROOT / "results" / table).is_dir()
                    continue
                stem = module.removeprefix("experiments.")
                (config,) = args
                assert config in experiments.configurations(experiments.find()[stem])
        assert one.commands, name


def test_what_is_computed_agrees_with_the_commands(
    capsys: pytest.CaptureFixture[str],
) -> None:
    noise = computed.multiplier(1.0, 50, 2.0, 1e-4)
    args = "calibrate --target-epsilon 2 --sampling-prob 1 --num-steps 50 --delta"
    assert prompt.main([*args.split(), "1e-4", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert noise == pytest.approx(found["pld"], rel=2e-3)
    numbers = advice.Numbers(participants=1000, dimension=500, rounds=3)
    values, missing = computed.all_of(("secure sums", "noise for rows"), numbers)
    assert missing == "--rows --epsilon"
    args = "cost --num-clients 1000 --dimension 500 --corrupt-share 0.1"
    assert prompt.main([*args.split(), "--num-dropped", "100", "--json"]) == 0
    rows = {r["protocol"]: r for r in json.loads(capsys.readouterr().out)}
    by_name = {one.what: one.value for one in values}
    sent = by_name["pairwise masks: a participant sends"]
    assert sent == 3 * rows["pairwise masking, k-regular"]["uplink_bytes"]
    sent = by_name["shares among 3 servers: a participant sends"]
    assert sent == 3 * rows["additive sharing"]["uplink_bytes"]


def test_steps_on_shares_are_extrapolated_along_their_line() -> None:
    small, waits = computed._step(50, 20)
    larger, _ = computed._step(20_000, 20)
    assert waits == 30
    assert larger / small == pytest.approx(20_000 / 50, rel=0.2)
    assert larger == pytest.approx(2 * computed._step(10_000, 20)[0], rel=0.01)
