"""Which package and module may import which. Read from the source, so that nothing need be importable."""

import ast
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "launch": {"launch", "configs", "train", "model", "data"},
    "train": {"train", "model", "data"},
    "configs": {"configs", "model.config", "data.config", "train.config"},
    "model": {"model"},
    "data": {"data"},
}
# Inside model a file may import those of its own layer and of the layers below it.
MODEL_LAYERS = [
    {"model.decode", "model.hf", "model.lora"},
    {"model.transformer"},
    {"model.attention", "model.recurrent", "model.mlp", "model.moe", "model.experts"},
    {"model.forward_pass"},
    {"model.key_values"},
    {"model.layers", "model.cache", "model.kernels", "model.positions"},
    {"model.quantized_weights"},
    {"model.config", "model.sharding", "model.cost", "model.quantized", "model.paths", "model.panels", "model.leaves"},
]
# Inside launch a package may import itself, and those of its own layer and of the layers below it.
LAUNCH_LAYERS = [
    {"launch.cli", "launch.api"},
    {"launch.commands"},
    {"launch.quality", "launch.report"},
    {"launch.inference", "launch.plan", "launch.bench"},
    {"launch.machine", "launch.experiments"},
    {"launch.cluster", "launch.arguments"},
]
# Heavy or third-party libraries, and the only packages that may import them.
ALLOWED_PACKAGES = {
    "jax": {"model", "train", "launch"},
    "flax": {"model", "train"},
    "optax": {"train"},
    "orbax": {"train"},
    "qwix": {"model"},
    "rich": {"train", "launch"},
    "torch": {"launch"},
    "transformers": {"launch"},
}
FILES = sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


MODULES = {module_name(path) for path in FILES}


def imports(path: Path) -> set[str]:
    """Every module a file names, at its top or inside a function: `from a import b` is a.b where that is a module."""
    modules = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        if isinstance(node, ast.ImportFrom):
            inner = {f"{node.module}.{alias.name}" for alias in node.names}
            modules |= {name if name in MODULES else node.module for name in inner}
    return modules


def layer_index(name: str, layers: list[set[str]]) -> int | None:
    """The index of the layer that a module belongs to, or None."""
    indices = [i for i, names in enumerate(layers) if any(name == n or name.startswith(n + ".") for n in names)]
    return indices[0] if indices else None


def test_every_file_of_the_house_is_read():
    assert len(FILES) > 60 and "model.transformer" in MODULES and "train.listeners.console" in MODULES


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_arrows_between_packages(path):
    package = module_name(path).split(".")[0]
    for name in imports(path):
        if name.split(".")[0] in PACKAGES:
            allowed = PACKAGES[package]
            assert any(name == a or name.startswith(a + ".") for a in allowed), f"{module_name(path)} imports {name}"
        if name.split(".")[0] in ALLOWED_PACKAGES:
            assert package in ALLOWED_PACKAGES[name.split(".")[0]], f"{module_name(path)} imports {name}"


@pytest.mark.parametrize("path", [p for p in FILES if module_name(p).startswith(("model", "launch"))], ids=module_name)
def test_arrows_inside_model_and_launch(path):
    layers = MODEL_LAYERS if module_name(path).startswith("model") else LAUNCH_LAYERS
    own_layer = layer_index(module_name(path), layers)
    for name in imports(path):
        imported_layer = layer_index(name, layers)
        if own_layer is not None and imported_layer is not None:
            assert imported_layer >= own_layer, f"{module_name(path)} imports {name}, which stands above it"


def test_every_file_of_launch_has_a_room():
    assert [name for name in MODULES if name.startswith("launch.") and layer_index(name, LAUNCH_LAYERS) is None] == []


def test_no_file_imports_itself_by_way_of_others():
    """Imports inside functions count, too: a circle is no less one for being closed late."""
    graph = {module_name(path): sorted(imports(path) & MODULES) for path in FILES}
    list(TopologicalSorter(graph).static_order())  # raises CycleError, which names the circle


@pytest.mark.parametrize("path", FILES, ids=module_name)
def test_every_file_says_what_it_is(path):
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{module_name(path)} has no docstring"


def test_the_configs_of_training_need_no_jax():
    """train/config.py and what it imports are dataclasses only."""
    pending, seen = ["train.config"], set()
    while pending:
        name = pending.pop()
        seen.add(name)
        file = ROOT / (name.replace(".", "/") + ".py")
        imported = imports(file if file.is_file() else file.with_suffix("") / "__init__.py")
        assert not {n.split(".")[0] for n in imported} & {"jax", "optax", "flax", "orbax"}, name
        pending += [n for n in imported & MODULES if n not in seen]


def test_the_top_level_holds_what_its_owner_fixed():
    allowed = {"pyproject.toml", "requirements.lock", "README.md", "LICENSE", "findings", *PACKAGES, "tests"}
    ignored = {"runs", "build", "skald.egg-info", "__pycache__"}
    assert {p.name for p in ROOT.iterdir() if not p.name.startswith(".")} - ignored <= allowed
