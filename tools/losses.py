"""What trainings minimise: TET's loss, and the RCS regulariser of the cutoff paper in both its forms.

TET is Deng et al. (ICLR 2022, arXiv 2202.11946), RCS is Wu et al. (arXiv 2301.09522); both as in the authors' code.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from tools.modules import Watched, fused

TAIL = 0.3  # of the ticks, the last: where the eventual response is taken, and where the answer has to be right
SMALL = 1e-5


def tet(outputs: Tensor, labels: Tensor, share: float = 1e-3, level: float = 1.0) -> Tensor:
    """(1 - share) x the mean over ticks of the cross-entropy of each tick's output + share x its distance from level.

    outputs: (ticks, N, classes), of each tick alone, not summed. labels: (N,).
    """
    entropy = functional.cross_entropy(outputs.flatten(0, 1), labels.repeat(len(outputs)))
    return (1 - share) * entropy + share * (outputs - level).square().mean()


def anytime(outputs: Tensor, labels: Tensor) -> Tensor:
    """The mean over ticks of the cross-entropy of the mean output so far. outputs: (ticks, N, classes), not summed."""
    ticks = torch.arange(1, len(outputs) + 1, device=outputs.device).reshape(-1, 1, 1)
    return functional.cross_entropy((outputs.cumsum(0) / ticks).flatten(0, 1), labels.repeat(len(outputs)))


def rcs_activations(watched: list[Watched], outputs: Tensor, labels: Tensor) -> Tensor:
    """RCS for a network of activations: mean over layers of the worst correct sample's max / root mean square.

    For each layer and sample n: (largest ReLU(x) of the batch and layer) / sqrt(mean over (C, H, W) of ReLU(x_n)^2 +
    1e-5). Samples whose answer is wrong count as 0. outputs: (N, classes). labels: (N,). A scalar.
    """
    right = (outputs.detach().argmax(-1) == labels).float()

    def value(x: Tensor, highest: Tensor) -> Tensor:
        return highest / (functional.relu(x.float()).square().mean(each) + SMALL).sqrt()

    total = outputs.new_zeros((), dtype=torch.float32)
    for layer in watched:
        x = layer.membranes
        each = tuple(range(1, x.ndim))
        # only one sample and one activation carry a gradient, so only they are differentiated
        with torch.no_grad():
            holder = x.amax(each).argmax()  # many times faster than argmax over all, whatever the order in memory
            place = x[holder].reshape(-1).argmax()
        highest = functional.relu(x[holder].reshape(-1)[place].float())
        with torch.no_grad():
            worst = (right * value(x, highest)).argmax()
        total = total + right[worst] * value(x[worst : worst + 1], highest)[0]
    return total / len(watched)


def rcs_spiking(watched: list[Watched], outputs: Tensor, labels: Tensor, compiled: bool = False) -> Tensor:
    """RCS for spiking neurons: mean over layers of the worst correct sample's 1 / (mean over ticks of cosine + 1e-5).

    The cosine is between the response r(t) = s(t) + ReLU(u(t)), u after its reset in units of the threshold, and the
    mean response of the last 30 % of the ticks, which carries no gradient; below 4 ticks that is the mean of all. A
    sample counts when every one of these last ticks' outputs, each for itself, is right. outputs: (ticks, N, classes),
    of each tick alone. labels: (N,). compiled: fuses the sums, equal up to rounding. A scalar.
    """
    tail = int(TAIL * len(outputs))  # 0 means all, as a slice from -0 does
    right = (outputs[-tail:].detach().argmax(-1) == labels).all(0).float()
    unevenness = fused(_unevenness) if compiled else _unevenness
    total = outputs.new_zeros((), dtype=torch.float32)
    for spikes, membranes, threshold, again in watched:
        assert spikes is not None
        with torch.no_grad():  # only the worst sample carries a gradient, so only it is differentiated
            worst = (right * unevenness(spikes.detach(), membranes.detach(), threshold, tail)).argmax()
        one = slice(int(worst), int(worst) + 1)
        pair = again(int(worst)) if again else (spikes[:, one], membranes[:, one])
        total = total + right[worst] * _unevenness(*pair, threshold, tail)[0]
    return total / len(watched)


def _unevenness(spikes: Tensor, membranes: Tensor, threshold: Tensor | float, tail: int) -> Tensor:
    """1 / (mean over ticks of the cosine to the eventual response + 1e-5), for each sample."""
    response = spikes + functional.relu(membranes / threshold)
    wanted = response.detach()[-tail:].mean(0)
    each = tuple(range(2, response.ndim))
    lengths = (response.square().sum(each) + SMALL).sqrt()
    length = (wanted.square().sum([d - 1 for d in each]) + SMALL).sqrt()
    return 1 / (((response * wanted).sum(each) / (lengths * length)).mean(0) + SMALL)
