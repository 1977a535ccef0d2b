"""Hostile texts: YAML settings, legends, rules and grids; CSV of ids, tables and lists; JSON beside data."""

import contextlib
import io
from functools import partial

import numpy as np
from hostile import Case
from hostile_stores import JSONS
from rasters import write_tiff

from cromss.config import parse
from cromss.downloads.manifest import MANIFEST_NAME, Manifest
from cromss.legend_files import read_legend
from cromss.offset import metadata_offset
from cromss.oscd import split_cities
from cromss.rule_files import read_rules
from cromss.scene_names import read_ids
from cromss.settings import MultiModalSettings
from cromss.settings.bench import list_cells
from cromss.splits import saved_order
from cromss.synthetic.rasters import claim
from cromss.tables import read_published
from cromss.training.release import verify

IDS = ["a", "b", "c"]
LEGEND = "classes: {other: b4aaa0, trees: 1b6b3a}\ncodes: {1: other, 2: trees}\n"
LAUGHS = "a: &a [x, x]\n" + "".join(
    f"{b}: &{b} [{', '.join(f'*{a}' for _ in range(9))}]\n" for a, b in zip("abcdefghi", "bcdefghij")
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{b}: &{b} {{<<: [{', '.join(f'*{a}' for _ in range(9))}]}}\n" for a, b in zip("abcdefgh", "bcdefghi")
)


def put(content, folder, name):
    path = folder / name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return path


def configured(path):
    """As a training reads `--config`: the line on standard error."""
    said = io.StringIO()
    with contextlib.redirect_stderr(said):
        try:
            parse(MultiModalSettings, ["--config", str(path)])
        except SystemExit as stop:
            raise ValueError(f"{said.getvalue()[:-1]}, status {stop.code}") from None


def legend(path):
    read_legend(str(path), "label_codes")


def grid(path):
    list_cells(path, str(path.parent))


def split(path):
    saved_order(path, IDS, 42)


def cities(path):
    split_cities(path.parent.parent, "official")


def manifest(path):
    with Manifest(path.parent, {"source": "a"}):
        pass


def world(path):
    claim(path.parent, {"seed": 1})


def release(content, folder):
    return put(content, folder / "release", "SHA256SUMS").parent


def scene(content, folder):
    """A scene with metadata beside it."""
    write_tiff(folder / "scene" / "B2.tif", np.ones((2, 2), np.uint16))
    return put(content, folder / "scene", "metadata.json").parent


YAMLS = {
    "object": "a: !!python/object/apply:os.system ['true']",
    "object as key": "!!python/name:os.system : 1",
    "module": "a: !!python/module:os",
    "tuple": "a: !!python/tuple [1]",
    "new": "a: !!python/object/new:subprocess.Popen [[ls]]",
    "custom tag": "a: !mine 3",
    "wrong bool": "a: !!bool x",
    "wrong int": "a: !!int x",
    "wrong float": "a: !!float x",
    "wrong time": "a: !!timestamp x",
    "wrong binary": "a: !!binary '*'",
    "impossible date": "a: 2020-13-45",
    "directive": "%YAML 9.9\n---\na: 1",
    "two documents": "a: 1\n---\nb: 2",
    "list": "[1, 2]",
    "text": "epochs",
    "number": "3",
    "unclosed": "a: [",
    "tab": "a:\n\t- b",
    "undefined alias": "a: *b",
    "alias of itself": "seed: &a [*a]",
    "laughs": LAUGHS,
    "laughs as value": LAUGHS + "seed: *i\n",
    "merge bomb": MERGES,
    "deep list": "a: " + "[" * 4000,
    "deep mapping": "{a: " * 5000,
    "deep blocks": "".join(" " * i + "a:\n" for i in range(1500)),
    "key twice": "epochs: 1\nepochs: 2",
    "long key": f"? {'k' * 2000}\n: 1\n",
    "many keys": "{" + ", ".join(f"k{i}: {i}" for i in range(2000)) + "}",
    "key list": "? [1]\n: 2",
    "key of a mapping": "? {a: 1}\n: 2",
    "NUL": "epochs: \0",
    "UTF-16": "epochs: 3".encode("utf-16"),
    "latin-1": "name: \xe9".encode("latin-1"),
    "noise": bytes(range(256)),
    "octal": "epochs: 010",
}

