# SPDX-License-Identifier: Apache-2.0
"""What is written on the command line means what it says."""

import fire
import pytest
import torch
from monai.bundle import ConfigParser

from common.errors import InputError
from common.utils.values import boolean, choice, choose_budget, device_of, number, optional, quantity, triple, value


def given(*arguments):
    """What ``python -m monai.bundle run --key text`` hands to a config: fire's parse, then the parser's."""
    taken = {}
    fire.Fire(lambda **keys: taken.update(keys), command=list(arguments))
    parser = ConfigParser({"key": "default"})
    parser.update(taken)
    return parser.get_parsed_content("key")


WORDS = [
    ("true", True), ("True", True), ("TRUE", True), ("yes", True), ("on", True), ("1", True),
    ("false", False), ("False", False), ("FALSE", False), ("no", False), ("off", False), ("0", False),
    ("null", False), ("None", False), ("none", False),
]  # fmt: skip


@pytest.mark.parametrize(("word", "meaning"), WORDS)
@pytest.mark.parametrize("form", ["two words", "equals", "quoted"])
def test_every_word_for_a_switch_is_understood(word, meaning, form):
    arguments = {"two words": ["--key", word], "equals": [f"--key={word}"], "quoted": [f"--key='{word}'"]}[form]
    assert boolean(given(*arguments)) is meaning


def test_a_bare_switch_is_true():
    assert boolean(given("--key")) is True


@pytest.mark.parametrize("word", ["maybe", "2", "-1", "[1]", "truee", "0.5"])
def test_another_word_for_a_switch_is_refused(word):
    with pytest.raises(InputError, match="expected true or false"):
        boolean(given("--key", word))


def test_a_choice_is_one_of_a_few_values():
    assert choice("9", "views", [1, 9]) == choice(9.0, "views", [1, 9]) == 9
    assert choice(" vgg16", "network", ["vgg16", "vgg19"]) == "vgg16"
    for wrong in (5, True, "nine", [1], None):
        with pytest.raises(InputError, match=r"^views must be 1 or 9; got "):
            choice(wrong, "views", [1, 9])


@pytest.mark.parametrize("word", ["null", "None", "none", "NULL", "''", ""])
def test_nothing_is_none(word):
    assert optional(given(f"--key={word}")) in (None, "''")
    assert value(given(f"--key={word}")) in (None, "")


@pytest.mark.parametrize("text", ["t1n", "run-1", "1_0", "007", "/data/my scans", "1e3x", "a,b", "2024-01-02", "~/x"])
def test_a_name_stays_as_it_was_written(text):
    assert optional(given("--key", f'"{text}"')) == text
    assert optional(text) == text and optional(f" {text} ") == text


@pytest.mark.parametrize("text", ["no", "off", "1_0", "1.50", "007"])
def test_a_name_that_looks_like_a_word_or_a_number_is_still_a_name(text):
    assert optional(text) == text


def test_a_number_as_a_name_is_text_again():
    assert optional(given("--key", "7")) == "7"


def test_numbers_and_lists_have_their_values():
    assert value(given("--key", "0")) == 0 and value("0") == 0
    assert value(given("--key", "1e-4")) == value("1e-4") == 1e-4
    assert value(given("--key", "[1,1,2]")) == value("[1, 1, 2]") == [1, 1, 2]
    assert value(given("--key", "[[2,2,2],[3,3,3]]")) == [[2, 2, 2], [3, 3, 3]]
    assert value(given("--key", '["t2w","t2f"]')) == ["t2w", "t2f"]
    assert value(given("--key", "[t2w,t2f]")) == ["t2w", "t2f"]
    assert value(3.5) == 3.5 and value(None) is None


@pytest.mark.parametrize("text", ["2", "2.0", "2e0", " 2 "])
def test_a_number_is_a_float(text):
    found = number(given("--key", text))
    assert found == number(text) == 2.0 and isinstance(found, float)


@pytest.mark.parametrize("text", ["true", "no", "null", "much", "[2]", "1e999", "nan", ""])
def test_what_is_no_number_is_none(text):
    assert number(given(f"--key={text}")) is None and number(value(text)) is None


