# SPDX-License-Identifier: Apache-2.0
"""Checks of a bundle's files and configurations, in the bundle's folder as the working directory."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from monai.bundle import ConfigWorkflow
from monai.utils import optional_import

from .schema import SCHEMA

__all__ = ["check_keys", "check_layout", "check_metadata", "check_properties", "check_shared_blocks"]

jsonschema, has_jsonschema = optional_import("jsonschema")

CONFIGS = ("metadata.json", "train.json", "evaluate.json", "inference.json", "multi_gpu_train.json", "logging.conf")
FILES = ("LICENSE", "models/model.pt", "docs/README.md", "docs/data_license.txt", *(f"configs/{n}" for n in CONFIGS))
LARGE = 25 * 2**20  # bytes that the Zoo takes into git
STANDING = {"imports", "run", "finalize", "train", "validate", "displayable_configs"}  # read by MONAI or by apps
SHARED = ("imports", "bundle_root", "ckpt_dir", "weights", "device", "amp", "memory_gb", "network_def", "network")
ABSOLUTE = re.compile(r"""(?:^|['"\s])(/(?:home|root|mnt|tmp|work|data|Users)/|[A-Za-z]:\\)""")


def _read(name: str) -> dict[str, Any]:
    return json.loads(Path("configs", name).read_text(encoding="utf-8"))


def _names(kind: str = "*") -> list[str]:
    return sorted(path.name for path in Path("configs").glob(f"{kind}.json"))


def check_layout(name: str) -> list[str]:
    """Every file of a bundle is there, none in git is over 25 MB, and weights lie where MONAI looks for them."""
    wrong = [f"{path} is missing" for path in (*FILES, f"{name}_lib/__init__.py") if not Path(path).is_file()]
    large = {path: path.stat().st_size for path in Path("models").rglob("*.pt")}
    listed = Path("large_files.yml").read_text(encoding="utf-8") if Path("large_files.yml").is_file() else ""
    wrong += [f"{path} is over 25 MB" for path, size in large.items() if size > LARGE and path.as_posix() not in listed]
    licence = Path("LICENSE")
    if licence.is_file() and "Apache License" not in licence.read_text(encoding="utf-8"):
        wrong.append("LICENSE is not the Apache License")
    return wrong


def check_metadata(name: str) -> list[str]:
    """``metadata.json`` follows the schema, names this bundle, and its changelog tells of its version.

    Raises:
        ModuleNotFoundError: jsonschema is not installed.
    """
    if not has_jsonschema:
        raise ModuleNotFoundError("jsonschema")
    metadata = _read("metadata.json")
    errors = jsonschema.Draft201909Validator(SCHEMA).iter_errors(metadata)
    wrong = [f"{'.'.join(map(str, error.path)) or 'metadata'}: {error.message}" for error in errors]
    if metadata.get("name") != name:
        wrong.append(f"name is {metadata.get('name')!r}")
    if metadata.get("version") not in metadata.get("changelog", {}):
        wrong.append(f"the changelog does not tell of version {metadata.get('version')}")
    return wrong


def check_properties(name: str) -> list[str]:
    """Training and inference workflows have every property that MONAI knows, under the identifiers that it expects."""
    wrong = []
    for config, kind in (("train", "train"), ("inference", "infer")):
        workflow = ConfigWorkflow(f"configs/{config}.json", "configs/metadata.json", False, workflow_type=kind)
        workflow.initialize()
        wrong += [f"{config}.json: {missing}" for missing in workflow.check_properties() or []]
    return wrong


def check_keys(name: str) -> list[str]:
    """Every key of a configuration is used, and no file of the bundle knows a folder of somebody's machine."""
    wrong = []
    base = _read("train.json")
    for config in (n for n in _names() if n != "metadata.json"):
        own = _read(config)
        whole = own if config in ("inference.json", "train.json") or "network_def" in own else {**base, **own}
        text = json.dumps(whole) + json.dumps(own)
        for key in own:
            head = key.lstrip("+").split("::")[0]
            known = head in STANDING or (head in whole and key != head)
            if not known and not re.search(rf"[@%]{re.escape(head)}\b", text):
                wrong.append(f"{config}: {key} is not used")
    for path in [
        p for kind in ("configs/*.json", "docs/*.md", "docs/*.txt", f"{name}_lib/*.py") for p in Path().glob(kind)
    ]:
        found = ABSOLUTE.search(path.read_text(encoding="utf-8"))
        if found:
            wrong.append(f"{path}: absolute path {found[1]}")
    return wrong


def check_shared_blocks(name: str) -> list[str]:
    """What training and inference both define is equal, so that weights fit and results repeat."""
    train, inference = _read("train.json"), _read("inference.json")
    return [
        f"{key} differs between train.json and inference.json" for key in SHARED if train.get(key) != inference.get(key)
    ]
