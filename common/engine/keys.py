# SPDX-License-Identifier: Apache-2.0
"""The keys of a configuration: declared once, checked and made plain values before any data is read.

MONAI takes misspelt keys silently and hands texts such as "true" from the command line on as they are.
"""

from __future__ import annotations

import copy
import difflib
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import monai.bundle
import torch
from monai.bundle import ConfigParser, ConfigWorkflow

from common.errors import InputError
from common.io.inputs import plain_errors
from common.utils import distributed, values

from .places import bundle_folder

__all__ = [
    "Key",
    "Recipe",
    "bundle_root",
    "edges",
    "flag",
    "name",
    "names",
    "number",
    "path",
    "pick",
    "scales",
    "triple",
    "whole",
]

MONAI = {"_meta_", "imports", "initialize", "run", "finalize", "requirements", "use_click"}  # the last is MONAI Label's
CODE = ("$", "@")  # MONAI evaluates texts that begin so
MACRO = "%"  # MONAI puts part of a file in the place of texts that begin so, before any item is resolved


@dataclass(frozen=True)
class Key:
    """A key that a user may set: its name, its meaning, and the function that checks a value and makes it plain.

    ``text`` keys name files, folders or parts of names; their values are never evaluated.
    """

    name: str
    meaning: str
    plain: Callable[[Any], Any]
    text: bool = False
    place: bool = False  # a file or folder


def flag(name: str, meaning: str, empty: bool = False) -> Key:
    """A switch, true or false; ``empty`` allows null."""

    def plain(given: Any) -> bool | None:
        return None if empty and values.value(given) is None else _named(values.boolean, given, name)

    return Key(name, meaning, plain)


def number(name: str, meaning: str, least: float, most: float = float("inf"), empty: bool = False) -> Key:
    """A number within bounds; ``empty`` allows null."""
    return Key(name, meaning, lambda given: values.quantity(given, name, least, most, empty=empty))


def whole(name: str, meaning: str, least: int, most: float = float("inf"), empty: bool = False) -> Key:
    """A whole number within bounds; ``empty`` allows null."""
    return Key(name, meaning, lambda given: values.quantity(given, name, least, most, whole=True, empty=empty))


def pick(name: str, meaning: str, options: Sequence[Any]) -> Key:
    """One of a few values."""
    return Key(name, meaning, lambda given: values.choice(given, name, options), text=True)


def name(name: str, meaning: str) -> Key:
    """A text, or null."""
    return Key(name, meaning, values.optional, text=True)


def names(name: str, meaning: str) -> Key:
    """A list of texts."""
    return Key(name, meaning, values.names, text=True)


def path(name: str, meaning: str) -> Key:
    """A file or folder, or null."""
    return Key(name, meaning, values.optional, text=True, place=True)


def triple(name: str, meaning: str) -> Key:
    """One or three positive numbers, or null."""
    return Key(name, meaning, lambda given: values.triple(given, name))


def edges(name: str, meaning: str, least: int = 1) -> Key:
    """Edges of a patch, one whole number or three, or null."""

    def plain(given: Any) -> list[int] | None:
        sides = values.triple(given, name)
        if sides and not all(side >= least and side.is_integer() for side in sides):
            raise InputError(f"{name} must be one or three whole numbers of at least {least}; got {given!r}")
        return [int(side) for side in sides] if sides else None

    return Key(name, meaning, plain)


def scales(name: str, meaning: str) -> Key:
    """A list of factors per axis, or null."""
    return Key(name, meaning, lambda given: None if values.value(given) is None else _scales(given, name))


def device(given: Any) -> str:
    """A device that is there, as text."""
    wanted = values.device_of(given)
    if wanted.type == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device {given}: torch finds no GPU here; use cpu")
    if wanted.type not in ("cpu", "cuda"):
        raise InputError(f"device {given}: use cpu, cuda or cuda:1")
    return str(wanted)


DEVICE = Key("device", "such as `cpu` or `cuda:1`; the GPU if there is one", device)
SEED = whole("seed", "start of all randomness: split, samples, first weights", 0, 2**32 - 1)


SHARED = (  # of every bundle
    name("budget", "`paper`, `short` (an hour on two cores), `sample` (minutes); null: by data and device"),
    flag("from_scratch", "start from random weights instead of those of `weights`"),
    path("weights", "weights to start from, to use or to evaluate; they decide the network"),
    name("run_name", "name of the run's folder; null: the budget and a number"),
    flag("resume", "go on with the latest run, or that of `run_name`"),
    SEED,
    DEVICE,
    flag("amp", "mixed precision; by default where the processor gains from it"),
    number("ema", "decay of the average of the weights that is kept; 0: none", 0, 0.99999),
    whole("val_interval", "epochs between validations", 1),
    flag("promote", "put the run's weights in the place of `weights`, if they are better"),
    path("output_dir", "where results go"),
    path("ckpt_dir", "folder of the bundle's own weights"),
    path("bundle_root", "the bundle's folder"),
)


