"""Shields as data: a folder with ``shield.json`` and ``shield.safetensors``, so that they travel in an artefact.

No pickle: what a unit cannot say in JSON and arrays (a function, say) it names by an import path
``"package.module:attribute"``, which the machine that loads it must have.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from saferl.errors import ArtefactError, ConfigError, RunFolderError, SaferlError, UsageError
from saferl.registry import Registry
from saferl.shields.base import Shield, ShieldData
from saferl.shields.protocol import ActionSpec
from saferl.storage import HEADER_HASH, atomic_folder, header_digest, read_json, sha256, write_header

SCHEMA = "saferl.shield/1"
HEADER, ARRAYS = "shield.json", "shield.safetensors"


def save_shield(shield: Shield, folder: str | Path) -> Path:
    """Write a shield to a new folder, and give the folder.

    Raises:
        ConfigError: the unit holds something that is neither JSON nor an array.
        RunFolderError: the folder holds files already, or cannot be written.
    """
    folder = Path(folder)
    if folder.is_dir() and any(folder.iterdir()):
        raise RunFolderError(f"A shield must be saved to a new folder; {folder} holds files. Choose another one.")
    arrays: dict[str, npt.NDArray[Any]] = {}
    tree = _tree(shield, "", arrays)
    try:
        json.dumps(tree, allow_nan=False)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{shield.unit}: a shield is saved as JSON and arrays; {error}.") from error
    with atomic_folder(folder) as temporary:
        save_file({name: np.ascontiguousarray(array) for name, array in arrays.items()}, temporary / ARRAYS)
        write_header(temporary / HEADER, {"schema": SCHEMA, "sha256": sha256(temporary / ARRAYS), "shield": tree})
    return folder


def load_shield(folder: Path, shields: Registry) -> Shield:
    """Read what :func:`save_shield` wrote.

    Args:
        folder: Where it is.
        shields: Table of units by name, :data:`saferl.shields.SHIELDS`.

    Raises:
        ArtefactError: a missing or changed file, another schema, or content that the unit does not accept.
    """
    try:
        header = read_json(folder / HEADER, what="shield.json of a shield")
    except SaferlError as error:
        raise ArtefactError(str(error)) from error
    if not isinstance(header, Mapping) or header.get("schema") != SCHEMA:
        found = header.get("schema") if isinstance(header, Mapping) else header
        raise ArtefactError(
            f"A shield must have the schema {SCHEMA!r}; {folder} has {found!r}. Load it with its version."
        )
    if header.get(HEADER_HASH) != header_digest(header):
        raise ArtefactError(
            f"{folder / HEADER} was changed after it was written: its content does not match its {HEADER_HASH}. "
            "Copy the shield again from where it was made, or save it anew."
        )
    path = folder / ARRAYS
    if not path.is_file() or sha256(path) != header.get("sha256"):
        raise ArtefactError(f"{path} must be the file that was saved with the shield; it is missing or was changed.")
    try:
        return _unit(header["shield"], "", load_file(path), shields)
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError, UsageError) as error:
        raise ArtefactError(f"The shield in {folder} cannot be read: {type(error).__name__}: {error}.") from error


def _tree(shield: Shield, prefix: str, arrays: dict[str, npt.NDArray[Any]]) -> dict[str, Any]:
    data = shield._to_data()
    arrays.update({f"{prefix}{name}": array for name, array in data.arrays.items()})
    return {
        "unit": shield.unit,
        "actions": shield.actions.to_dict(),
        "time_budget_us": shield.time_budget_us,
        "config": dict(data.config),
        "arrays": sorted(data.arrays),
        "children": [[name, _tree(child, f"{prefix}{name}/", arrays)] for name, child in data.children.items()],
    }


def _unit(tree: Mapping[str, Any], prefix: str, arrays: Mapping[str, npt.NDArray[Any]], shields: Registry) -> Shield:
    cls: type[Shield] = shields.load(tree["unit"])
    own = {name: arrays[f"{prefix}{name}"] for name in tree["arrays"]}
    children = {name: _unit(child, f"{prefix}{name}/", arrays, shields) for name, child in tree["children"]}
    shield = cls._from_data(ShieldData(tree["config"], own, children), ActionSpec.from_dict(tree["actions"]))
    shield.time_budget_us = tree["time_budget_us"]
    return shield
