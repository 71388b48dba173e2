# SPDX-License-Identifier: Apache-2.0
"""Keys are checked and made plain before anything in a configuration is resolved."""

import json
import sys
from pathlib import Path

import pytest
from monai.bundle import ConfigParser
from monai.bundle import run as monai_run

from common.engine import Recipe, bundle_root, edges, flag, name, names, number, path, pick, scales, triple, whole
from common.engine.keys import SEED
from common.errors import InputError
from common.io.inputs import root_cause

CONFIG = {
    "imports": ["$import common"],
    "folder": None,
    "pattern": "**/*.nii*",
    "guides": [],
    "share": 0.5,
    "count": 3,
    "turn": True,
    "spacing": None,
    "scales": None,
    "kind": None,
    "output": "$'made' + '/here'",
    "budget": None,
    "epochs": None,
    "learning_rate": None,
    "from_scratch": False,
    "dataset_dir": None,
    "budgets": {
        "short": {"epochs": 3, "learning_rate": 0.1, "fine_tuning_rate": 0.01, "network": {"layers": 2}},
        "sample": {"epochs": 1, "learning_rate": 0.2, "fine_tuning_rate": 0.02},
    },
    "objective": "plain",
    "weight": None,
    "objectives": {"plain": {"weight": 0.5}, "other": {"weight": 2}},
    "patch_size": None,
    "own": "$@turn",
}


@pytest.fixture
def recipe(tmp_path, monkeypatch):
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "train.json").write_text(json.dumps({**CONFIG, "item": {}}), encoding="utf-8")
    made = Recipe(
        str(tmp_path / "a_lib" / "recipe.py"),
        path("folder", "a folder"),
        path("output", "where to"),
        path("dataset_dir", "data"),
        name("pattern", "files"),
        names("guides", "guides"),
        number("share", "a share", 0, 1),
        whole("count", "a count", 0),
        flag("turn", "turn"),
        triple("spacing", "in mm"),
        scales("scales", "factors"),
        pick("kind", "a kind", (None, "a", "b")),
        pick("budget", "a budget", (None, "short", "sample")),
        whole("epochs", "epochs", 1, empty=True),
        number("learning_rate", "rate", 0, empty=True),
        flag("from_scratch", "random weights"),
        pick("objective", "which one", ("plain", "other")),
        number("weight", "a weight", 0, empty=True),
        edges("patch_size", "a patch", 4),
        settings=("spacing", "weight", "turn", "unused"),
    )
    module = type(sys)("a_recipe")
    module.RECIPE = made
    monkeypatch.setitem(sys.modules, "a_recipe", module)
    return made


def resolved(wanted, **keys):
    """An item of the configuration after the keys were prepared."""
    content = {**json.loads(json.dumps(CONFIG)), "keys": "$__import__('a_recipe').RECIPE.prepare()", **keys}
    content["item"] = {"_target_": "builtins.dict", "_requires_": "@keys", "value": f"@{wanted}"}
    return ConfigParser(content).get_parsed_content("item")["value"]


def test_a_key_that_was_resolved_before_keeps_its_value(recipe):
    content = {**json.loads(json.dumps(CONFIG)), "keys": "$__import__('a_recipe').RECIPE.prepare()"}
    parser = ConfigParser({**content, "item": {"_target_": "builtins.dict", "_requires_": "@keys"}})
    assert parser.get_parsed_content("output") == "made/here"
    parser.get_parsed_content("item")
    assert parser.get_parsed_content("output") == "made/here"


def refused(**keys):
    with pytest.raises(Exception) as caught:
        resolved("turn", **keys)
    line = str(root_cause(caught.value))
    assert "\n" not in line
    return line


@pytest.mark.parametrize(
    ("key", "given", "plain"),
    [
        ("turn", "false", False),
        ("turn", "1", True),
        ("share", "0.25", 0.25),
        ("count", "7", 7),
        ("guides", "['t2w', 't2f']", ["t2w", "t2f"]),
        ("guides", "t2w", ["t2w"]),
        ("guides", None, []),
        ("spacing", "2", (2.0, 2.0, 2.0)),
        ("scales", "[[2,2,2],[1,1,4]]", [[2.0, 2.0, 2.0], [1.0, 1.0, 4.0]]),
        ("scales", "null", None),
        ("folder", "none", None),
        ("folder", "./$odd", "./$odd"),
        ("kind", "b", "b"),
        ("patch_size", "8", [8, 8, 8]),
        ("patch_size", "[8, 9, 4]", [8, 9, 4]),
    ],
)
def test_texts_become_plain_values_for_every_reference(recipe, key, given, plain):
    assert resolved(key, **{key: given}) == plain


@pytest.mark.parametrize(
    ("keys", "told"),
    [
        ({"dataset_dri": "x"}, "there is no key dataset_dri; do you mean dataset_dir?"),
        ({"coutn": 3}, "do you mean count?"),
        ({"share": 2}, "share must be a number from 0 up to 1"),
        ({"count": "many"}, "count must be a whole number"),
        ({"turn": "perhaps"}, "turn: expected true or false"),
        ({"kind": "c"}, "kind must be"),
        ({"spacing": "[1,2]"}, "spacing must be one or three positive numbers"),
        ({"scales": [[2, 2, 2], None]}, "scales must name factors"),
        ({"scales": "3 or so"}, "scales must be a list"),
        ({"budget": "huge"}, "budget must be"),
        ({"patch_size": 3}, "patch_size must be one or three whole numbers of at least 4"),
        ({"patch_size": 8.5}, "patch_size must be"),
        ({"patch_size": "[8,8]"}, "patch_size must be"),
    ],
)
def test_what_cannot_be_is_one_line(recipe, keys, told):
    assert told in refused(**keys)


