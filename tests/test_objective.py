"""The whole objective against the published losses, gradients and one training step."""

import copy

import numpy as np
import pytest
import torch
from devices import Asked, fake_gpu
from published import reference_model

from cromss.legends import IGNORE_INDEX
from cromss.models.published_names import to_published
from cromss.objective import CrossModalObjective

BRANCHES = ("s1", "s2")


def e3_keys(path):
    return [key for key in np.load(path).files if "|" in key]


def objective_of(key: str) -> CrossModalObjective:
    kind, loss_type, smoothing, consistency, selection = key.split("|")
    factors = () if smoothing == "lsoff" or kind == "valloss" else tuple(map(float, smoothing[2:].split("_")))
    selects = selection != "noss"
    return CrossModalObjective(9, loss_type, consistency, smoothing_factors=factors, selection=selects)


def test_losses_and_gradients_match_published(reference):
    path = reference / "e3_full_losses.npz"
    arrays = np.load(path)
    labels, prior = torch.from_numpy(arrays["y"]), torch.from_numpy(arrays["prior"])
    keys = e3_keys(path)
    assert len(keys) == len(arrays.files) - 3
    for key in keys:
        logits = torch.from_numpy(arrays["logits"]).clone().requires_grad_()
        loss = objective_of(key)(dict(zip(BRANCHES, logits)), labels, prior, epoch=40)["loss"]
        if key.startswith("grad"):
            (gradient,) = torch.autograd.grad(loss, logits)
            np.testing.assert_allclose(gradient, arrays[key], atol=2e-3 * np.abs(arrays[key]).max(), err_msg=key)
            assert gradient.norm().item() == pytest.approx(np.linalg.norm(arrays[key]), rel=1e-5), key
        else:
            assert loss.item() == pytest.approx(float(arrays[key]), rel=1e-5), key


@pytest.mark.parametrize("epoch", [0, 10, 40, 80, 150])
def test_selection_chain_matches_published(reference, epoch):
    arrays = np.load(reference / "c4_full_selection_chain.npz")
    logits = dict(zip(BRANCHES, torch.from_numpy(arrays["logits"])))
    trust = CrossModalObjective(9, selection=True).select(logits, torch.from_numpy(arrays["y"]), epoch)
    for weights, key in ((trust.label, "lbl"), (trust.prediction, "pred")):
        np.testing.assert_allclose(
            torch.stack([weights[b] for b in BRANCHES]), arrays[f"ce_exp_ep{epoch}__masks_{key}"], atol=1e-6
        )


@pytest.fixture(scope="module")
def filled_model():
    return reference_model("mid").train()


@pytest.mark.parametrize("epoch", [0, 40, 150])
@pytest.mark.parametrize("precision", ["f32", "f64"])
def test_training_step_matches_published(reference, filled_model, epoch, precision):
    arrays = np.load(reference / "k_training_step_resnet18.npz")
    model = copy.deepcopy(filled_model).to(torch.float64 if precision == "f64" else torch.float32)
    image = torch.from_numpy(arrays["img"]).to(next(model.parameters()).dtype)
    logits = model(s1=image[:, :2], s2=image[:, 2:])
    objective = CrossModalObjective(9, smoothing_factors=(0.15, 0.05), selection=True)
    labels, prior = torch.from_numpy(arrays["ns"]), torch.from_numpy(arrays["smooth_prior"])
    loss = objective(logits, labels, prior, epoch)["loss"]
    assert loss.item() == pytest.approx(float(arrays[f"mid_ep{epoch}_{precision}__loss"]), rel=1e-5)
    loss.backward()
    ours = {name: p.grad.norm().item() for name, p in to_published(dict(model.named_parameters()), "mid").items()}
    for name, norm in zip(arrays["mid__param_names"], arrays[f"mid_ep{epoch}_{precision}__gradnorm_per_param"]):
        key = name if name.startswith("net.") else f"net.{name}"
        assert ours[key] == pytest.approx(norm, rel=2e-3, abs=1e-7), name
    total = float(arrays[f"mid_ep{epoch}_{precision}__gradnorm_total"])
    assert sum(norm**2 for norm in ours.values()) ** 0.5 == pytest.approx(total, rel=2e-3)


@pytest.fixture
def batch():
    generator = torch.manual_seed(0)
    logits = {b: torch.randn(2, 4, 8, 8, generator=generator) for b in BRANCHES}
    return logits, torch.randint(0, 4, (2, 8, 8), generator=generator)


def test_terms_sum_to_the_loss(batch):
    terms = CrossModalObjective(4, consistency_weight=0.5)(*batch)
    expected = terms["seg_s1"] + terms["seg_s2"] + 0.5 * terms["consistency"]
    torch.testing.assert_close(terms["loss"], expected)


