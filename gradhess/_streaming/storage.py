"""State files: safetensors with a version and metadata, replaced in one step, never pickle.

The file holds the arrays of the state under their names in ``MomentState``, ``pending_rows`` and ``pending_weights``
beside them, and in its metadata the name and version of this format, the version of the library, and all settings as
JSON. A file that can be read continues the stream bit for bit.
"""

from __future__ import annotations

import json
import os
import secrets
from pathlib import Path
from typing import Any, Final

from gradhess._config import VERSION
from gradhess.errors import StateFileError

FORMAT: Final = "gradhess.StreamingCovariance"
FORMAT_VERSION: Final = 1


def write(path: str | os.PathLike[str], settings: dict[str, Any], arrays: dict[str, Any]) -> None:
    """Write a state file beside its destination, and put it in place once it is safely on the disk."""
    from safetensors import SafetensorError
    from safetensors.numpy import save_file  # needed by those who save, and by nobody else

    target = Path(path)
    metadata = {
        "format": FORMAT,
        "format_version": str(FORMAT_VERSION),
        "library_version": VERSION,
        "settings": json.dumps(settings),
    }
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(8)}.tmp")
    temporary.touch()
    mode = temporary.stat().st_mode  # what the umask says; safetensors puts a file of mode 0600 in its place
    try:
        save_file(arrays, temporary, metadata)
        temporary.chmod(mode)
        _sync(temporary, os.O_RDWR)
        os.replace(temporary, target)
    except SafetensorError as error:
        temporary.unlink(missing_ok=True)
        raise OSError(f"cannot write {os.fspath(path)!r}: {error}") from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    if os.name == "posix":  # where the system can, make the rename itself durable
        _sync(target.parent, os.O_RDONLY)


def read(path: str | os.PathLike[str]) -> tuple[dict[str, Any], dict[str, Any]]:
    """Settings and arrays of a state file; StateFileError if it is truncated, foreign or newer."""
    from safetensors import SafetensorError, safe_open

    name = os.fspath(path)
    if not Path(name).is_file():
        raise FileNotFoundError(f"there is no state file {name!r}")
    try:
        with safe_open(name, framework="numpy") as file:
            metadata = file.metadata() or {}
            _check_format(name, metadata)
            arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a dict
    except SafetensorError as error:
        raise StateFileError(f"{name!r} is truncated, or no state file of gradhess: {error}") from error
    try:
        settings = json.loads(metadata["settings"])
    except (KeyError, ValueError) as error:
        raise StateFileError(f"{name!r} has no readable settings: {error}") from error
    # Arrays of the file are read-only views of its bytes; a state is written to.
    return settings, {key: array if array.flags.writeable else array.copy() for key, array in arrays.items()}


def _check_format(name: str, metadata: dict[str, str]) -> None:
    if metadata.get("format") != FORMAT:
        raise StateFileError(
            f"{name!r} is a safetensors file, but not one that StreamingCovariance.save wrote"
        )
    version = metadata.get("format_version", "")
    if not version.isdecimal():
        raise StateFileError(f"{name!r} has the format version {version!r}, which is no number")
    if int(version) > FORMAT_VERSION:
        writer = metadata.get("library_version", "unknown")
        raise StateFileError(
            f"{name!r} was written by gradhess {writer} in format version {version}; this is gradhess {VERSION}, which "
            f"reads up to version {FORMAT_VERSION}: upgrade gradhess to read it"
        )


def _sync(path: Path, mode: int) -> None:
    descriptor = os.open(path, mode)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
