# SPDX-License-Identifier: Apache-2.0
"""The tutorials' commands do what the pages say, on small data with the smallest budget.

A line ``<!-- ci: MORE -->`` stands before each block of a page; MORE is typed behind the block's command.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tools.bundles import keys_of
from tools.package import bundle_names

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^<!-- ci(?:: (?P<more>.*))? -->\n```bash\n(?P<command>.+)\n```$", re.MULTILINE)
NAMES = bundle_names()


def page(name: str) -> str:
    return (ROOT / "docs" / "tutorial" / f"{name}.md").read_text(encoding="utf-8")


def commands(name: str) -> list[str]:
    return [" ".join(filter(None, (block["command"], block["more"]))) for block in BLOCK.finditer(page(name))]


@pytest.mark.parametrize("name", NAMES)
def test_a_page_is_short_and_all_of_its_commands_are_run(name):
    text = page(name)
    assert len(commands(name)) == text.count("```bash") >= 7
    prose = re.sub(r"^```.*?^```|<!--.*?-->", "", text, flags=re.MULTILINE | re.DOTALL)
    assert 250 <= len(prose.split()) <= 500
    assert f"docs/tutorial/{name}.md" in (ROOT / "README.md").read_text(encoding="utf-8")
    assert f"docs/tutorial/{name}.md" in (ROOT / "bundles" / name / "docs" / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NAMES)
def test_keys_in_a_page_are_the_bundles(name):
    known = {key.name for key in keys_of(name)}
    runs = [shlex.split(command) for command in commands(name) if "monai.bundle run" in command]
    given = {word[2:] for words in runs for word in words if word.startswith("--")} - {"config_file"}
    assert given <= known and {"dataset_dir", "weights", "output_dir"} <= given


@pytest.mark.tutorial
def test_from_a_folder_of_scans_to_a_shared_bundle(tmp_path):
    with ThreadPoolExecutor(2) as pool:  # one for each core
        told = list(pool.map(lambda name: follow(name, tmp_path / name), NAMES))
    assert not any(told), "\n\n".join(filter(None, told))


def follow(name: str, folder: Path) -> str:
    """What went wrong in a page, in a folder of its own; "" where nothing did."""
    folder.mkdir()
    (folder / "bundles").symlink_to(ROOT / "bundles")
    programs = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for command in commands(name):
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", command],
            cwd=folder,
            env={**os.environ, "PATH": programs, "OMP_NUM_THREADS": "1"},
            capture_output=True,
            encoding="utf-8",
        )
        if done.returncode:
            return f"{command}\n{done.stdout[-2000:]}\n{done.stderr[-2000:]}"
    made = ["runs/first/report.html", "scores/*/report.html", "results/report.html", f"share/{name}.zip"]
    return ", ".join(f"{name}: no {what}" for what in made if not any((folder / "tutorial").glob(what)))
