# SPDX-License-Identifier: Apache-2.0
"""A package of the same name, or of another version, is named in the first line instead of failing somewhere later."""

import os
import subprocess
import sys

import pytest

from tools.package import bundle_names


@pytest.mark.parametrize("content", ["", '__bundle_collection__ = "restoration-bundles 0.1"'])
def test_another_package_called_common_is_named(tmp_path, content):
    (tmp_path / "common").mkdir()
    (tmp_path / "common" / "__init__.py").write_text(content, encoding="utf-8")
    tries = "\n".join(
        f"""
try:
    import {name}_lib
except ImportError as error:
    print(error)
"""
        for name in bundle_names()
    )
    path = os.pathsep.join([str(tmp_path), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", tries],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": path},
        capture_output=True,
        text=True,
    )
    lines = done.stdout.splitlines()
    assert done.returncode == 0 and len(lines) == len(bundle_names()), done.stderr
    for name, line in zip(bundle_names(), lines, strict=True):
        assert line.startswith(f"{name} needs the package 'common'") and line.endswith(str(tmp_path / "common"))
