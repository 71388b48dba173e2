# SPDX-License-Identifier: Apache-2.0
"""Checks of a bundle's configurations, in the bundle's folder as the working directory."""

from __future__ import annotations

import ast
import inspect
import json
import pydoc
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from monai.bundle import ComponentLocator, ConfigComponent, ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.reference_resolver import ReferenceResolver
from monai.utils import BundlePropertyConfig

__all__ = ["check_keys", "check_paths", "check_shared_blocks"]

STANDING = ("imports", "run", "finalize", "displayable_configs", "val_interval")  # read by MONAI or by apps
SHARED = ("imports", "bundle_root", "ckpt_dir", "device", "amp", "memory_gb", "network_def", "network")
SEPARATOR = "::"
# a folder of the root or of a drive, at the start or where a path would begin within a text
ABSOLUTE = re.compile(
    r"""(?:^|(?<=[\s'"`(\[{=,:;<|]))(?:(?:file://)?/\w[\w.-]*(?:/[^\s'"`]*)?|[A-Za-z]:[\\/][^\s'"`]*)"""
)
LITERAL = re.compile(r"""(\+\s*|\}\s*)?(?P<mark>['"])(?P<text>.*?)(?P=mark)""")


def _read(name: str) -> dict[str, Any]:
    return json.loads(Path("configs", name).read_text(encoding="utf-8"))


def _names() -> list[str]:
    folder = Path("configs")
    found = [str(path.relative_to(folder)) for path in folder.rglob("*.json")]
    return sorted(name for name in found if name != "metadata.json")


def _files(name: str) -> list[str]:
    """The files that are read together where this one is used, itself the last."""
    if name in ("train.json", "inference.json") or "network_def" in _read(name):
        return [name]
    base = {f"{kind}_detector.json": ["train_detector.json"] for kind in ("evaluate", "shipped")}
    if name.startswith("paper/") and name != "paper/base.json" and Path("configs/paper/base.json").is_file():
        return ["train.json", "paper/base.json", name]
    return [*base.get(name, ["train.json"]), name]


def _leaves(value: Any) -> Iterator[str]:
    """All texts in a part of a configuration."""
    if isinstance(value, dict | list):
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _leaves(inner)
    elif isinstance(value, str):
        yield value


def _components(value: Any) -> Iterator[dict[str, Any]]:
    """All parts of a configuration that stand for an object."""
    if isinstance(value, dict | list):
        if isinstance(value, dict) and ConfigComponent.is_instantiable(value):
            yield value
        for inner in value.values() if isinstance(value, dict) else value:
            yield from _components(inner)


def _references(value: Any) -> set[str]:
    found = {text[1:] for text in _leaves(value) if text.startswith("%")}
    for text in _leaves(value):
        found |= set(ReferenceResolver.match_refs_pattern(text))
    return found - {""}  # a matrix product


def check_keys(name: str) -> list[str]:
    """Every key is used: reached from what MONAI reads, taken by the object it is for, looked up in its budget."""
    wrong: dict[str, str] = {}  # with the first configuration that shows it
    code = "\n".join(path.read_text(encoding="utf-8") for path in sorted(Path(f"{name}_lib").glob("*.py")))
    for config in sorted(_names(), key=lambda n: len(_files(n))):
        parser = ConfigParser()
        parser.read_config([f"configs/{part}" for part in _files(config)])
        reached, missing = _reached(parser, code)
        for what in missing:
            wrong.setdefault(f"refers to {what}, which is missing", config)
        for key, value in _read(config).items():
            for path in _unused(key.lstrip("+").split(SEPARATOR), value, reached):
                wrong.setdefault(f"{path} is not used", config)
        for what in _strange_arguments(parser):
            wrong.setdefault(what, config)
        for path in _unused_numbers(config, code):
            wrong.setdefault(f"{path} is not used", config)
    return [f"{config}: {what}" for what, config in wrong.items()]


def _reached(parser: ConfigParser, code: str) -> tuple[set[tuple[str, ...]], list[str]]:
    """Paths that are referred to, starting from what MONAI and the recipe's rule read, and references to nothing."""
    properties = [*TrainProperties.values(), *InferProperties.values()]
    known = [i for i in (str(own[BundlePropertyConfig.ID]) for own in properties) if not i.startswith("_meta_")]
    if "keys" in parser:  # which reads budgets, such other tables, and every key that is declared
        tables = [key for key, content in parser.get().items() if isinstance(content, dict) and key[:-1] in parser]
        known += ["budgets", "budget", *tables, *(key[:-1] for key in tables)]
        known += re.findall(r"""\bkeys\["(\w+)"\]""", code)
    # networks of further weights, which ``check_weights`` builds
    known += [key for key in parser.get() if f"{key.removesuffix('network')}weights" in parser]
    waiting = [i for i in (*STANDING, *(ReferenceResolver.normalize_id(i) for i in known)) if i in parser]
    reached, missing = set(waiting), []
    while waiting:
        for reference in _references(parser[waiting.pop()]) - reached:
            reached.add(reference)
            if reference in parser:
                waiting.append(reference)
            else:
                missing.append(reference)
    return {tuple(i.split(SEPARATOR)) for i in reached}, sorted(missing)