@pytest.mark.parametrize("text", ["{[]:1}", "[" * 300, "[" * 99_999])
def test_brackets_that_make_no_value_are_text(text):
    assert value(text) == text and number(text) is None


@pytest.mark.parametrize("plain", [True, False, None, float("nan"), float("-inf"), [1.0], 1j, 10**400])
def test_values_that_are_no_finite_numbers_are_none(plain):
    assert number(plain) is None


@pytest.mark.parametrize("text", ["[1,1,2]", "(1,1,2)", "1,1,2", "[1, 1, 2.0]", '"[1,1,2]"'])
def test_three_numbers_for_three_axes(text):
    assert triple(given("--key", text), "scale") == (1.0, 1.0, 2.0)


def test_one_number_counts_for_all_axes_and_null_for_none():
    assert triple(given("--key", "1.5"), "spacing") == triple("1.5", "spacing") == (1.5,) * 3
    assert triple(given("--key", "null"), "spacing") is None


@pytest.mark.parametrize(
    "text", ["[1,1]", "[1,1,0]", "-2", "[1,1,-1]", "[a,b,c]", "fine", "[1,1,1,1]", "1e999", "true"]
)
def test_what_is_no_three_positive_numbers_is_refused_by_name(text):
    with pytest.raises(InputError, match=r"^spacing must be one or three positive numbers"):
        triple(given(f"--key={text}"), "spacing")


def test_a_key_without_its_number_is_refused():
    with pytest.raises(InputError):  # fire makes it True, which Python counts as 1
        triple(given("--key"), "spacing")


@pytest.mark.parametrize(
    ("text", "bounds", "expected"),
    [
        ("3", {"whole": True}, 3),
        ("3.0", {"whole": True}, 3),
        ("0.5", {"least": 0, "most": 1}, 0.5),
        ("-1", {}, -1.0),
        ("null", {"empty": True}, None),
        ("0", {"least": 0, "empty": True}, 0.0),
    ],
)
def test_a_number_within_its_bounds(text, bounds, expected):
    found = quantity(given(f"--key={text}"), "margin", **bounds)
    assert found == expected and type(found) is type(expected)


@pytest.mark.parametrize(
    ("text", "bounds", "reason"),
    [
        ("x", {}, "margin must be a number; got 'x'"),
        ("null", {"least": 0}, "margin must be a number from 0; got None"),
        ("1.5", {"whole": True, "empty": True}, "margin must be a whole number or null; got 1.5"),
        ("-3", {"least": 0, "whole": True}, "margin must be a whole number from 0; got -3"),
        ("2", {"least": 0, "most": 1}, "margin must be a number from 0 up to 1; got 2"),
    ],
)
def test_a_number_that_cannot_be_is_refused_by_name(text, bounds, reason):
    with pytest.raises(InputError) as error:
        quantity(value(given(f"--key={text}")), "margin", **bounds)
    assert str(error.value) == reason


def test_devices():
    assert device_of("cpu") == device_of(torch.device("cpu")) == torch.device("cpu")


BUDGETS = {name: {"epochs": n} for n, name in enumerate(("paper", "short", "sample"))}


@pytest.mark.parametrize(
    ("name", "folder", "device", "expected"),
    [
        (None, None, "cpu", "sample"),
        ("null", "null", "cuda", "sample"),
        (None, "/data", "cpu", "short"),
        (None, "/data", torch.device("cuda:0"), "paper"),
        ("paper", None, "cpu", "paper"),
        ("sample", "/data", "cuda", "sample"),
    ],
)
def test_the_budget_fits_data_and_device_unless_named(name, folder, device, expected):
    chosen = choose_budget(BUDGETS, name, folder, device)
    assert chosen == {**BUDGETS[expected], "name": expected}
    assert "name" not in BUDGETS[expected]


def test_an_unknown_budget_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"^budget 'huge' is unknown; choose one of paper, short, sample$"):
        choose_budget(BUDGETS, "huge", None, "cpu")
