"""Tables and figures of RESULTS.md from what `science.py` has found."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from pages import cell, gain_cell, markdown, write_tables
from science_grid import CROMSS, EXACT, GRIDS, SINGLE_SELECTION, Grid

from cromss.tables import summarise

Rows = Sequence[Mapping[str, str]]

SCORE = "miou"
"""Score of the tables."""

COMPARISONS = (
    ("noisy labels, against random weights", "single-modal", "random"),
    ("generalised CE, against CE", "single-modal, generalised CE", "single-modal"),
    ("symmetric CE, against CE", "single-modal, symmetric CE", "single-modal"),
    ("co-teaching, against one network", "single-modal, co-teaching", "single-modal"),
    ("two modalities, against one", "multi-modal", "single-modal"),
    ("smoothing s, against none", "multi-modal, smoothing s", "multi-modal"),
    ("smoothing t, against none", "multi-modal, smoothing t", "multi-modal"),
    ("smoothing ts, against none", "multi-modal, smoothing ts", "multi-modal"),
    ("selection, against none", "multi-modal, selection", "multi-modal"),
    ("one modality: ts and selection, against none", SINGLE_SELECTION, "single-modal"),
    ("CromSS-mid, against multi-modal", CROMSS, "multi-modal"),
    ("CromSS-mid, against single-modal", CROMSS, "single-modal"),
    ("CromSS-mid, against one modality, ts and selection", CROMSS, SINGLE_SELECTION),
    ("CromSS-mid, against random weights", CROMSS, "random"),
    ("agreement, against CromSS-mid", "CromSS-mid, agreement", CROMSS),
    ("one modality: agreement, against ts and selection", f"{SINGLE_SELECTION} by agreement", SINGLE_SELECTION),
    ("common branch, against none", "CromSS-mid, common branch", CROMSS),
    ("late fusion, against middle", "CromSS-late", CROMSS),
    ("exact labels, against CromSS-mid", "multi-modal, exact labels", CROMSS),
)
"""What is asked, the method and the one that it is compared with."""

TITLES = {"s1": "Sentinel-1", "s2": "Sentinel-2"}
SELECTIONS = {
    "random": "chance",
    "single_s1": "S1 alone",
    "single_s2": "S2 alone",
    "cross_s1": "S1, crossed",
    "cross_s2": "S2, crossed",
}
"""Column of the selection table -> title."""

AGREEMENT, SINGLE_AGREEMENT = "CromSS-mid, agreement", f"{SINGLE_SELECTION} by agreement"
LATE = "CromSS-late"

SELECTION_COMPARISONS = (
    ("CromSS-mid: crossed, against its own confidence alone", (CROMSS, "cross"), (CROMSS, "single")),
    ("CromSS-mid, crossed, against pretraining of one modality", (CROMSS, "cross"), (SINGLE_SELECTION, "single")),
    (
        "CromSS-late, crossed, against pretraining of one modality",
        ("CromSS-late", "cross"),
        (SINGLE_SELECTION, "single"),
    ),
    ("CromSS-mid: agreement, against none", (AGREEMENT, "cross"), (CROMSS, "cross")),
    ("one modality: agreement, against none", (SINGLE_AGREEMENT, "single"), (SINGLE_SELECTION, "single")),
)
"""What is asked, and the methods and selections that are compared."""

DRAWN = (CROMSS, AGREEMENT, SINGLE_SELECTION, SINGLE_AGREEMENT)
"""Methods of the figure."""

NOTHING = "Not run yet."

EXACT_NOISE = (EXACT[0], str(EXACT[1]))


def write_page(page: Path, rows: Rows, selection: Rows, figures: Path) -> None:
    """Fill the tables of each grid that the page has, and draw the figures of those that were run."""
    tables = {}
    for name in ("full", "reduced", "ablation", "ideas"):
        found, selected = ([row for row in table if row["grid"] == name] for table in (rows, selection))
        if name in ("ablation", "ideas"):
            tables[f"science {name} changes"] = changes(found, selected)
            continue
        tables |= {f"science {name} {what}": text for what, text in grid_tables(name, found, selected).items()}
        if selected:
            draw(selected, figures / figure_name(name))
    write_tables(page, tables)


def grid_tables(name: str, rows: Rows, selection: Rows) -> dict[str, str]:
    """Tables of a grid by what they tell; where nothing was run, they say so."""
    if not rows:
        return dict.fromkeys(("transfer", "noise", "gains", "classes", "selection", "selected"), NOTHING)
    grid, picture = GRIDS[name], f"![Clean share of the selected labels by epoch](benchmarks/{figure_name(name)})"
    return {
        "transfer": f"{provenance(rows)}\n\n{_by_input(grid, rows, transfer_table)}",
        "noise": _by_input(grid, rows, noise_table),
        "gains": _by_input(grid, rows, gain_table),
        "classes": _by_input(grid, rows, class_table),
        "selection": f"{selection_table(selection)}\n\n{selection_gains(selection)}\n\n{picture}"
        if selection
        else NOTHING,
        "selected": selected_classes(_under(selection, _main(grid))) if selection else NOTHING,
    }


def changes(rows: Rows, selection: Rows) -> str:
    """Methods with one thing changed each, by noise: score, paired difference, and clean share of what is selected."""
    if not rows:
        return NOTHING
    noises = list(dict.fromkeys((row["noise"], row["level"]) for row in rows))
    parts = [changes_under(_under(rows, noise), _under(selection, noise)) for noise in noises]
    if len(parts) > 1:
        parts = [f"Labels of pretraining: {' '.join(noise)}.\n\n{part}" for noise, part in zip(noises, parts)]
    return "\n\n".join([provenance(rows), *parts])


def changes_under(rows: Rows, selection: Rows) -> str:
    """The same of one noise."""
    lines = []
    for method in _methods(rows):
        base, kind = (SINGLE_SELECTION, "single") if method.startswith(SINGLE_SELECTION) else (CROMSS, "cross")
        line = {"change": method}
        for modality, title in TITLES.items():
            of_one = [row for row in rows if row["input"] == modality]
            ours, plain = _frozen(of_one, method), _frozen(of_one, base)
            line[f"{title}, mIoU"] = cell(ours.values())
            line[f"{title}, gain"] = "" if method == base else gain_cell(ours, plain)
            clean, usual = (_values(_last(selection), f"{kind}_{modality}", method=m) for m in (method, base))
            line[f"{title}, clean labels"] = cell(clean.values())
            line[f"{title}, gain in them"] = "" if method == base else gain_cell(clean, usual)
        lines.append(line)
    return markdown(lines)


def figure_name(grid: str) -> str:
    """File of the figure of a grid, beside its CSV."""
    return f"science_selection_{grid}.png"


def provenance(rows: Rows) -> str:
    """How much was done, on what, and when."""
    told = [sorted({row[key] for row in rows}) for key in ("seed", "world", "hash", "machine", "date")]
    seeds, worlds, hashes, machines, dates = (", ".join(values) for values in told)
    return f"{len(rows)} transfers; seeds {seeds}; world {worlds} ({hashes}); {machines}; {dates}."


def transfer_table(grid: Grid, rows: Rows) -> str:
    """Methods by state of the encoder and share of the labels, under the main noise."""
    kind, level = grid.main_noise
    columns = {f"{s}, {f} %": (s, f) for s, f in dict.fromkeys((row["state"], row["fraction"]) for row in rows)}
    here = _under(rows, (kind, str(level)))
    lines = [
        {"method": m} | {title: cell(scores(here, m, s, f).values()) for title, (s, f) in columns.items()}
        for m in _methods(here)
    ]
    return f"Labels of pretraining: {kind} {level}.\n\n{markdown(lines)}"


def noise_table(grid: Grid, rows: Rows) -> str:
    """Methods by kind and level of the noise, encoder frozen, most labels."""
    lines = []
    for method in _methods(rows):
        values = {f"{k} {n}": cell(_frozen(_under(rows, (k, str(n))), method).values()) for k, n in grid.noises}
        lines.append({"method": method} | values)
    return markdown(lines)


def gain_table(grid: Grid, rows: Rows) -> str:
    """Paired differences over the seeds by noise, encoder frozen, most labels; in brackets, how many are gains."""
    lines = []
    for title, method, other in COMPARISONS:
        values = {}
        for kind, level in grid.noises:
            here = _under(rows, (kind, str(level)))
            ours, theirs = _frozen(here, method), _frozen(here, other)
            values[f"{kind} {level}"] = gain_cell(ours, theirs)
        lines.append({"points of mIoU": title} | values)
    return markdown(lines)


def class_table(grid: Grid, rows: Rows) -> str:
    """IoU of each class under the linear probe, by method, under the main noise."""
    kind, level = grid.main_noise
    here = [row for row in _under(rows, (kind, str(level))) if row["state"] == "probe"]
    classes = [key for key in rows[0] if key.startswith("iou ")]
    lines = [
        {"linear probe, IoU": m}
        | {key.removeprefix("iou "): cell(_values(here, key, method=m).values()) for key in classes}
        for m in _methods(here)
    ]
    return f"Labels of pretraining: {kind} {level}.\n\n{markdown(lines)}" if lines else NOTHING


def selection_table(rows: Rows) -> str:
    """Clean share of the selected labels, and error of the confidence, in the last epoch, by method and noise."""
    lines = []
    for method, kind, level in dict.fromkeys((row["method"], row["noise"], row["level"]) for row in rows):
        here = [row for row in _last(rows) if (row["noise"], row["level"]) == (kind, level)]
        line = {"method": method, "noise": f"{kind} {level}"}
        for name, title in SELECTIONS.items():
            line[title] = cell(_values(here, name, method=method).values())
        for modality in TITLES:
            line[f"{modality.upper()}, error"] = cell(_values(here, f"error_{modality}", method=method).values())
        lines.append(line)
    return markdown(lines)


def selection_gains(rows: Rows) -> str:
    """Paired differences in the clean share over the seeds, by noise and modality; in brackets, how many are gains."""
    lines, last = [], _last(rows)
    noises = dict.fromkeys((row["noise"], row["level"]) for row in rows)
    for title, (method, kind), (other, other_kind) in SELECTION_COMPARISONS:
        line = {"points of clean labels": title}
        for (noise, level), modality in itertools.product(noises, TITLES):
            here = [row for row in last if (row["noise"], row["level"]) == (noise, level)]
            ours = _values(here, f"{kind}_{modality}", method=method)
            theirs = _values(here, f"{other_kind}_{modality}", method=other)
            line[f"{noise} {level}, {modality.upper()}"] = gain_cell(ours, theirs)
        lines.append(line)
    return markdown(lines)


def selected_classes(rows: Rows) -> str:
    """Clean share of the selected labels in the last epoch, by class of the noisy label, with and without agreement."""
    lines = []
    told = [row for row in rows if row["class"] != "all" and row["method"] in (CROMSS, AGREEMENT)]
    for method, name in dict.fromkeys((row["method"], row["class"]) for row in told):
        here = [row for row in rows if row["class"] == name]
        shares = {title: cell(_values(here, key, method=method).values()) for key, title in SELECTIONS.items()}
        lines.append({"method": method, "class": name.replace("_", " ")} | shares)
    return markdown(lines) if lines else NOTHING


def draw(rows: Rows, path: Path) -> None:
    """Clean share of the selected labels of all classes by epoch, mean over seeds: a row a method, a column a noise; of
    many, those of level 2."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if row["class"] == "all"]
    noises = list(dict.fromkeys((row["noise"], row["level"]) for row in shown))
    noises = [noise for noise in noises if len(noises) < 5 or noise[1] == "2"]
    methods = [method for method in DRAWN if method in _methods(shown)] or _methods(shown)[:1]
    figure = Figure(figsize=(3.4 * len(noises), 2.8 * len(methods)), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(len(methods), len(noises), squeeze=False, sharex=True, sharey="col")
    for line, method in zip(axes, methods):
        for axis, (kind, level) in zip(line, noises):
            here = [row for row in shown if (row["method"], row["noise"], row["level"]) == (method, kind, level)]
            for name, (epochs, means) in curves(here).items():
                dash = {"cross": "-", "single": "--"}.get(name.partition("_")[0], ":")
                colour = {"s1": "#7a2f8f", "s2": "#1b7f5c"}.get(name.partition("_")[2], "#707070")
                axis.plot(epochs, means, dash, color=colour, label=SELECTIONS[name])
            axis.set_title(f"{method}\n{kind} {level}", fontsize=8)
    for axis in axes[-1]:
        axis.set_xlabel("epoch")
    for axis in axes[:, 0]:
        axis.set_ylabel("clean labels, %")
    axes[0, 0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def curves(rows: Rows) -> dict[str, tuple[list[int], list[float]]]:
    """Selection -> epochs, and mean clean share over the runs."""
    found = {}
    for kind in SELECTIONS:
        values: dict[int, list[float]] = {}
        for row in rows:
            if row[kind]:
                values.setdefault(int(row["epoch"]), []).append(float(row[kind]))
        if values:
            found[kind] = sorted(values), [summarise(values[epoch]).mean for epoch in sorted(values)]
    return found


def scores(rows: Rows, method: str, state: str, fraction: str) -> dict[str, float]:
    """Seed -> score."""
    return _values(rows, SCORE, method=method, state=state, fraction=fraction)


def _last(rows: Rows) -> Rows:
    """Rows of all classes at the last epoch."""
    last = max((int(row["epoch"]) for row in rows), default=0)
    return [row for row in rows if (row["class"], int(row["epoch"])) == ("all", last)]


def _main(grid: Grid) -> tuple[str, str]:
    kind, level = grid.main_noise
    return kind, str(level)


def _values(rows: Rows, key: str, **wanted: str) -> dict[str, float]:
    chosen = (row for row in rows if all(row[name] == value for name, value in wanted.items()))
    return {row["seed"]: float(row[key]) for row in chosen if row[key]}


def _frozen(rows: Rows, method: str) -> dict[str, float]:
    most = max((row["fraction"] for row in rows), key=float, default="")
    return scores(rows, method, "frozen", most)


def _under(rows: Rows, noise: tuple[str, str]) -> Rows:
    """Rows of one noise, and of what learns no noisy labels."""
    return [row for row in rows if (row["noise"], row["level"]) in (noise, EXACT_NOISE)]


def _methods(rows: Rows) -> list[str]:
    return list(dict.fromkeys(row["method"] for row in rows))


def _by_input(grid: Grid, rows: Rows, table: Callable[[Grid, Rows], str]) -> str:
    parts = {name: [row for row in rows if row["input"] == name] for name in grid.inputs}
    return "\n\n".join(f"**{TITLES[name]}**\n\n{table(grid, part)}" for name, part in parts.items() if part)