def _named(check: Callable[[Any], Any], given: Any, name: str) -> Any:
    try:
        return check(given)
    except InputError as error:
        raise InputError(f"{name}: {error.reason}") from error


def _scales(given: Any, name: str) -> list[list[float]]:
    plain = values.value(given)
    if isinstance(plain, list | tuple) and plain and not isinstance(plain[0], list | tuple):
        plain = [plain]
    if not isinstance(plain, list | tuple) or not plain:
        raise InputError(f"{name} must be a list of factors per axis, such as [[2,2,2],[1,1,4]]; got {given!r}")
    scales = [values.triple(scale, name) for scale in plain]
    if None in scales:
        raise InputError(f"{name} must name factors, not null; got {given!r}")
    return [list(scale) for scale in scales if scale is not None]


def bundle_root(library: ModuleType) -> str:
    """The bundle's folder: the one that is worked in, or that of its library, see ``bundle_folder``.

    Args:
        library: the bundle's package, such as ``mri_sr3d_lib``.
    """
    name = library.__name__
    for folder in (Path("bundles") / name.removesuffix("_lib"), Path(".")):
        if (folder / name / "recipe.py").is_file():
            return str(folder)
    return str(bundle_folder(str(library.__file__)))


class Recipe:
    """The keys of a bundle's configurations.

    Args:
        library: ``__file__`` of the recipe's module. What stands at the top of the bundle's configurations, see
            ``bundle_folder``, is no misspelt key.
        keys: what a user may set besides the keys of every bundle, ``SHARED``.
        rule: what keys decide together: a function of the plain keys that returns those that it changes, or raises an
            ``InputError``.
        settings: names of the keys that decide what an inference's results are, wherever their values were set; they
            are told beside the results, and others make a result anew.
    """

    def __init__(
        self,
        library: str,
        *keys: Key,
        rule: Callable[[Mapping[str, Any]], Mapping[str, Any]] = dict,
        settings: Sequence[str] = (),
    ) -> None:
        self.configs = bundle_folder(library) / "configs"
        own = {key.name: key for key in keys}
        self.keys = own | {key.name: key for key in SHARED if key.name not in own}
        self.rule, self.settings = rule, settings

    def prepare(self) -> dict[str, Any]:
        """Checks the keys of the configuration that is being resolved and replaces them by plain values.

        Everything else in a configuration depends on this item, so nothing is read or made before. It also joins the
        processes that ``torchrun`` started, and seeds torch. Keys that are null take the values of the budget; then
        those of other tables of values, such as ``objectives`` for the key ``objective``.

        Returns:
            "budget": the budget's name, "network": its network, "config": the merged configuration, "settings": see
            above.

        Raises:
            InputError: an unknown key, or a value that cannot be.
        """
        parser = _calling(ConfigParser)
        if parser is None:
            raise RuntimeError('prepare() is for an expression in a configuration: "$recipe.RECIPE.prepare()"')
        if _calling(ConfigWorkflow) is not None:  # a server that reads the configuration logs errors in its own way
            plain_errors()
        self._refuse_unknown(parser.config)
        for key in self.keys.values():
            if key.name in parser.config:
                self._check(parser, key)
        distributed.start_if_launched()
        chosen = self._budget(parser)
        config: Any = parser.config  # a dictionary, whatever MONAI annotates
        for table in config:
            options, chooser = config[table], self.keys.get(table[:-1])
            if table.endswith("s") and table != "budgets" and isinstance(options, dict) and chooser:
                _fill(parser, options.get(config.get(chooser.name), {}))
        given = {name: parser.config[name] for name in self.keys if name in parser.config}
        for name, value in self.rule(given).items():
            if value is not given.get(name):  # expressions that MONAI has resolved already stay
                _put(parser, name, value)
        torch.manual_seed(parser.config.get("seed", 0))
        settings = {key: parser.get_parsed_content(key) for key in self.settings if key in parser.config}
        return {**chosen, "config": copy.deepcopy(parser.config), "settings": settings}

    def record(self, config: dict[str, Any]) -> dict[str, Any]:
        """A configuration without the folders of this machine: absolute paths keep their last part."""
        kept = copy.deepcopy(config)
        for key in self.keys.values():
            given = kept.get(key.name)
            if key.place and isinstance(given, str) and not given.startswith(CODE):
                kept[key.name] = Path(given).name if Path(given).expanduser().is_absolute() else given
        return kept

    def table(self) -> str:
        """The keys with their defaults as a Markdown table, for the bundle's card."""
        files = {
            name: json.loads((self.configs / f"{name}.json").read_text(encoding="utf-8"))
            for name in ("train", "evaluate", "inference")
        }
        lines = ["| key | default | meaning |", "|---|---|---|"]
        for key in self.keys.values():
            defaults = dict.fromkeys(_shown(content[key.name]) for content in files.values() if key.name in content)
            lines.append(f"| `{key.name}` | {'; '.join(defaults)} | {key.meaning} |")
        return "\n".join(lines)

    @cached_property
    def _shipped(self) -> list[dict[str, Any]]:
        files = sorted(self.configs.rglob("*.json"))
        return [json.loads(file.read_text(encoding="utf-8")) for file in files if file.name != "metadata.json"]

    def _refuse_unknown(self, config: dict[str, Any]) -> None:
        ours = {name.removeprefix("+").split("::")[0] for shipped in self._shipped for name in shipped}
        known = MONAI | ours | self.keys.keys()
        used = set(re.findall(r"[@%](\w+)", json.dumps(config, default=str)))
        for given in config:
            if given not in known and given not in used:
                near = difflib.get_close_matches(given, [*self.keys, *ours], n=1)
                raise InputError(f"there is no key {given}" + (f"; do you mean {near[0]}?" if near else ""))

    def _check(self, parser: ConfigParser, key: Key) -> None:
        config: Any = parser.config
        given = config[key.name]
        evaluated = isinstance(given, str) and given.startswith(CODE)
        if evaluated and (not key.text or any(shipped.get(key.name) == given for shipped in self._shipped)):
            return  # resolved by MONAI
        if key.text:
            for text in [*_texts(_typed().get(key.name)), *_texts(given)]:
                if text.startswith((*CODE, MACRO)):
                    raise InputError(
                        f"{key.name} begins with {text[0]}, which MONAI would evaluate; write ./{text} for a file"
                    )
        if isinstance(given, str | int | float | list | tuple | dict | type(None)):
            _put(parser, key.name, key.plain(given))

    def _budget(self, parser: ConfigParser) -> dict[str, Any]:
        config: Any = parser.config
        if "budgets" not in config:
            return {}
        given = str(config.get("device", "$"))
        device = distributed.device() if given.startswith(CODE) else given
        budget = values.choose_budget(config["budgets"], config.get("budget"), config.get("dataset_dir"), device)
        if "fine_tuning_rate" in budget and not config.get("from_scratch"):
            budget["learning_rate"] = budget["fine_tuning_rate"]
        _fill(parser, budget)
        _put(parser, "budget", budget["name"])
        return {"budget": budget["name"], "network": budget.get("network", {})}


