"""Images in memory."""

import pytest
import torch

from secateur.data import LabelledImages
from secateur.errors import DataError

SEVEN = LabelledImages(torch.arange(7.0).view(7, 1, 1, 1) / 7, torch.arange(7))


def test_batches_keep_images_with_their_labels():
    for generator in (None, torch.Generator().manual_seed(0)):
        batches = list(SEVEN.batches(3, generator=generator))
        assert [len(labels) for _, labels in batches] == [3, 3, 1]
        labels = torch.cat([labels for _, labels in batches])
        assert sorted(labels.tolist()) == list(range(7))
        assert torch.equal(torch.cat([images for images, _ in batches]).flatten(), labels / 7)
        assert (labels.tolist() == list(range(7))) == (generator is None)


def test_subset_by_index_and_by_flag():
    assert SEVEN.subset(torch.tensor([5, 1])).labels.tolist() == [5, 1]
    assert SEVEN.subset(SEVEN.labels > 4).labels.tolist() == [5, 6]


def test_shapes_that_do_not_go_together_are_refused():
    with pytest.raises(DataError, match="do not go together"):
        LabelledImages(torch.zeros(2, 1, 1, 1), torch.zeros(3))
