"""A trigger is two tensors in a file that nobody vouches for."""

import pytest
import torch
from safetensors.torch import save_file

from secateur.data import Trigger, read_trigger, write_trigger
from secateur.errors import TriggerError

PATCH = Trigger(torch.tensor([[[1.0, 0.0]]]), torch.tensor([[[0.0, 0.5]]]))


def test_stamping_by_hand():
    images = torch.tensor([[[[0.2, 0.9]]], [[[1.0, 0.0]]]])
    assert PATCH.stamp(images).flatten().tolist() == pytest.approx([0.2, 0.5, 1.0, 0.5])
    brighter = Trigger(torch.ones(1, 1, 2), torch.tensor([[[0.5, -0.5]]]))
    assert brighter.stamp(images).flatten().tolist() == pytest.approx([0.7, 0.4, 1.0, 0.0])


def test_other_shapes_are_not_broadcast():
    with pytest.raises(TriggerError, match="not \\(3, 1, 2\\)"):
        PATCH.stamp(torch.zeros(1, 3, 1, 2))
    with pytest.raises(TriggerError, match="must both be"):
        Trigger(torch.zeros(1, 2, 2), torch.zeros(1, 1, 2))


def test_a_file_holds_it_exactly(tmp_path):
    path = tmp_path / "trigger.safetensors"
    write_trigger(path, PATCH)
    again = read_trigger(path)
    assert torch.equal(again.keep, PATCH.keep)
    assert torch.equal(again.add, PATCH.add)
    assert [child.name for child in tmp_path.iterdir()] == ["trigger.safetensors"]


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        ({"keep": torch.zeros(1, 2, 2)}, "keep and add"),
        ({"keep": torch.zeros(2, 2), "add": torch.zeros(2, 2)}, r"\(C, H, W\)"),
        ({"keep": torch.zeros(1, 2, 2), "add": torch.full((1, 2, 2), torch.inf)}, "finite"),
        ({"keep": torch.zeros(1, 2, 2).int(), "add": torch.zeros(1, 2, 2).int()}, "floating-point"),
    ],
)
def test_what_is_no_trigger_is_refused_by_name(tmp_path, tensors, words):
    path = tmp_path / "t.safetensors"
    save_file(tensors, path)
    with pytest.raises(TriggerError, match=words) as caught:
        read_trigger(path)
    assert str(caught.value).count(str(path)) == 1


def test_missing_and_malformed_files_are_trigger_errors(tmp_path):
    with pytest.raises(TriggerError, match="absent"):
        read_trigger(tmp_path / "absent.safetensors")
    (tmp_path / "junk.safetensors").write_bytes(b"\xff" * 64)
    with pytest.raises(TriggerError, match="junk"):
        read_trigger(tmp_path / "junk.safetensors")
