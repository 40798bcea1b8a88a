"""The structure of the library, read from its imports: one direction, no circle, a room for each dependency."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]

# A room may import itself and the rooms of a lower number.
HEIGHT = {
    "errors": 0,
    "memory": 0,
    "files": 1,
    "types": 1,
    "parallel": 1,
    "moments": 2,
    "losses": 2,
    "kernels": 2,
    "layers": 3,
    "text": 3,
    "models": 4,
    "configs": 5,
    "torch_import": 5,
    "input": 6,
    "config": 6,
    "published": 6,
    "evaluation": 7,
    "video": 7,
    "data": 8,
    "reporting": 8,
    "retrieval": 9,
    "training": 10,
    "run": 11,
    "api": 12,
    "library": 12,
    "modes": 13,
}


def modules():
    """Dotted name -> syntax tree of every file of the package."""
    found = {}
    for folder, package in (("vmr_jax", "vmr_jax"), ("data", "vmr_jax.data"), ("configs", "vmr_jax.configs")):
        for path in (ROOT / folder).rglob("*.py"):
            name = ".".join([package, *path.relative_to(ROOT / folder).with_suffix("").parts])
            found[name.removesuffix(".__init__")] = ast.parse(path.read_text(encoding="utf-8"))
    return found


TREES = modules()


def imports(tree, at_start=False):
    """Names that a file imports; with `at_start` not those inside functions. For type checkers alone: none."""
    body = list(tree.body)
    while body:
        node = body.pop()
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            continue
        if isinstance(node, ast.FunctionDef) and at_start:
            continue
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)
        body += [child for child in ast.iter_child_nodes(node) if not isinstance(child, ast.expr)]


def own(name):
    """The file of the package that an imported name is, or is in; None for others."""
    while name and name not in TREES:
        name = name.rpartition(".")[0]
    return name if name not in ("", "vmr_jax") else None


GRAPH = {name: {own(x) for x in imports(tree)} - {None, name} for name, tree in TREES.items()}


def room(name):
    return name.split(".")[1]


def test_no_circle_among_files():
    """Not even by imports inside functions: a topological order exists."""
    left = {name: set(needs) for name, needs in GRAPH.items()}
    while free := [name for name, needs in left.items() if not needs & left.keys()]:
        for name in free:
            del left[name]
    assert left == {}


def test_every_room_has_a_height():
    assert {room(name) for name in TREES if name != "vmr_jax"} == set(HEIGHT)


@pytest.mark.parametrize("name", sorted(set(TREES) - {"vmr_jax"}))
def test_a_lower_room_never_imports_a_higher_one(name):
    wrong = [
        other
        for other in GRAPH[name]
        if room(other) != room(name) and HEIGHT[room(other)] >= HEIGHT[room(name)]
    ]
    assert wrong == []


@pytest.mark.parametrize(
    "package,rooms",
    [
        ("orbax", {"vmr_jax.training.checkpoint"}),
        ("tensorflow", {"vmr_jax.input", "vmr_jax.data"}),
        ("tensorflow_datasets", {"vmr_jax.input", "vmr_jax.data"}),
        ("apache_beam", {"vmr_jax.input"}),
        ("pymilvus", {"vmr_jax.retrieval"}),
        ("starlette", {"vmr_jax.retrieval"}),
        ("av", {"vmr_jax.video", "vmr_jax.data"}),
    ],
)
def test_each_dependency_has_its_room(package, rooms):
    users = {n for n, tree in TREES.items() if any(x.split(".")[0] == package for x in imports(tree))}
    assert users and all(any(f"{name}.".startswith(f"{r}.") for r in rooms) for name in users)


def test_tensorflow_is_imported_when_it_is_needed_and_pytorch_never():
    """But where a file is a TFDS builder, which is imported when it is needed."""
    assert not [n for n, t in TREES.items() if any(x.split(".")[0] == "torch" for x in imports(t))]
    heavy = ("tensorflow", "tensorflow_datasets", "apache_beam")
    users = {n for n, t in TREES.items() if any(x.split(".")[0] in heavy for x in imports(t, at_start=True))}
    builders = {f"vmr_jax.data.{name}.builder" for name in ("films", "storyboard")}
    assert users == builders | {"vmr_jax.data.registered"}


def test_a_command_imports_no_keras_with_tensorflow():
    """Its import would take a third of that of TensorFlow."""
    program = "; ".join(
        (
            "import sys",
            "from vmr_jax.modes.launch import start_lightly",
            "start_lightly()",
            "import tensorflow",
            "sys.exit('keras' in sys.modules)",
        )
    )
    assert subprocess.run([sys.executable, "-c", program], cwd=ROOT, timeout=300).returncode == 0


def test_devices_are_known_to_one_file():
    """No other file of the library asks JAX for its devices, processes or backend."""
    asked = (
        "devices",
        "local_devices",
        "device_count",
        "local_device_count",
        "process_index",
        "default_backend",
    )
    for name, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "jax":
                assert node.attr not in asked or name == "vmr_jax.parallel", name
