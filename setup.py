"""Everything static is in pyproject.toml; here is only whether CMake runs (GRADHESS_COMPILED=on|off)."""

import os

from setuptools import setup

compiled = os.environ.get("GRADHESS_COMPILED", "on").lower()
if compiled not in {"on", "off"}:
    raise SystemExit(f"GRADHESS_COMPILED is {compiled!r}; it must be 'on' or 'off'")

setup(cmake_source_dir="." if compiled == "on" else None)
