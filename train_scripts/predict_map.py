"""Land-cover map of one's own scene by a trained network."""

from cromss.config import run
from cromss.settings.mapping import MapSettings
from cromss.start_up import fast_imports


def main(settings: MapSettings) -> None:
    """Map the scene, and say which share each class has."""
    with fast_imports():
        from cromss.mapping import predict_map

    report = predict_map(
        settings.model,
        {"s2": settings.s2, "s1": settings.s1},
        settings.out,
        confidence=settings.confidence,
        probabilities=settings.probabilities,
        tile_size=settings.tile_size,
        overlap=settings.overlap,
        batch_size=settings.batch_size,
        workers=settings.workers,
        s2_offset=None if settings.s2_offset == "auto" else int(settings.s2_offset),
        accelerator=settings.accelerator,
    )
    for name, share in report.shares.items():
        print(f"{name}: {100 * share:.1f} %")
    print(
        f"without data: {100 * report.without_data:.1f} %; {report.pixels / 1e6:.2f} Mpx in {report.seconds:.0f} s, "
        f"{report.network_seconds:.0f} s of them in the network",
        f"written: {report.path}",
        sep="\n",
    )


if __name__ == "__main__":
    run(main, MapSettings)