@pytest.mark.parametrize("selection", [False, True])
@pytest.mark.parametrize("factors", [(), (0.15, 0.05)])
@pytest.mark.parametrize("kind", ["ce", "kl", "mse"])
def test_ignored_pixels_change_nothing(batch, selection, factors, kind):
    """Logits at ignored pixels have no influence on the loss and get no gradient."""
    logits, labels = batch
    labels[:, 4:] = IGNORE_INDEX
    prior = torch.full((2, 4, 8, 8), 0.25)
    objective = CrossModalObjective(4, consistency=kind, smoothing_factors=factors, selection=selection)
    changed = {b: x.clone() for b, x in logits.items()}
    for x in changed.values():
        x[:, :, 4:] += 3 * torch.randn(2, 4, 4, 8)
        x.requires_grad_()
    loss = objective(changed, labels, prior, 40)["loss"]
    torch.testing.assert_close(loss, objective(logits, labels, prior, 40)["loss"])
    loss.backward()
    for x in changed.values():
        assert x.grad[:, :, 4:].abs().max() == 0
        assert x.grad[:, :, :4].abs().max() > 0


def test_all_ignored_batch_is_zero(batch):
    logits, labels = batch
    terms = CrossModalObjective(4, selection=True, smoothing_factors=(0.1,))(logits, torch.full_like(labels, 255))
    assert terms["loss"].item() == 0
    assert all(torch.isfinite(value) for value in terms.values())


def test_permuting_classes_changes_nothing(batch):
    logits, labels = batch
    order = torch.tensor([2, 0, 3, 1])
    inverse = order.argsort()
    objective = CrossModalObjective(4, selection=True, smoothing_factors=(0.15, 0.05))
    prior = torch.rand(2, 4, 8, 8).softmax(1)
    permuted = objective({b: x[:, inverse] for b, x in logits.items()}, order[labels], prior[:, inverse], 40)
    torch.testing.assert_close(permuted["loss"], objective(logits, labels, prior, 40)["loss"])


def test_common_branch_learns_labels_with_the_mean_weight(batch):
    logits, labels = batch
    objective = CrossModalObjective(4, selection=True)
    with_common = objective({**logits, "common": logits["s1"] + logits["s2"]}, labels, epoch=80)
    without = objective(logits, labels, epoch=80)
    torch.testing.assert_close(with_common["loss"], without["loss"] + with_common["seg_common"])
    torch.testing.assert_close(with_common["consistency"], without["consistency"])
    trust = objective.select({**logits, "common": logits["s1"]}, labels, 80)
    torch.testing.assert_close(trust.label["common"], (trust.label["s1"] + trust.label["s2"]) / 2)


def test_single_modality_has_no_consistency(batch):
    logits, labels = batch
    terms = CrossModalObjective(4, consistency="ce")({"s2": logits["s2"]}, labels)
    assert set(terms) == {"loss", "seg_s2"}


@pytest.mark.parametrize("branches", [("s1", "s2"), ("s1", "s2", "common"), ("s2",)])
def test_a_gpu_is_asked_as_much_whatever_the_batch_and_is_not_waited_for(branches):
    objective, asked = CrossModalObjective(9, smoothing_factors=(0.15, 0.05), selection=True), []
    for size in (2, 7):
        with fake_gpu(), Asked() as watch:
            logits = {name: torch.zeros(size, 9, 8, 8, device="cuda") for name in branches}
            labels = torch.zeros(size, 8, 8, dtype=torch.long, device="cuda")
            objective(logits, labels, torch.zeros(size, 9, 8, 8, device="cuda"), epoch=40)
        assert not watch.waits
        asked.append(watch.operations)
    assert asked[0] == asked[1]


def test_selected_share_is_reported(batch):
    terms = CrossModalObjective(4, selection=True, ramp="none", final_share=0.5)(*batch)
    assert 0.4 < terms["selected_s1"].item() <= 0.55
    assert 0 < terms["confidence_s2"].item() < 1


def test_agreement_of_the_labels_around_counts(batch):
    """Of each class those are selected whose confidence times prior is highest; a prior of ones changes nothing."""
    logits, labels = batch
    prior = torch.rand(2, 4, 8, 8, generator=torch.Generator().manual_seed(1))
    plain, ours = (CrossModalObjective(4, selection=True, ramp="none", agreement=a) for a in (False, True))
    expected, found = plain.select(logits, labels, 0), ours.select(logits, labels, 0, prior)
    at_labels = prior.gather(1, labels[:, None])[:, 0]
    for branch, confidence in found.confidence.items():
        torch.testing.assert_close(confidence, expected.confidence[branch] * at_labels)
        for c in range(4):
            chosen = (found.label[branch] == 1) & (labels == c)
            assert chosen.sum() == int(0.5 * (labels == c).sum())
            assert confidence[chosen].min() >= confidence[(labels == c) & ~chosen].max()
    with pytest.raises(ValueError, match="--sample_selection_agreement wants the prior"):
        ours.select(logits, labels, 0)
    same = ours.select(logits, labels, 0, torch.ones_like(prior))
    for branch, weights in same.label.items():
        torch.testing.assert_close(weights, expected.label[branch])
        torch.testing.assert_close(found.prediction[branch], expected.prediction[branch])


@pytest.mark.parametrize("settings", [{"consistency": "cosine"}, {"final_share": 0.0}, {"final_share": 1.5}])
def test_bad_settings_are_refused(settings):
    with pytest.raises(ValueError, match="--"):
        CrossModalObjective(4, **settings)
