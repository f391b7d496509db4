"""Clean data are two sets of images that a measurement may take as one."""

import torch

from secateur.data import CleanData, InputConvention, LabelledImages


def test_together_are_all_images_with_their_labels() -> None:
    learn = LabelledImages(torch.rand(3, 1, 2, 2), torch.tensor([0, 1, 2]))
    choose = LabelledImages(torch.rand(2, 1, 2, 2), torch.tensor([3, 4]))
    everything = CleanData(learn, choose, InputConvention((2, 2), 1)).together()
    assert everything.labels.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(everything.images[:3], learn.images)
    assert torch.equal(everything.images[3:], choose.images)