@pytest.mark.parametrize("text", ["$__import__('os').abort()", "@count"])
@pytest.mark.parametrize("key", ["folder", "pattern", "output"])
def test_texts_that_monai_would_evaluate_are_no_names(recipe, key, text):
    assert f"write ./{text} for a file" in refused(**{key: text})


@pytest.mark.parametrize("given", [["$__import__('os').abort()"], ["t2w", "@count"], [["@count"]]])
def test_nor_in_lists(recipe, given):
    assert "which MONAI would evaluate" in refused(guides=given)


@pytest.mark.parametrize(
    ("key", "given"), [("folder", "%{}::a"), ("guides", "%{}::a"), ("pattern", "%kind"), ("folder", "%{}::odd")]
)
def test_macros_on_the_command_line_are_no_names(recipe, tmp_path, key, given):
    other = tmp_path / "other.json"
    other.write_text(json.dumps({"a": "scans", "odd": "$__import__('os').abort()"}), encoding="utf-8")
    content = {**CONFIG, "keys": "$__import__('a_recipe').RECIPE.prepare()", "initialize": "$@keys", "run": "$@keys"}
    (tmp_path / "own.json").write_text(json.dumps(content), encoding="utf-8")
    given = json.loads(json.dumps(given).replace("{}", str(other)))
    with pytest.raises(Exception) as caught:
        monai_run(config_file=str(tmp_path / "own.json"), logging_file=False, meta_file=[], **{key: given})
    assert f"{key} begins with %, which MONAI would evaluate; write ./%" in str(root_cause(caught.value))


def test_expressions_of_the_bundles_own_configurations_stay(recipe):
    assert resolved("output") == "made/here"


def test_what_is_resolved_before_the_keys_stays_so(recipe):
    """As MONAI's check of properties does."""
    content = {**json.loads(json.dumps(CONFIG)), "keys": "$__import__('a_recipe').RECIPE.prepare()"}
    parser = ConfigParser({**content, "item": {"_target_": "builtins.dict", "_requires_": "@keys", "value": "@output"}})
    assert parser.get_parsed_content("output") == "made/here"
    assert parser.get_parsed_content("item")["value"] == "made/here"


def test_a_key_that_something_refers_to_is_no_misspelling(recipe):
    assert resolved("more", more=5) == 5


def test_a_budget_fills_in_what_is_null(recipe):
    assert resolved("epochs") == 1  # the sample data
    assert resolved("epochs", budget="short") == 3
    assert resolved("epochs", budget="short", epochs=9) == 9
    assert resolved("learning_rate") == 0.02
    assert resolved("learning_rate", from_scratch="true") == 0.2
    assert resolved("keys", budget="short")["network"] == {"layers": 2}
    assert resolved("keys", budget="short")["config"]["budget"] == "short"


def test_other_tables_of_values_fill_in_too(recipe):
    assert resolved("weight") == 0.5
    assert resolved("weight", objective="other") == 2
    assert resolved("weight", objective="other", weight=0) == 0


def test_the_bundles_folder_is_the_one_that_is_worked_in(tmp_path, monkeypatch):
    library = type(sys)("a_lib")
    library.__file__ = str(tmp_path / "elsewhere" / "a_lib" / "__init__.py")
    monkeypatch.chdir(tmp_path)
    assert bundle_root(library) == str((tmp_path / "elsewhere").resolve())
    (tmp_path / "bundles" / "a" / "a_lib").mkdir(parents=True)
    (tmp_path / "bundles" / "a" / "a_lib" / "recipe.py").touch()
    assert bundle_root(library) == str(Path("bundles") / "a")
    monkeypatch.chdir(tmp_path / "bundles" / "a")
    assert bundle_root(library) == "."


def test_the_record_names_no_folder_of_this_machine(recipe, tmp_path):
    kept = recipe.record({**CONFIG, "folder": str(tmp_path / "scans"), "dataset_dir": "relative/scans"})
    assert kept["folder"] == "scans" and kept["dataset_dir"] == "relative/scans"
    assert kept["output"] == CONFIG["output"]


def test_outside_a_configuration_there_is_nothing_to_prepare(recipe):
    with pytest.raises(RuntimeError, match="expression in a configuration"):
        recipe.prepare()


def test_a_seed_that_torch_cannot_take_is_refused():
    assert SEED.plain("4294967295") == 2**32 - 1
    with pytest.raises(InputError, match=r"^seed must be a whole number from 0 up to 4\.29497e\+09; got '1e30'"):
        SEED.plain("1e30")


@pytest.mark.parametrize("turn", ["false", "$@count > 9"])
def test_settings_of_a_result_are_plain_values(recipe, turn):
    keys = resolved("keys", spacing="[1,1,2]", turn=turn)
    assert keys["settings"] == {"spacing": (1.0, 1.0, 2.0), "weight": 0.5, "turn": False}
