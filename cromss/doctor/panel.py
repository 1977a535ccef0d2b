"""A picture of a few locations in all stores: the worst first, then others evenly spread."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from cromss.doctor.examination import Examination, spread
from cromss.doctor.findings import NOTE
from cromss.doctor.subject import Subject
from cromss.sensors import MODALITIES

_SHOWN_BANDS = {"s1": (0,), "s2": (3, 2, 1), "ortho": (1, 2, 3)}


def draw_panel(examination: Examination, path: Path, num_locations: int = 4) -> None:
    """A row for each location, a column for each store's first season, or for both of two."""
    from matplotlib.figure import Figure

    subjects, rows = examination.subjects, shown(examination, num_locations)
    columns = [
        (subject, season)
        for subject in subjects
        for season in range(subject.meta.num_seasons if subject.meta.num_seasons == 2 else 1)
    ]
    figure = Figure(figsize=(2.2 * len(columns), 2.4 * len(rows)), layout="constrained")
    for axes, index in zip(figure.subplots(len(rows), len(columns), squeeze=False), rows):
        for axis, (subject, season) in zip(axes, columns):
            values = subject.read(index)[season].values
            axis.set_title(f"{subject.ids[index]}\n{subject.path.resolve().name}", fontsize=7)
            axis.set_axis_off()
            if values is not None:
                axis.imshow(displayable(values, subject), cmap="gray", interpolation="nearest")
    figure.savefig(path, dpi=120)


def shown(examination: Examination, num_locations: int) -> list[int]:
    """Locations to draw, those of the worst findings first."""
    least = min(map(len, examination.subjects))
    worst = [f.index for f in examination.findings if f.index is not None and f.severity != NOTE]
    candidates: Sequence[int] = [*worst, *spread(least, 1, num_locations)]
    return [index for index in dict.fromkeys(candidates) if index < least][:num_locations]


def displayable(values: np.ndarray, subject: Subject) -> np.ndarray:
    """A record as a picture: RGB, VV in grey, or classes in legend colours."""
    if subject.meta.modality not in MODALITIES:
        return subject.legend.palette()[values]
    picture = np.nan_to_num(values[list(_SHOWN_BANDS[subject.meta.modality])].astype(np.float64))
    low, high = np.percentile(picture, [2, 98])
    picture = np.clip((picture - low) / max(high - low, 1e-6), 0, 1)
    return np.moveaxis(picture, 0, -1).squeeze()