def _unused(path: list[str], value: Any, reached: set[tuple[str, ...]]) -> list[str]:
    """What of a key nothing reaches: the key itself or, where a part of it is reached, other parts."""
    if any(tuple(path[:n]) in reached for n in range(1, len(path) + 1)):
        return []
    within = any(other[: len(path)] == tuple(path) for other in reached)
    if not within or not isinstance(value, dict) or ConfigComponent.is_instantiable(value):
        return [SEPARATOR.join(path)]
    return [unused for key, inner in value.items() for unused in _unused([*path, key], inner, reached)]


def _strange_arguments(parser: ConfigParser) -> list[str]:
    """Arguments that the function or class of a component does not take."""
    wrong, locator = [], ComponentLocator()
    for component in _components(parser.get()):
        target = ConfigComponent(component, "", locator).resolve_module_name()
        made = pydoc.locate(target) if isinstance(target, str) and not target.startswith("$") else None
        taken = _arguments(made) if callable(made) else None
        if taken is not None:
            given = [key for key in component if not (key.startswith("_") and key.endswith("_"))]
            wrong += [f"{target} does not take {key}" for key in given if key not in taken]
    return wrong


def _arguments(made: Callable) -> set[str] | None:
    """Names that a function or class takes, with those it hands on to its base classes; None for any."""
    taken: set[str] = set()
    for each in inspect.getmro(made)[:-1] if inspect.isclass(made) else (made,):
        if inspect.isclass(each) and "__init__" not in vars(each):
            continue
        try:
            parameters = inspect.signature(each.__init__ if inspect.isclass(each) else each).parameters
        except ValueError:  # written in C
            return None
        taken |= set(parameters)
        if not any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
            return taken
    return None


def _unused_numbers(config: str, code: str) -> list[str]:
    """Numbers of this file's budgets that neither its configurations nor the bundle's code look up."""
    texts = "\n".join(text for part in _files(config) for text in _leaves(_read(part))) + code
    looked_up = set(re.findall(r"""(?:\[|\.get\()\s*['"](\w+)['"]""", texts))
    keys = set().union(*(_read(part) for part in _files(config)))
    looked_up |= {"network", "fine_tuning_rate"}
    if "keys" in keys:  # a budget's numbers take the place of keys that are null
        looked_up |= keys

    def walk(path: str, value: Any) -> Iterator[str]:
        depth = path.count(".")  # budgets.NAME.number
        if depth > 1 and path.split(".")[-1] not in looked_up:
            yield path
        elif path.endswith(".network"):  # arguments of the network's class, which refuses others
            return
        elif isinstance(value, dict):
            for key, inner in value.items():
                yield from walk(f"{path}.{key}", inner)

    own = {key.lstrip("+").replace(SEPARATOR, "."): value for key, value in _read(config).items()}
    return [path for key, value in own.items() if key.split(".")[0] == "budgets" for path in walk(key, value)]


def check_paths(name: str) -> list[str]:
    """No file of the bundle knows a folder of somebody's machine."""
    wrong = []
    for config in ("metadata.json", *_names()):
        for text in _leaves(_read(config)):
            wrong += [f"configs/{config}: absolute path {path}" for path in _absolute(text)]
    for path in sorted([*Path("docs").glob("*.md"), *Path("docs").glob("*.txt")]):
        wrong += [f"{path}: absolute path {m[0]}" for m in ABSOLUTE.finditer(path.read_text(encoding="utf-8"))]
    for path in sorted(Path(f"{name}_lib").glob("*.py")):
        wrong += [f"{path}: absolute path {found}" for text in _python_texts(path) for found in _absolute(text)]
    return wrong


def _absolute(text: str) -> list[str]:
    """Absolute paths in a value; in an expression those of its texts that are not appended to another."""
    if not text.startswith("$"):
        return [match[0] for match in ABSOLUTE.finditer(text)]
    literals = [match["text"] for match in LITERAL.finditer(text) if not match[1]]
    return [match[0] for literal in literals for match in ABSOLUTE.finditer(literal)]


def _python_texts(path: Path) -> Iterator[str]:
    """Texts in a module, but for those that are appended to another."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    appended = {id(node.right) for node in ast.walk(tree) if isinstance(node, ast.BinOp)}
    appended |= {id(v) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for v in node.values[1:]}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in appended:
            yield node.value


def check_shared_blocks(name: str) -> list[str]:
    """What training and inference both define is there and equal, so that weights fit and results repeat."""
    configs = {config: _read(config) for config in ("train.json", "inference.json")}
    wrong = []
    for key in SHARED:
        values = [content[key] for content in configs.values() if key in content]
        if values and all(isinstance(v, dict) and v.get("_target_") == "common.io.weights.build" for v in values):
            continue  # the weights decide
        wrong += [f"{key} is missing in {config}" for config, content in configs.items() if key not in content]
        if len(values) == 2 and values[0] != values[1] and key != "amp":  # which is only a matter of speed
            wrong.append(f"{key} differs between train.json and inference.json")
    return wrong
