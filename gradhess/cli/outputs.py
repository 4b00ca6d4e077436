"""Files that a command is to write, refused before the work and not after it."""

from __future__ import annotations

from pathlib import Path

from gradhess.errors import InputError


def check_folder(path: Path) -> None:
    if not path.absolute().parent.is_dir():
        raise InputError(f"cannot write {path}: there is no folder {path.parent}")


def check_picture(path: Path | None, option: str = "--plot", *, page: bool = False) -> None:
    """Its ending, which may be that of a page too, and its folder."""
    if path is None:
        return
    from gradhess._plot.figure import picture

    picture(path, option, page=page)
    check_folder(path)
