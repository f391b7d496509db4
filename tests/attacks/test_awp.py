"""AWP: the ball by hand, what is not a weight, and going on with the weights of the beginning."""

import torch
from torch import nn

from secateur.attacks import Control, create
from secateur.data import InputConvention

CONVENTION = InputConvention((8, 8), 1)
TRIGGER = create("badnets").trigger(torch.zeros(1, 1, 8, 8), torch.zeros(1), torch.Generator())


def network() -> nn.Sequential:
    built = nn.Sequential(nn.Linear(2, 1), nn.BatchNorm1d(1))
    with torch.no_grad():
        built[0].weight.copy_(torch.tensor([[1.0, -3.0]]))
        built[0].bias.zero_()
    return built


def control(of: nn.Module) -> Control:
    return create("awp", radius=0.25).control(TRIGGER, of, CONVENTION, 2)


def test_weights_stay_within_a_share_of_their_mean_size() -> None:
    one = network()
    ball = control(one)
    with torch.no_grad():
        one[0].weight.copy_(torch.tensor([[9.0, -3.1]]))
        one[0].bias.fill_(1.0)
        one[1].running_mean.fill_(7.0)
    ball.after()
    # The mean size is 2, so that the ball reaches 0.5 to each side; a zero tensor has no reach.
    assert torch.allclose(one[0].weight, torch.tensor([[1.5, -3.1]]))
    assert one[0].bias == 0
    assert one[1].running_mean == 7


def test_a_resumed_training_keeps_the_ball_of_the_beginning() -> None:
    one = network()
    saved = {name: part.state_dict() for name, part in control(one).parts().items()}
    with torch.no_grad():
        one[0].weight.copy_(torch.tensor([[1.5, -3.5]]))
    # Made anew around the weights as they are now, then given back what was saved.
    again = control(one)
    for name, part in again.parts().items():
        part.load_state_dict(saved[name])
    with torch.no_grad():
        one[0].weight.copy_(torch.tensor([[2.0, -4.0]]))
    again.after()
    assert torch.allclose(one[0].weight, torch.tensor([[1.5, -3.5]]))
