"""What is installed: where it lies, what came along, and what the README promises about it."""

from __future__ import annotations

import os
import re
import sysconfig
from importlib import metadata
from pathlib import Path

import pytest

import gradhess

SOURCE = Path(__file__).parents[1]


@pytest.mark.skipif(
    "GRADHESS_EXPECT_INSTALLED" not in os.environ,
    reason="set where an installed package must be what is tested",
)
def test_the_installed_package_is_tested_not_the_source_folder():
    installed = {Path(sysconfig.get_path(name)).resolve() for name in ("purelib", "platlib")}
    assert Path(gradhess.__file__).resolve().parents[1] in installed


def test_version_is_that_of_the_metadata():
    assert gradhess.__version__ == metadata.version("gradhess")


def test_types_are_shipped():
    package = Path(gradhess.__file__).parent
    for name in ("py.typed", "_cpu.pyi", "_cuda.pyi"):
        assert (package / name).is_file()


def test_every_compiled_module_has_a_stub():
    package = Path(gradhess.__file__).parent
    for path in [*package.rglob("*.so"), *package.rglob("*.pyd")]:
        assert (path.parent / f"{path.name.partition('.')[0]}.pyi").is_file()


def test_the_command_is_installed():
    (script,) = metadata.entry_points(group="console_scripts", name="gradhess")
    assert callable(script.load())


def test_extras_build_on_each_other():
    """``demo`` has all of ``cli``, and ``test`` all of ``demo``, so that one command installs enough."""
    requirements = metadata.requires("gradhess") or []

    def of(extra):
        marked = [line for line in requirements if f'extra == "{extra}"' in line.replace("'", '"')]
        return {re.split(r"[\s;<>=!~]", line)[0] for line in marked}

    assert "gradhess[cli]" in of("demo")
    assert "gradhess[demo]" in of("test")
    assert {"typer", "rich", "pyarrow", "matplotlib"} <= of("cli")


@pytest.mark.parametrize(
    "command", ['pip install ".[demo]" && gradhess demo', 'pip install ".[test]" && pytest']
)
def test_readme_has_the_two_commands(command):
    """CI runs the lines of the README as they stand there."""
    assert (SOURCE / "README.md").read_text().splitlines().count(command) == 1


def test_the_python_of_the_readme_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    blocks = re.findall(
        r"^```python\n(.*?)^```", (SOURCE / "README.md").read_text(), re.MULTILINE | re.DOTALL
    )
    names: dict[str, object] = {}
    for block in blocks:
        exec(block, names)
    assert names["errors"].shape == (50,)
    assert names["again"].n_samples_seen_ == len(names["X"])