SETTINGS = {
    "unknown key": "epoch: 3",
    "unknown number": "3: 3",
    "text for a number": "epochs: many",
    "list for a number": "epochs: [1, 2]",
    "mapping": "epochs: {a: 1}",
    "nothing": "epochs:",
    "fraction": "epochs: 1.5",
    "infinite": "epochs: .inf",
    "not a number": "learning_rate: .nan",
    "huge": "epochs: " + "9" * 5000,
    "huge hex": "epochs: 0x" + "f" * 50_000,
    "huge of sixties": "epochs: 1" + ":59" * 20_000,
    "negative": "epochs: -1",
    "text for bool": "amp: maybe",
    "number for bool": "amp: 3",
    "choice": "fusion_type: early",
    "set": "name: !!set {a, b}",
    "bytes": "name: !!binary aGk=",
    "pairs": "seed: !!omap [a: 1]",
    "flag as a value": "name: --epochs",
    "flags in a list": "seed: [1, --epochs, 3]",
    "NUL in text": 'name: "a\\0b"',
    "lone surrogate": 'name: "\\ud800"',
    "lines in text": 'name: "a\\nb"',
}

LEGENDS = {
    "object": LEGEND + "name: !!python/object/apply:os.system ['true']",
    "laughs": LAUGHS,
    "unknown key": LEGEND + "code: 3",
    "no classes": "codes: {1: a}",
    "no codes": "classes: {a: '000000', b: '000001'}",
    "many classes": "classes: {" + ", ".join(f"c{i}: '{i:06d}'" for i in range(300)) + "}\ncodes: {1: c1}",
    "one class": "classes: {a: '000000'}\ncodes: {1: a}",
    "colour": LEGEND.replace("1b6b3a", "green"),
    "code text": LEGEND.replace("2: trees", "x: trees"),
    "code huge": LEGEND.replace("2: trees", "9" * 4000 + ": trees"),
    "code hex": LEGEND.replace("2: trees", "0x" + "f" * 20_000 + ": trees"),
    "code list": LEGEND.replace("2: trees", "[2]: trees"),
    "class unknown": LEGEND.replace("2: trees", "2: tree"),
    "name number": LEGEND + "name: 3",
    "name NUL": LEGEND + 'name: "a\\0"',
    "ignored text": LEGEND + "ignored: all",
    "laughs as name": LAUGHS + "name: *i\n" + LEGEND.replace("classes", "classes"),
    "surrogate": LEGEND.replace("trees", '"\\ud800"'),
}

RULES = {
    "text": "rules: coarsen",
    "laughs": "rules:\n  - a: &a [x]\n" + LAUGHS.replace("a: &a [x, x]\n", ""),
    "unknown": "rules: [{shrink: 3}]",
    "two at once": "rules: [{coarsen: 3, translate: [1, 1]}]",
    "text for a number": "rules: [{coarsen: wide}]",
    "list for a number": "rules: [{coarsen: [[1]]}]",
    "huge": "rules: [{coarsen: 0x" + "f" * 3000 + "}]",
    "negative": "rules: [{coarsen: -3}]",
    "zero": "rules: [{coarsen: 0}]",
    "infinite": "rules: [{coarsen: .inf}]",
    "nan": "rules: [{coarsen: .nan}]",
    "far": "rules: [{translate: [.inf, 0]}]",
    "missing argument": "rules: [{translate: [1]}]",
    "argument unknown": "rules: [{coarsen: {sides: 3}}]",
    "matrix missing": "rules: [{confuse: {matrix: gone.csv}}]",
    "matrix a folder": "rules: [{confuse: {matrix: .}}]",
    "matrix ragged": "rules: [{confuse: {matrix: [[1], [0, 1]]}}]",
    "matrix of three": "rules: [{confuse: {matrix: [[1,0,0],[0,1,0],[0,0,1]]}}]",
    "matrix nan": "rules: [{confuse: {matrix: [[.nan, 1], [0, 1]]}}]",
    "matrix negative": "rules: [{confuse: {matrix: [[-1, 2], [0, 1]]}}]",
    "matrix text": "rules: [{confuse: {matrix: [[a, b], [c, d]]}}]",
    "matrix NUL": 'rules: [{confuse: {matrix: "a\\0.csv"}}]',
}

GRIDS = {
    "empty": "",
    "list": "[1]",
    "unknown": "sets: {}\nweight: 3",
    "sets text": "sets: DW",
    "laughs": LAUGHS,
    "recipe missing": "sets: {DW: {recipe: gone.yaml}}\nweights: {a: {path: random}}",
    "seeds text": "sets: {DW: {recipe: a.yaml}}\nweights: {a: {path: random}}\nseeds: [a]",
    "NUL": 'sets: {DW: {recipe: "a\\0"}}\nweights: {a: {path: random}}',
}