def _shown(default: Any) -> str:
    if isinstance(default, str):
        return "computed" if default.startswith(CODE) else f"`{default}`"
    return json.dumps(default)


def _fill(parser: ConfigParser, given: dict[str, Any]) -> None:
    """Gives keys that are null the given values."""
    config: Any = parser.config
    for name, value in given.items():
        if name in config and config[name] is None:
            _put(parser, name, value)


def _put(parser: ConfigParser, name: str, value: Any) -> None:
    """Changes a key that may be parsed already."""
    config: Any = parser.config
    config[name] = value
    if name in parser.ref_resolver.items:
        parser.ref_resolver.items[name].update_config(value)
    if name in parser.ref_resolver.resolved_content:
        parser.ref_resolver.resolved_content[name] = value


def _texts(given: Any) -> Iterator[str]:
    """All texts of a value, which may be nested: MONAI looks into lists and dictionaries, too."""
    if isinstance(given, str):
        yield given
    elif isinstance(given, list | tuple | dict):
        for part in [*given, *given.values()] if isinstance(given, dict) else given:
            yield from _texts(part)


def _typed() -> dict[str, Any]:
    """Keys of the command line as they were typed: in the configuration, macros are replaced already."""
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if frame.f_code is monai.bundle.run.__code__:
            return frame.f_locals["override"]
        frame = frame.f_back
    return {}


def _calling(kind: type) -> Any:
    """The object of a class whose method is at work right now, or None.

    MONAI hands its parser to nobody, so it is found by its frame.
    """
    frame: FrameType | None = sys._getframe()
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), kind):
            return frame.f_locals["self"]
        frame = frame.f_back
    return None
