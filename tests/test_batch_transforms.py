"""The prepared batch."""

import re

import numpy as np
import pytest
import torch
from devices import Asked, fake_gpu

from cromss.batch_transforms import BatchTransform
from cromss.legends import IGNORE_INDEX
from cromss.noisy_labels.smoothing import label_prior
from cromss.placements import Placement, cut
from cromss.sensors import S2, s2_bands


@pytest.mark.parametrize("bands", [13, 12, 9, 3])
@pytest.mark.parametrize("season", [0, 3])
def test_items_without_augmentation_match_published(reference, bands, season):
    arrays = np.load(reference / "i_ssl4eo_items.npz")
    positions = S2.indices(s2_bands(bands))
    compared = 0
    for smoothing in ("nols", "lsts"):
        key = f"s12_{bands}b_season{season}_{smoothing}__img"
        if key not in arrays:
            continue
        record = prepared_item(arrays, season, positions, "ts" if smoothing == "lsts" else None)
        stacked = torch.cat([record["images"]["s1"], record["images"]["s2"]], dim=1)[0]
        np.testing.assert_allclose(stacked, arrays[key], atol=1e-6)
        compared += 1
        if smoothing == "lsts" and f"rec1_season{season}__prior_ts" in arrays:
            np.testing.assert_allclose(record["prior"][0], arrays[f"rec1_season{season}__prior_ts"], atol=2e-6)
        if f"rec1_season{season}__ns" in arrays:
            np.testing.assert_array_equal(record["labels"][0], arrays[f"rec1_season{season}__ns"])
    assert compared


def prepared_item(arrays, season, positions, prior_kind):
    batch = {
        "s1": torch.from_numpy(arrays["rec1__s1"][season])[None],
        "s2": torch.from_numpy(arrays["rec1__s2"][season][list(positions)])[None],
        "labels": torch.from_numpy(arrays["rec1__labels"])[None],
        "season": torch.tensor([season]),
        "epoch": [0],
        "index": [1],
    }
    return BatchTransform(9, None, prior_kind, augment=False)(batch)


def test_single_modal_items_match_published(reference):
    """With the twin items above, every image in the file is compared."""
    arrays = np.load(reference / "i_ssl4eo_items.npz")
    compared = 0
    for key in arrays.files:
        match = re.fullmatch(r"(s1|s2)_(\d+)b_season(\d)_(\w+)__img", key)
        if match:
            item = prepared_item(arrays, int(match[3]), S2.indices(s2_bands(int(match[2]))), None)
            np.testing.assert_allclose(item["images"][match[1]][0], arrays[key], atol=1e-6, err_msg=key)
            compared += 1
    twins = [key for key in arrays.files if re.fullmatch(r"s12_(13|12|9|3)b_season[03]_(nols|lsts)__img", key)]
    assert compared + len(twins) == sum(key.endswith("__img") for key in arrays.files)


def random_batch(seed=0, batch=6, size=40):
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, (batch, 3, size, size)).astype(np.uint8)
    season = torch.from_numpy(rng.integers(0, 3, batch))
    drawn = labels[np.arange(batch), season.numpy()]
    return {
        "s1": torch.from_numpy(np.repeat(drawn[:, None] * 40, 2, axis=1)),
        "labels": torch.from_numpy(labels),
        "exact": torch.from_numpy(labels),
        "season": season,
        "epoch": [3] * batch,
        "index": list(range(batch)),
    }


def test_image_labels_and_exact_move_together():
    """The image is the label times 40, so that it stays so wherever no pixel is interpolated."""
    ready = BatchTransform(5, 32, rotate_share=0.0)(random_batch())
    torch.testing.assert_close(ready["images"]["s1"][:, 0] * 255 / 40, ready["labels"].float(), atol=1e-4, rtol=0)
    assert (ready["labels"] == ready["exact"]).all()


def test_prior_is_made_on_the_whole_tile_and_cut_with_the_image():
    batch = random_batch()
    transform = BatchTransform(5, 16, "ts", prior_sigma=2.0, rotate_share=0.0)
    whole = label_prior(batch["labels"], batch["season"], 5, "ts", sigma=2.0)
    places = [transform.place(3, i, (40, 40)) for i in range(6)]
    torch.testing.assert_close(transform(batch)["prior"], cut({"prior": whole}, places)["prior"])


