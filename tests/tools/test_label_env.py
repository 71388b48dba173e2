# SPDX-License-Identifier: Apache-2.0
"""Keys of the served copies; the server itself is tested in tests/monailabel."""

import json

import pytest

from tools.label_env import change_keys, label_env, main, start_command


@pytest.fixture
def config(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps({"budget": None, "budgets": {"short": {"epochs": 8}}}), encoding="utf-8")
    return path


def test_keys_and_keys_within_keys_change(config):
    change_keys([(config, {"budget": "short", "budgets::short::epochs": 2})])
    assert json.loads(config.read_text(encoding="utf-8")) == {"budget": "short", "budgets": {"short": {"epochs": 2}}}


@pytest.mark.parametrize("key", ["buget", "budgets::long::epochs", "budget::epochs"])
def test_an_unknown_key_is_named_and_all_files_stay(config, tmp_path, key):
    before = config.read_bytes()
    other = tmp_path / "other.json"
    other.write_bytes(before)
    with pytest.raises(ValueError, match=rf"train\.json has no key {key}"):
        change_keys([(other, {"budget": "short"}), (config, {"budget": "short", key: 1})])
    assert config.read_bytes() == other.read_bytes() == before


def test_what_label_env_cannot_do_is_said_before_anything_is_made(tmp_path):
    env, app = tmp_path / "env", tmp_path / "app"
    with pytest.raises(ValueError, match="no bundle is called nobody"):
        label_env(env, app, names=["nobody"])
    with pytest.raises(ValueError, match="keys to change look like"):
        label_env(env, app, train="short")
    assert not list(tmp_path.iterdir())


def test_the_server_listens_on_this_machine_alone(tmp_path):
    words = start_command(tmp_path / "python", tmp_path, tmp_path, ["a", "b"])
    assert words[words.index("--host") + 1] == "127.0.0.1"
    assert "a,b" in words


def test_keys_on_the_command_line(monkeypatch):
    got = {}
    monkeypatch.setattr("tools.label_env.label_env", lambda **words: got.update(words))
    words = ["--names", "[a,b]", "--train", "{budget: short, num_workers: 2}", "--inference", '{"a::b": [1, 2]}']
    monkeypatch.setattr("sys.argv", ["label_env", *words])
    main()
    assert got == {
        "names": ["a", "b"],
        "train": {"budget": "short", "num_workers": 2},
        "inference": {"a::b": [1, 2]},
    }
