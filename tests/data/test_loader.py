"""Batches are a pure function of (seed, step): any number of workers, any start, any rank."""

from __future__ import annotations

import os

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fdlab.data.images import Images
from fdlab.data.loader import Batches
from fdlab.data.sources import ImageSource, open_data
from fdlab.data.splits import split_labelled
from fdlab.data.transforms import CONTRASTIVE, View
from fdlab.errors import FdlabError


class Counted(Images):
    """Grey images whose value is their number / 1000; ``fatal`` ends the process that reads it."""

    name, fatal = "counted", -1

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count, self.home = count, os.getpid()

    def __len__(self) -> int:
        return self.count

    def read(self, index: int) -> torch.Tensor:
        if index == self.fatal and os.getpid() != self.home:
            os._exit(3)
        return torch.full((3, 8, 8), index / 1000)

    def labels(self, indices) -> np.ndarray:
        return np.asarray(indices, dtype=np.int64) % 7


def same(one, other) -> bool:
    return one.step == other.step and all(
        torch.equal(a, b)
        for a, b in zip(
            [*one.images, one.labels, one.indices], [*other.images, other.labels, other.indices], strict=True
        )
    )


def digits(**settings):
    wanted = {"size": 24, "batch": 64, "seed": 3, "view": CONTRASTIVE, "views": 2, "stop": 30}
    return Batches(open_data("digits#train"), **{**wanted, **settings})


def test_workers_change_nothing():
    alone = list(digits(stop=6))
    for workers in (1, 2):
        assert all(same(a, b) for a, b in zip(alone, digits(stop=6, workers=workers), strict=True))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_later_start_gives_the_tail(workers):
    whole, tail = list(digits(start=17, stop=23)), list(digits(start=20, stop=23, workers=workers))
    assert [b.step for b in tail] == [20, 21, 22]
    assert all(same(a, b) for a, b in zip(whole[3:], tail, strict=True))


def test_photographs_and_endless_sources_with_workers():
    for spec, size in [("photos", 64), ("locality:0.5", 32)]:
        runs = [
            list(Batches(open_data(spec), size=size, batch=8, seed=1, view=CONTRASTIVE, start=2, stop=5, workers=w))
            for w in (0, 2)
        ]
        assert len(runs[0]) == 3
        assert all(same(a, b) for a, b in zip(*runs, strict=True))


def test_a_batch_holds_the_views_of_its_images():
    batch = digits().load(4)
    assert len(batch.images) == 2
    assert batch.images[0].shape == (64, 3, 24, 24)
    assert not torch.equal(*batch.images)
    assert batch.labels.dtype == torch.int64
    plain = digits(view=None, views=1).load(4)
    source = open_data("digits#train")
    assert plain.indices.tolist() == batch.indices.tolist()
    images, labels = source.stack(plain.indices.tolist(), 24)
    assert torch.equal(plain.images[0], images)
    assert torch.equal(plain.labels, labels)


def test_views_and_orders_differ_between_epochs_and_seeds():
    one, two = digits(batch=1297, stop=2)
    assert sorted(one.indices.tolist()) == list(range(1297)) == sorted(two.indices.tolist())
    assert one.indices.tolist() != two.indices.tolist()
    place = one.indices.tolist().index(5), two.indices.tolist().index(5)
    assert not torch.equal(one.images[0][place[0]], two.images[0][place[1]])
    other = digits(batch=1297, stop=1, seed=4).load(0)
    assert other.indices.tolist() != one.indices.tolist()


def test_a_view_does_not_depend_on_the_size_of_the_batch():
    small, large = digits(batch=32).load(1), digits(batch=64).load(0)
    assert small.indices.tolist() == large.indices.tolist()[32:]
    assert torch.equal(small.images[1], large.images[1][32:])


