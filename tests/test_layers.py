"""Who may import whom: the layers, walked through the syntax trees."""

import ast

import pytest
from conftest import REPOSITORY

ROOMS = (
    (
        "__init__",
        "sensors",
        "legends",
        "store",
        "yaml_files",
        "work_ahead",
        "disk_space",
        "signals",
        "start_up",
        "gpus",
        "opencv",
    ),
    (
        *("noisy_labels", "losses", "metrics", "layouts", "scenes", "panels"),
        *("downstream_sets", "encoder_names", "input_checks", "normalization", "oscd", "scene_names"),
        *("splits", "tables", "fields", "noise_rules", "rule_files", "legend_files", "expected_input"),
        *("label_audit", "label_quality", "mask_pairs", "quality_figures", "quality_report", "downloads", "statistics"),
        *("archives", "scene_sources", "zarr_shards", "placements"),
    ),
    (
        *("objective", "models", "datasets", "batch_transforms", "epoch_sums", "gathering", "synthetic", "optimisers"),
        *("offset", "aligned_stores", "preparation", "tiles", "analysis", "doctor", "label_places", "clean_shares"),
    ),
    ("tasks", "callbacks", "checkpointing", "datamodule", "collation", "progress"),
    ("config", "settings"),
    ("training", "default_sets", "mapping"),
)
LAYERS = {room: layer for layer, rooms in enumerate(ROOMS) for room in rooms}
NO_TORCH = {
    *("sensors", "legends", "store", "layouts", "scenes", "synthetic", "panels", "config", "settings"),
    *("offset", "aligned_stores", "preparation", "tiles", "downstream_sets", "normalization", "oscd"),
    *("encoder_names", "expected_input", "input_checks", "scene_names", "splits", "tables", "yaml_files"),
    *("fields", "noise_rules", "rule_files", "legend_files", "mask_pairs", "downloads", "work_ahead", "doctor"),
    *("archives", "scene_sources", "zarr_shards", "disk_space", "statistics", "label_places", "signals", "start_up"),
}
WRITING = {"layouts", "scenes", "scene_names", "oscd", "offset", "preparation", "aligned_stores", "tiles"}
WRITING |= {"archives", "scene_sources", "zarr_shards"}
PACKAGE = sorted((REPOSITORY / "cromss").rglob("*.py"))


def room(path):
    parts = path.relative_to(REPOSITORY / "cromss").parts
    return parts[0].removesuffix(".py")


def imported(path):
    """Dotted names of all imports of a file."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_rooms(path):
    names = (name.split(".") for name in imported(path))
    return {parts[1] for parts in names if parts[0] == "cromss" and len(parts) > 1 and parts[1] in LAYERS}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_imports_go_down(path):
    here = room(path)
    assert here in LAYERS, f"{path}: say which layer this room is in"
    for other in own_rooms(path) - {here}:
        same_level_ok = LAYERS[here] == LAYERS[other] and LAYERS[here] >= 1
        assert LAYERS[other] < LAYERS[here] or same_level_ok, f"{here} must not import {other}"


def test_models_and_data_never_meet():
    for path in PACKAGE:
        if room(path) == "models":
            assert not own_rooms(path) & ({"datasets", "datamodule", "store"} | WRITING)
        if room(path) in ("datasets", "datamodule", "batch_transforms"):
            assert "models" not in own_rooms(path)
        if room(path) == "tasks":
            assert not own_rooms(path) & {"datasets", "datamodule", "settings", "config"}


@pytest.mark.parametrize("path", [p for p in PACKAGE if room(p) in NO_TORCH], ids=lambda p: str(p.name))
def test_rooms_without_torch(path):
    assert not {name.split(".")[0] for name in imported(path)} & {"torch", "lightning", "timm", "torchvision"}


@pytest.mark.parametrize("path", PACKAGE, ids=lambda p: str(p.relative_to(REPOSITORY)))
def test_no_sys_path_no_asserts(path):
    source = path.read_text()
    assert "sys.path" not in source
    assert not any(isinstance(node, ast.Assert) for node in ast.walk(ast.parse(source)))


def test_opencv_is_imported_in_one_place():
    importing = [path for path in PACKAGE if any(name.split(".")[0] == "cv2" for name in imported(path))]
    assert [room(path) for path in importing] == ["opencv"]