def test_no_more_is_filtered_than_reaches_the_crops(monkeypatch):
    sizes = []

    def watched(labels, *settings):
        sizes.append(labels.shape[-2:])
        return label_prior(labels, *settings)

    monkeypatch.setattr("cromss.batch_transforms.label_prior", watched)
    BatchTransform(5, 16, "ts", prior_sigma=1.0)(random_batch())
    assert sizes == [(24, 24)]  # four standard deviations to each side


def test_rotated_prior_still_sums_to_one():
    prior = BatchTransform(5, 32, "ts", rotate_share=1.0)(random_batch())["prior"]
    torch.testing.assert_close(prior.sum(1), torch.ones(6, 32, 32), atol=1e-5, rtol=0)


def test_mixed_precision_around_changes_nothing():
    transform = BatchTransform(5, 32, "ts", rotate_share=1.0)
    plain = transform(random_batch())
    with torch.autocast("cpu", torch.bfloat16):
        inside = transform(random_batch())
    assert inside["prior"].dtype == torch.float32
    torch.testing.assert_close(inside["prior"], plain["prior"], rtol=0, atol=0)
    torch.testing.assert_close(inside["images"]["s1"], plain["images"]["s1"], rtol=0, atol=0)


def test_rotation_invents_no_class():
    batch = random_batch()
    batch["labels"][batch["labels"] == 2] = IGNORE_INDEX
    ready = BatchTransform(5, 32, rotate_share=1.0)(batch)
    assert set(ready["labels"].unique().tolist()) <= {0, 1, 3, 4, IGNORE_INDEX}


def test_augmentation_is_a_function_of_seed_epoch_and_index():
    transform = BatchTransform(5, 16, seed=1)
    assert transform.place(2, 7, (40, 40)) == transform.place(2, 7, (40, 40))
    other = [
        transform.place(2, 8, (40, 40)),
        transform.place(3, 7, (40, 40)),
        BatchTransform(5, 16, seed=2).place(2, 7, (40, 40)),
    ]
    assert transform.place(2, 7, (40, 40)) not in other


def test_shares_of_flips_and_rotations():
    transform = BatchTransform(5, 256)
    places = [transform.place(0, i, (264, 264)) for i in range(2000)]
    assert 0.46 < np.mean([bool(p.flip) for p in places]) < 0.54
    assert 0.17 < np.mean([p.degrees != 0 for p in places]) < 0.23
    assert {p.flip for p in places} == {(), (-2,), (-1,), (-2, -1)}
    assert {p.top for p in places} == set(range(9))
    assert max(abs(p.degrees) for p in places) <= 90


def test_scoring_takes_the_centre():
    assert BatchTransform(5, 256, augment=False).place(0, 0, (264, 270)) == Placement(256, 256, 4, 7)
    assert BatchTransform(5, None, augment=False).place(0, 0, (264, 270)) == Placement(264, 270)


def test_crop_larger_than_the_tile_is_refused():
    with pytest.raises(ValueError, match="--crop_size 256"):
        BatchTransform(5, 256).place(0, 0, (224, 264))


def test_batches_are_alike_where_samples_are_cut_together(monkeypatch):
    transform = BatchTransform(5, 32, "ts", rotate_share=0.5)
    expected = transform(random_batch(batch=12))
    monkeypatch.setattr("cromss.placements.are_cut_together", lambda samples: True)
    found = transform(random_batch(batch=12))
    assert torch.equal(found["labels"], expected["labels"])
    assert torch.equal(found["exact"], expected["exact"])
    torch.testing.assert_close(found["images"]["s1"], expected["images"]["s1"], atol=1e-5, rtol=0)
    torch.testing.assert_close(found["prior"], expected["prior"], atol=1e-5, rtol=0)


def test_a_gpu_is_asked_as_much_whatever_the_batch_and_is_not_waited_for():
    transform, asked = BatchTransform(5, 16, "ts", prior_sigma=1.0, rotate_share=1.0), []
    batches = [random_batch(batch=size) for size in (6, 6, 24)]
    with fake_gpu():
        for batch in batches:
            on_gpu = {name: x.to("cuda") if isinstance(x, torch.Tensor) else x for name, x in batch.items()}
            with Asked() as watch:
                ready = transform(on_gpu)
            assert ready["images"]["s1"].shape == (len(batch["season"]), 2, 16, 16)
            asked.append(watch)
    first, again, larger = asked
    assert first.waits  # for the matrices of the filter, which stay there
    assert not larger.waits
    assert larger.operations == again.operations
