# SPDX-License-Identifier: Apache-2.0
"""Pack a bundle as one zip that runs alone: ``python -m tools.package mri_sr3d --out DIR``."""

from __future__ import annotations

import hashlib
import json
import os
import zipfile
from pathlib import Path

from tools.command import run_command

__all__ = ["bundle_folder", "bundle_names", "main", "package"]

ROOT = Path(__file__).parents[1]  # of the clone, or where pip put packages: `common` lies there in both
LARGE = 25 * 2**20  # bytes; the Model Zoo takes nothing larger into git
SKIPPED = {"runs", "eval", "mlruns", "dist", "__pycache__"}  # what runs and this tool leave behind
LEFT = (".pyc", ".partial", ".replaced")  # endings of compiled code, of files whose writer was killed, of what was kept
MADE = {"last.pt", "model.ts", "model.onnx", "model.pt2", "model_final.pt", "verify_model.ts", "large_files.yml"}
EPOCH = (1980, 1, 1, 0, 0, 0)  # the same bytes whenever it is packed


def bundle_names() -> list[str]:
    """Names of the collection's bundles."""
    cloned = sorted(path.parents[1].name for path in ROOT.glob("bundles/*/configs/metadata.json"))
    return cloned or list(_installed())


def bundle_folder(name: str) -> Path:
    """A bundle's folder: of the clone that this file lies in, or where pip put it."""
    cloned = ROOT / "bundles" / name
    return cloned if cloned.is_dir() else _installed().get(name, cloned)


def _installed() -> dict[str, Path]:
    from common.engine import installed_folders  # not before: `tools.verify` must find the `common` of a zip

    return installed_folders()


def package(name: str, out: str = "dist", url: str | None = None, weights: str | None = None) -> str:
    """Pack a bundle and the shared package as OUT/NAME.zip, and enter it in OUT/model_info.json.

    The zip holds one folder, without what runs wrote. Unzipped, its commands work from inside that folder with the
    packages that configs/metadata.json names. The same files give the same bytes.

    Args:
        name: the bundle, such as mri_sr3d
        out: folder to write to, made if missing
        url: where the zip will be published, for model_info.json; for files over 25 MB also where each of them will
            lie, URL/PATH, for the zip's large_files.yml
        weights: your own in place of the shipped models/model.pt, such as RUN/best.pt; what lies beside them under the
            name of a file in models, such as us_despeckle's reference.json, goes with them
    """
    if name not in bundle_names():
        raise ValueError(f"no bundle is called {name}; there are {', '.join(bundle_names())}")
    content = _content(bundle_folder(name))
    if weights is not None:
        content |= _own_weights(Path(str(weights)), content)
    large = {path: data for path, data in content.items() if len(data) > LARGE}
    if large:
        if url is None:
            raise ValueError(f"{', '.join(large)}: larger than 25 MB; say with --url where it will be published")
        content["large_files.yml"] = _large_files(large, url)
    target = Path(str(out)) / f"{name}.zip"
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + ".partial")
    with zipfile.ZipFile(partial, "w") as archive:
        for path, data in sorted(content.items()):
            entry = zipfile.ZipInfo(f"{name}/{path}", EPOCH)
            entry.external_attr = 0o644 << 16
            archive.writestr(entry, data, zipfile.ZIP_DEFLATED, 9)
    os.replace(partial, target)
    version = json.loads(content["configs/metadata.json"])["version"]
    _enter(target, f"{name}_v{version}", url)
    print(f"{target}: {len(content)} files, {target.stat().st_size / 2**20:.1f} MB, version {version}")
    return str(target)


def _content(bundle: Path) -> dict[str, bytes]:
    """Files of a bundle, and the shared package, by their path in the bundle's folder."""
    content = {}
    for root, prefix in ((bundle, ""), (ROOT / "common", "common/")):
        for path in sorted(root.rglob("*")):
            parts = path.relative_to(root).parts
            hidden = any(part.startswith(".") or part in SKIPPED for part in parts)
            if path.is_file() and not hidden and path.name not in MADE and not path.name.endswith(LEFT):
                content[prefix + "/".join(parts)] = path.read_bytes()
    if "models/model.pt" not in content:
        raise ValueError(f"{bundle.name} has no weights in models/model.pt")
    return content


def _own_weights(weights: Path, content: dict[str, bytes]) -> dict[str, bytes]:
    """A weights file as ``models/model.pt``, with its neighbours that a bundle's ``models`` has, too."""
    if not weights.is_file():
        raise ValueError(f"{weights}: no such file")
    beside = [path for path in content if path.startswith("models/") and not path.endswith(".pt")]
    found = {path: weights.parent / path.removeprefix("models/") for path in beside}
    return {"models/model.pt": weights.read_bytes()} | {
        path: file.read_bytes() for path, file in found.items() if file.is_file()
    }


def _large_files(large: dict[str, bytes], url: str) -> bytes:
    """The Zoo's list of files that are kept outside git, as ``monai.bundle.download_large_files`` reads it."""
    lines = ["large_files:"]
    for path, data in sorted(large.items()):
        facts = {"url": f"{url.rstrip('/')}/{path}", "hash_val": hashlib.sha256(data).hexdigest()}
        lines.append(f'  - path: "{path}"')
        lines += [f'    {key}: "{fact}"' for key, fact in {**facts, "hash_type": "sha256"}.items()]
    return ("\n".join(lines) + "\n").encode()


def _enter(archive: Path, key: str, url: str | None) -> None:
    """Writes the zip's entry in ``model_info.json`` beside it; the Zoo's checksum is SHA-1.

    An earlier version's entry goes when its file is this one: its checksum belongs to nothing any more. One that was
    published elsewhere stays, as the Zoo lists all versions.
    """
    path = archive.with_name("model_info.json")
    entries = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    source = archive.name if url is None else f"{url.rstrip('/')}/{archive.name}"
    entries = {k: entry for k, entry in entries.items() if entry.get("source") not in (source, archive.name)}
    entries[key] = {"checksum": hashlib.sha1(archive.read_bytes()).hexdigest(), "source": source}
    path.write_text(json.dumps(dict(sorted(entries.items())), indent=4) + "\n", encoding="utf-8")


def main() -> None:
    """Run the command line."""
    run_command(package, "package", serialize=lambda result: None)


if __name__ == "__main__":
    main()
