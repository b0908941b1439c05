"""The package as a whole: what it offers and costs to import, what may import what, what is shipped."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flwr.cli.build import build_fab_from_disk
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import flwr_co3

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "flwr_co3"

PUBLIC = {
    "CO3ClientMixin",
    "CO3Config",
    "CO3Mod",
    "CO3Strategy",
    "Codec",
    "ErrorMemory",
    "FloatFormat",
    "FrameError",
    "GenNorm",
    "RateLimit",
}

DEPENDENCIES = {"flwr", "numpy", "scipy"}
OPTIONAL = {"ml_dtypes"}  # bfloat16 for numpy, where it is installed

# Flower's public faces. The second line is the older API, for CO3ClientMixin and its strategy wrapper.
FLOWER = {
    *("flwr.app", "flwr.clientapp", "flwr.serverapp", "flwr.serverapp.strategy"),
    *("flwr.client", "flwr.common", "flwr.server", "flwr.server.strategy"),
}

# A module may import from its own layer and from earlier ones; convert, compress and correct know nothing
# of each other. A module that is not named here is of the Flower layer, the last, which alone knows flwr.
ROOMS = {"convert", "compress", "correct"}
LOWEST = {"_kernels", "arithmetic", "crossing", "errors", "gennorm", "kernels", "magnitudes", "moments", "wire"}
LAYERS = [
    *(LOWEST, ROOMS, {"schemes"}, {"config", "frame", "rate", "schedules", "update"}),
    *({"sizes"}, {"budget", "by_scheme", "encoded"}, {"codec"}),
]


def pyproject() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def imported_names(module: Path) -> Iterator[str]:
    """The full names of the modules that a source file imports, wherever in the file that is."""
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} imports relatively, in line {node.lineno}"
            assert node.module is not None
            if node.module == "flwr_co3":  # a module of the package, or else a name from its face
                yield from (f"flwr_co3.{a.name}" if a.name in LOWEST else node.module for a in node.names)
            else:
                yield node.module


def layer(part: str) -> int:
    return next((rank for rank, parts in enumerate(LAYERS) if part in parts), len(LAYERS))


MODULES = sorted(path for path in PACKAGE.rglob("*.py") if path != PACKAGE / "__init__.py")
each_module = pytest.mark.parametrize("module", MODULES, ids=lambda path: path.relative_to(PACKAGE).as_posix())


def part_of(module: Path) -> str:
    return module.relative_to(PACKAGE).with_suffix("").parts[0]


def test_every_public_name_can_be_imported_and_says_what_it_is() -> None:
    assert set(flwr_co3.__all__) >= PUBLIC
    for name in flwr_co3.__all__:
        assert getattr(flwr_co3, name).__doc__, f"{name} has no docstring"


def test_importing_the_package_is_light() -> None:
    heavy = ["torch", "scipy.stats", "scipy.optimize", "ray", "pandas", "matplotlib", "simulations"]
    code = f"import flwr_co3, sys; print(*(name for name in {heavy} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


def test_first_calls_import_nothing() -> None:
    """A client's first update would wait for it. numpy too imports some of its parts at their first use."""
    code = """
import sys
import numpy as np
from flwr_co3 import Codec, CO3Config, ErrorMemory, RateLimit, TensorSpec

tensors = {"w": np.linspace(-1, 1, 30_000, dtype="f4").reshape(100, 300) ** 9, "b": np.arange(7.0), "n": np.array(3)}
settings = [{}, {"format": "fp8", "coder": "huffman"}, {"rounding": "rd", "reconstruction": "centroid"}]
settings += [{"contexts": True}, {"rounding": "stochastic"}, {"weights": {"w": 2.0}}]
rates = [None, *(RateLimit(bits_per_parameter=bits) for bits in (0.02, 0.1, 2.0))]
codecs = [Codec(CO3Config(**setting, rate=rate)) for setting in settings for rate in rates]
loaded = set(sys.modules)
for codec in codecs:
    frame = codec.compress(tensors, memory=ErrorMemory(), known=True).frame
    codec.decode(frame, like={name: TensorSpec.of(tensor) for name, tensor in tensors.items()})
print(*sorted(set(sys.modules) - loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == []


@each_module
def test_nothing_but_the_declared_dependencies_is_imported(module: Path) -> None:
    roots = {name.partition(".")[0] for name in imported_names(module)}
    assert roots <= sys.stdlib_module_names | DEPENDENCIES | OPTIONAL | {"flwr_co3"}


@each_module
def test_imports_inside_the_package_run_one_way(module: Path) -> None:
    part = part_of(module)
    for name in imported_names(module):
        if name.partition(".")[0] != "flwr_co3":
            continue
        assert name != "flwr_co3", f"{module} imports from the package's face, not from where the thing stands"
        other = name.split(".")[1]
        assert layer(other) <= layer(part), f"{part} imports {other}, which is of a later layer"
        assert other == part or not {part, other} <= ROOMS, f"{part} imports {other}: rooms stand alone"


@each_module
def test_only_the_flower_layer_imports_flower_and_only_its_public_faces(module: Path) -> None:
    flower = {name for name in imported_names(module) if name.partition(".")[0] == "flwr"}
    if layer(part_of(module)) < len(LAYERS):
        assert not flower
    assert flower <= FLOWER


def test_the_version_is_the_same_everywhere() -> None:
    version = pyproject()["project"]["version"]
    assert flwr_co3.__version__ == importlib.metadata.version("flwr-co3") == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_type_information_is_shipped() -> None:
    assert (PACKAGE / "py.typed").is_file()
    assert "py.typed" in pyproject()["tool"]["setuptools"]["package-data"]["flwr_co3"]


def test_the_flower_app_carries_the_simulations_and_not_the_package() -> None:
    # A copy of flwr_co3 in the bundle would come before the installed one, without its compiled parts.
    with zipfile.ZipFile(BytesIO(build_fab_from_disk(ROOT))) as bundle:
        tops = {name.partition("/")[0] for name in bundle.namelist()}
    assert tops == {"simulations", "pyproject.toml", ".info"}


def test_the_lock_pins_everything_that_is_asked_for_and_nothing_by_place() -> None:
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    pins = [Requirement(line) for line in lines if not line.startswith("#")]
    for pin in pins:
        assert re.fullmatch(r"==[0-9][0-9a-z.]*", str(pin.specifier)), f"{pin} is not one public version"

    project = pyproject()["project"]
    extras = project["optional-dependencies"]
    needed = [extras[name] for name in ("simulation", "benchmarks", "dev")]
    asked = [Requirement(text) for text in sum(needed, project["dependencies"])]
    by_name = {canonicalize_name(pin.name): pin for pin in pins}
    for requirement in asked:
        pin = by_name[canonicalize_name(requirement.name)]
        assert pin.marker is None, f"{pin} is for some platforms only"
        assert requirement.specifier.contains(str(pin.specifier).removeprefix("==")), f"{pin} is not {requirement}"
