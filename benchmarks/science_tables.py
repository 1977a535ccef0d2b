"""Tables and figures of RESULTS.md from what `science.py` has found."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from pages import markdown, write_tables
from science_grid import EXACT, GRIDS, Grid

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
    ("CromSS-mid, against multi-modal", "CromSS-mid", "multi-modal"),
    ("CromSS-mid, against single-modal", "CromSS-mid", "single-modal"),
    ("CromSS-mid, against random weights", "CromSS-mid", "random"),
    ("common branch, against none", "CromSS-mid, common branch", "CromSS-mid"),
    ("late fusion, against middle", "CromSS-late", "CromSS-mid"),
    ("exact labels, against CromSS-mid", "multi-modal, exact labels", "CromSS-mid"),
)
"""What is asked, the method and the one that it is compared with."""

EXACT_NOISE = (EXACT[0], str(EXACT[1]))


def write_page(page: Path, rows: Rows, selection: Rows, figures: Path) -> None:
    """Fill the tables of each grid that the page has, and draw the figures of those that were run."""
    tables = {}
    for name in ("full", "reduced"):
        found, selected = ([row for row in table if row["grid"] == name] for table in (rows, selection))
        tables |= {f"science {name} {what}": text for what, text in grid_tables(name, found, selected).items()}
        if selected:
            draw(selected, figures / figure_name(name))
    write_tables(page, tables)


def grid_tables(name: str, rows: Rows, selection: Rows) -> dict[str, str]:
    """Tables of a grid by what they tell; where nothing was run, they say so."""
    if not rows:
        return dict.fromkeys(("transfer", "noise", "gains", "classes", "selection"), "Not run yet.")
    grid, picture = GRIDS[name], f"![Clean share of the selected labels by epoch](benchmarks/{figure_name(name)})"
    return {
        "transfer": f"{provenance(rows)}\n\n{_by_input(grid, rows, transfer_table)}",
        "noise": _by_input(grid, rows, noise_table),
        "gains": _by_input(grid, rows, gain_table),
        "classes": _by_input(grid, rows, class_table),
        "selection": f"{selection_table(selection)}\n\n{picture}" if selection else "Not run yet.",
    }


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
            gains = [ours[seed] - theirs[seed] for seed in sorted(ours.keys() & theirs.keys())]
            won = f" ({sum(gain > 0 for gain in gains)}/{len(gains)})" if gains else ""
            values[f"{kind} {level}"] = cell(gains, sign="+") + won
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
    return f"Labels of pretraining: {kind} {level}.\n\n{markdown(lines)}" if lines else "Not run yet."


def selection_table(rows: Rows) -> str:
    """Clean share of the selected labels at the last epoch, by method, noise and class."""
    kinds = selections(rows)
    last = max(int(row["epoch"]) for row in rows)
    groups: dict[tuple[str, ...], list[Mapping[str, str]]] = {}
    for row in rows:
        if int(row["epoch"]) == last:
            key = row["method"], f"{row['noise']} {row['level']}", row["class"].replace("_", " ")
            groups.setdefault(key, []).append(row)
    lines = [
        dict(zip(("method", "noise", "class"), key))
        | {kind.replace("_", ", "): cell([float(row[kind]) for row in group if row[kind]]) for kind in kinds}
        for key, group in groups.items()
    ]
    return markdown(lines)


def draw(rows: Rows, path: Path) -> None:
    """Clean share of the selected labels of all classes by epoch: a panel a noise, mean over seeds, CromSS-mid."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    shown = [row for row in rows if (row["method"], row["class"]) == ("CromSS-mid", "all")]
    noises = list(dict.fromkeys((row["noise"], row["level"]) for row in shown))
    across = min(3, len(noises))
    down = -(-len(noises) // across)
    figure = Figure(figsize=(4 * across, 3 * down), layout="constrained")
    FigureCanvasAgg(figure)
    for axis, (kind, level) in zip(figure.subplots(down, across, squeeze=False).flat, noises):
        for name, (epochs, means) in curves(_under(shown, (kind, level))).items():
            dash = {"cross": "-", "single": "--"}.get(name.partition("_")[0], ":")
            colour = {"s1": "#7a2f8f", "s2": "#1b7f5c"}.get(name.partition("_")[2], "#707070")
            axis.plot(epochs, means, dash, color=colour, label=name.replace("_", ", "))
        axis.set(title=f"{kind} {level}", xlabel="epoch", ylabel="clean labels, %")
    figure.axes[0].legend(fontsize=7)
    figure.savefig(path, dpi=110)


def curves(rows: Rows) -> dict[str, tuple[list[int], list[float]]]:
    """Selection -> epochs, and mean clean share over the runs."""
    epochs = sorted({int(row["epoch"]) for row in rows})
    return {
        kind: (epochs, [summarise([float(r[kind]) for r in rows if int(r["epoch"]) == e]).mean for e in epochs])
        for kind in selections(rows)
    }


def selections(rows: Rows) -> list[str]:
    """Columns that tell of a selection, chance first."""
    return ["random", *(key for key in rows[0] if key.startswith(("cross_", "single_")))]


def scores(rows: Rows, method: str, state: str, fraction: str) -> dict[str, float]:
    """Seed -> score."""
    return _values(rows, SCORE, method=method, state=state, fraction=fraction)


def cell(values: Iterable[float], sign: str = "") -> str:
    """Mean and sample standard deviation; a dash for no value."""
    summary = summarise(list(values))
    if summary is None:
        return "-"
    return f"{summary.mean:{sign}.1f}" + ("" if summary.std is None else f" ± {summary.std:.1f}")


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
    titles = {"s1": "Sentinel-1", "s2": "Sentinel-2"}
    parts = {name: [row for row in rows if row["input"] == name] for name in grid.inputs}
    return "\n\n".join(f"**{titles[name]}**\n\n{table(grid, part)}" for name, part in parts.items() if part)