@settings(max_examples=60, deadline=None)
@given(count=st.integers(1, 60), batch=st.integers(1, 60), seed=st.integers(0, 5), drop_last=st.booleans())
def test_steps_and_epochs(count, batch, seed, drop_last):
    source = ImageSource(Counted(count), "counted")
    if drop_last and batch > count:
        with pytest.raises(FdlabError):
            Batches(source, size=8, batch=batch, seed=seed, stop=1, drop_last=True)
        return
    batches = Batches(source, size=8, batch=batch, seed=seed, stop=1, drop_last=drop_last)
    per_epoch = batches.steps_per_epoch
    assert per_epoch == (count // batch if drop_last else -(-count // batch))
    for epoch in (0, 2):
        found = [batches.positions(step) for step in range(epoch * per_epoch, (epoch + 1) * per_epoch)]
        assert {e for e, _ in found} == {epoch}
        seen = np.concatenate([p for _, p in found])
        assert len(set(seen.tolist())) == len(seen) == (per_epoch * batch if drop_last else count)
        assert all(len(p) == batch for _, p in found[:-1])


@given(step=st.integers(0, 10**6), batch=st.integers(1, 512))
def test_endless_sources_have_no_epochs(step, batch):
    batches = Batches(open_data("locality:0"), size=32, batch=batch, seed=0, stop=1)
    epoch, positions = batches.positions(step)
    assert batches.steps_per_epoch is None
    assert epoch == 0
    assert positions.tolist() == list(range(step * batch, (step + 1) * batch))


def test_a_cut_endless_source_has_epochs():
    batches = Batches(open_data("locality:0[:64]"), size=32, batch=32, seed=0, stop=4)
    assert batches.steps_per_epoch == 2
    assert sorted(i for b in list(batches)[:2] for i in b.indices.tolist()) == list(range(64))


def test_ranks_share_a_batch():
    whole = digits().load(21)
    parts = [digits(part=(rank, 4)).load(21) for rank in range(4)]
    assert torch.equal(torch.cat([p.images[1] for p in parts]), whole.images[1])
    assert torch.equal(torch.cat([p.indices for p in parts]), whole.indices)
    with pytest.raises(FdlabError, match="multiple of 3"):
        digits(part=(0, 3))


def test_a_batch_larger_than_the_data_says_so():
    with pytest.raises(FdlabError, match=r"1298.*1297") as caught:
        digits(batch=1298)
    assert caught.value.code == 2
    assert "1297" in caught.value.fix
    last = Batches(open_data("digits[:10]"), size=24, batch=64, seed=0, stop=2, drop_last=False)
    assert [len(b.indices) for b in last] == [10, 10]


def test_the_global_generator_is_left_alone():
    for workers in (0, 1):
        torch.manual_seed(5)
        before = torch.get_rng_state()
        list(digits(stop=2, workers=workers))
        assert torch.equal(before, torch.get_rng_state())


def test_a_dead_worker_is_an_error_that_says_what_to_do():
    images = Counted(20)
    images.fatal = 7
    with pytest.raises(FdlabError, match="died") as caught:
        list(Batches(ImageSource(images, "counted"), size=8, batch=5, seed=0, stop=8, workers=2))
    assert "workers" in caught.value.fix


def test_no_steps_left_is_no_error():
    assert list(digits(start=30, stop=30, workers=2)) == []


def test_a_crop_changes_what_is_seen():
    cropped = digits(view=View(crop=(0.5, 0.5)), views=1).load(0)
    assert not torch.equal(cropped.images[0], digits(view=None, views=1).load(0).images[0])


# ---- few labels


@settings(max_examples=40, deadline=None)
@given(per_class=st.integers(0, 20), validation=st.integers(0, 300), seed=st.integers(0, 3))
def test_labelled_and_validation_are_disjoint_and_stratified(per_class, validation, seed):
    labels = np.random.default_rng(9).permutation(np.repeat([0, 1, 2, 5], [60, 100, 200, 240]))
    few, held = split_labelled(labels, per_class=per_class, validation=validation, seed=seed)
    assert np.bincount(labels[few], minlength=6)[[0, 1, 2, 5]].tolist() == [per_class] * 4
    assert len(held) == validation == len(set(held))
    assert not set(few) & set(held)
    left = np.array([60, 100, 200, 240]) - per_class
    counts = np.bincount(labels[held], minlength=6)[[0, 1, 2, 5]]
    assert (abs(counts - validation * left / left.sum()) < 1).all()
    again = split_labelled(labels, per_class=per_class, validation=validation, seed=seed)
    assert (again[0] == few).all()
    assert (again[1] == held).all()


def test_validation_goes_by_largest_remainders():
    labels = np.repeat([0, 1], [30, 70])  # shares of 4: 1.2 and 2.8
    held = split_labelled(labels, per_class=0, validation=4, seed=0)[1]
    assert np.bincount(labels[held]).tolist() == [1, 3]


def test_fewer_labels_are_a_part_of_more_and_seeds_differ():
    labels = open_data("digits#train").labels()
    few, more = (split_labelled(labels, per_class=n, validation=400, seed=0)[0] for n in (5, 20))
    assert set(few) < set(more)
    assert len(more) == 200
    assert set(more) != set(split_labelled(labels, per_class=20, validation=400, seed=1)[0])


@pytest.mark.parametrize(
    ("labels", "per_class", "validation"),
    [([0, 0, 1], 2, 0), ([0, 0, 1, 1], 1, 3), ([-1, -1], 1, 0), ([], 1, 0)],
)
def test_too_few_are_refused(labels, per_class, validation):
    with pytest.raises(FdlabError) as caught:
        split_labelled(np.array(labels, dtype=int), per_class=per_class, validation=validation, seed=0)
    assert caught.value.code == 2