SCENE = "20190704T054639_20190704T054831_T43RCP"
TABLES = {
    "empty": "",
    "blank": "\n\n\n",
    "header alone": "id,season1\n",
    "id twice": f"1,{SCENE}\n0001,{SCENE}\n",
    "gap": f"1,{SCENE}\n,{SCENE}\n",
    "no scene": f"1,{SCENE}\n2,\n",
    "fewer columns": f"1,{SCENE},{SCENE}2\n2,{SCENE}\n",
    "more columns": f"1,{SCENE}\n2,{SCENE},{SCENE}2\n",
    "header of more": f"id,season1,season2\n1,{SCENE}\n",
    "semicolons": f"1;{SCENE}\n",
    "tabs": f"1\t{SCENE}\n",
    "undated": "1,a scene\n",
    "same scene": f"1,{SCENE},{SCENE}\n",
    "NUL": f"1,{SCENE}\n2\0,{SCENE}\n",
    "zeros": bytes(1000),
    "UTF-16": f"1,{SCENE}\n".encode("utf-16"),
    "latin-1": "\xe9,a\n".encode("latin-1"),
    "noise": bytes(range(128, 256)) * 10,
    "open quote": f'1,"{SCENE}\n2,{SCENE}\n',
    "endless field": "1," + "a" * 200_000,
    "huge number": "9" * 5000 + f",{SCENE}\n",
    "id that climbs": f"../../etc,{SCENE}\n",
    "scene that climbs": f"1,../../{SCENE}\n",
    "absolute scene": f"1,/{SCENE}\n",
    "id of lines": f'"a\nb",{SCENE}\n',
    "control character": f"a\x1b[2J,{SCENE}\n",
    "json": '[{"id": 1}]',
    "html": "<html>\n<body>\n</body>\n",
}

SPLITS = {
    "empty": "",
    "one missing": "a\nb\n",
    "one twice": "a\nb\nb\nc\n",
    "another": "a\nb\nd\n",
    "another seed": "# seed: 7\na\nb\nc\n",
    "NUL": "a\0\nb\nc\n",
    "latin-1": b"\xe9\nb\nc\n",
    "zeros": bytes(100),
    "one line": "a b c",
    "csv": "a,b,c",
    "endless": "a" * 10**6,
}

PUBLISHED = {
    "latin-1": b"set,oa\n\xe9,3\n",
    "no percentage": "set,oa\nDW,high\n",
    "beyond": "set,oa\nDW,101\n",
    "short row": "set,input,oa\nDW\n",
    "long row": "set,oa\nDW,3,4\n",
    "endless field": "set,oa\nDW," + "9" * 200_000,
    "NUL": "set,oa\nDW,\0\n",
}

SUMS = {
    "empty": "",
    "no columns": "abc\n",
    "climbs": "0" * 64 + "  ../../etc/passwd\n",
    "absolute": "0" * 64 + "  /etc/passwd\n",
    "latin-1": b"\xe9  a\n",
    "gone": "0" * 64 + "  s2/model.safetensors\n",
    "noise": bytes(range(256)),
}

OFFSETS = {
    "cut": '{"properties": {',
    "deep": "[" * 100_000,
    "binary": b"\xff\xfe",
    "baseline text": '{"PROCESSING_BASELINE": "new"}',
    "baseline list": '{"PROCESSING_BASELINE": [1]}',
    "offset text": '{"RADIO_ADD_OFFSET_B1": "a"}',
    "long number": '{"PROCESSING_BASELINE": ' + "9" * 5000 + "}",
}

KINDS = {
    "config": ("a.yaml", configured, YAMLS | SETTINGS),
    "legend": ("a.yaml", legend, LEGENDS),
    "rules": ("a.yaml", read_rules, {name: LEGEND + rules for name, rules in RULES.items()}),
    "grid": ("a.yaml", grid, GRIDS),
    "ids": ("ids.csv", read_ids, TABLES),
    "split": ("split.txt", split, SPLITS),
    "results": ("results.csv", partial(read_published, scores=("oa",)), PUBLISHED),
    "world": ("world.json", world, JSONS),
    "download": (MANIFEST_NAME, manifest, JSONS),
}

CASES = {
    f"{kind}: {name}": Case(partial(put, content, name=file), read)
    for kind, (file, read, contents) in KINDS.items()
    for name, content in contents.items()
}
CASES |= {f"sums: {name}": Case(partial(release, content), verify) for name, content in SUMS.items()}
CASES |= {f"offset: {name}": Case(partial(scene, content), metadata_offset) for name, content in OFFSETS.items()}
for _name, _content in {"latin-1": b"\xe9", "twice": "a a"}.items():
    _make = partial(put, _content, name="Onera Satellite Change Detection dataset - Images/test.txt")
    CASES[f"cities: {_name}"] = Case(_make, cities)
