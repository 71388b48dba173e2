# SPDX-License-Identifier: Apache-2.0
"""Checks of a bundle's files, in the bundle's folder as the working directory."""

from __future__ import annotations

import importlib
import json
import pkgutil
import re
from pathlib import Path

from monai.bundle import ConfigWorkflow
from monai.utils import optional_import

from tools import package

from .inference import config, made_data
from .network import quiet
from .schema import SCHEMA

__all__ = ["check_imports", "check_layout", "check_metadata", "check_properties"]

jsonschema, has_jsonschema = optional_import("jsonschema")

CONFIGS = ("metadata.json", "logging.conf", "train.json", "evaluate.json", "inference.json")
FILES = ("LICENSE", "models/model.pt", "docs/README.md", "docs/data_license.txt", *(f"configs/{n}" for n in CONFIGS))
LARGE = 25 * 2**20  # bytes that the Zoo takes into git
OPTIONAL = {"Speed"}  # where its numbers stand in docs/results.md
BEFORE, BEHIND = (
    ("Use",),
    (  # the card's headings; a bundle's own, such as the paper's rows, stand between
        *("Keys", "What goes in and comes out", "Scores", "Speed", "How the shipped weights were made"),
        *("Limits and intended use", "Licence", "Reference"),
    ),
)


def _packed() -> bool:
    """Whether the bundle was unpacked from a zip, and so has to bring `common` along."""
    return not Path.cwd().resolve().is_relative_to((package.ROOT / "bundles").resolve())


def check_layout(name: str) -> list[str]:
    """Every file of a bundle is there, none in git is over 25 MB, and the card has its headings in their order."""
    wanted = [*FILES, f"{name}_lib/__init__.py"]
    if _packed():  # without the file a folder of modules imports as another package of this name, or in part
        wanted.append("common/__init__.py")
        wanted += sorted(
            f"{folder.as_posix()}/__init__.py" for folder in {p.parent for p in Path("common").rglob("*.py")}
        )
    wrong = [f"{path} is missing" for path in dict.fromkeys(wanted) if not Path(path).is_file()]
    large = {path: path.stat().st_size for path in Path("models").rglob("*.pt")}
    listed = Path("large_files.yml").read_text(encoding="utf-8") if Path("large_files.yml").is_file() else ""
    wrong += [f"{path} is over 25 MB" for path, size in large.items() if size > LARGE and path.as_posix() not in listed]
    licence = Path("LICENSE")
    if licence.is_file() and "Apache License" not in licence.read_text(encoding="utf-8"):
        wrong.append("LICENSE is not the Apache License")
    card = Path("docs/README.md")
    return wrong + (_check_card(card.read_text(encoding="utf-8")) if card.is_file() else [])


def _check_card(text: str) -> list[str]:
    """What is wrong with the card's headings."""
    text = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)  # a comment of a shell is no heading
    found = re.findall(r"^## (.+?)\s*$", text, flags=re.MULTILINE)
    behind = [heading for heading in BEHIND if heading in found or heading not in OPTIONAL]
    missing = [heading for heading in (*BEFORE, *behind) if heading not in found]
    if missing:
        return [f"the card has no section {heading}" for heading in missing]
    own = found[len(BEFORE) : -len(behind)]
    if found != [*BEFORE, *own, *behind]:
        at = next(i for i, heading in enumerate(reversed(behind), 1) if found[-i] != heading)
        return [f"the card's section {found[-at]} stands where {behind[-at]} should"]
    return []


def check_imports(name: str) -> list[str]:
    """Every module of the bundle's package and of `common` can be imported, and a zip's from the zip itself."""
    wrong = []
    for top in ("common", f"{name}_lib"):
        found = importlib.import_module(top)
        places = [Path(path).resolve() for path in found.__path__]
        if _packed() and places != [Path(top).resolve()]:
            wrong.append(f"{top} is not the zip's own but lies in {places[0].parent}")
            continue
        for module in pkgutil.walk_packages(found.__path__, f"{top}."):
            try:
                importlib.import_module(module.name)
            except Exception as error:
                wrong.append(f"{module.name}: {type(error).__name__}: {error}")
    return wrong


def check_metadata(name: str) -> list[str]:
    """``metadata.json`` follows the schema, names this bundle, and its changelog tells of its version.

    Raises:
        ModuleNotFoundError: jsonschema is not installed.
    """
    if not has_jsonschema:
        raise ModuleNotFoundError("jsonschema")
    metadata = json.loads(Path("configs/metadata.json").read_text(encoding="utf-8"))
    errors = jsonschema.Draft201909Validator(SCHEMA).iter_errors(metadata)
    wrong = [f"{'.'.join(map(str, error.path)) or 'metadata'}: {error.message}" for error in errors]
    if metadata.get("name") != name:
        wrong.append(f"name is {metadata.get('name')!r}")
    if metadata.get("version") not in metadata.get("changelog", {}):
        wrong.append(f"the changelog does not tell of version {metadata.get('version')}")
    return wrong


def check_properties(name: str) -> list[str]:
    """Training and inference workflows have every property that MONAI knows, under the identifiers that it expects.

    MONAI makes each of them, on small made data here: by itself it would fill the user's cache with sample data and put
    a run into the bundle.
    """
    wrong = []
    with made_data() as folder:
        given = {"dataset_dir": str(folder), "output_dir": str(folder.with_name("out")), "device": "cpu"}
        for file, kind in (("train", "train"), ("inference", "infer")):
            more = {"target": "t1c"} if kind == "infer" and "target" in config() else {}  # its cases are complete
            with quiet():  # one line per check
                workflow = ConfigWorkflow(
                    f"configs/{file}.json", "configs/metadata.json", False, workflow_type=kind, **given, **more
                )
                workflow.initialize()
                missing = workflow.check_properties() or []
            wrong += [f"{file}.json: {name}" for name in missing]
    return wrong
