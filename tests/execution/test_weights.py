"""Weights leave a device and come back as they were. What only a GPU can show is in test_cuda.py."""

from __future__ import annotations

import pytest
import torch

from symphony.execution.devices.weights import Weights

CPU = torch.device("cpu")


class Network(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.convolution = torch.nn.Conv2d(3, 4, 3).to(memory_format=torch.channels_last)
        self.norm = torch.nn.BatchNorm2d(4)
        self.tied = self.convolution.bias

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.norm(self.convolution(batch))


@pytest.fixture
def network() -> Network:
    torch.manual_seed(3)
    return Network().eval()


def test_weights_come_back_bit_for_bit_and_in_their_layout(network: Network) -> None:
    weights = Weights([network], CPU)
    batch = torch.randn(2, 3, 8, 8)
    before = network(batch)
    layout = network.convolution.weight.stride()
    for _ in range(3):
        weights.evict()
        weights.restore()
        assert torch.equal(network(batch), before)
        assert network.convolution.weight.stride() == layout


def test_evicted_weights_take_no_memory_of_the_device(network: Network) -> None:
    weights = Weights([network], CPU)
    weights.evict()
    assert all(tensor.numel() == 0 for tensor in (*network.parameters(), *network.buffers()) if tensor.dim())


def test_a_parameter_that_modules_share_counts_once(network: Network) -> None:
    alone = Weights([network], CPU).byte_count
    assert Weights([network, network.convolution], CPU).byte_count == alone
    assert alone == sum(t.numel() * t.element_size() for t in {*network.parameters(), *network.buffers()})


def test_evicting_twice_and_restoring_twice_changes_nothing(network: Network) -> None:
    weights = Weights([network], CPU)
    expected = network.convolution.weight.clone()
    weights.evict()
    weights.evict()
    weights.restore()
    weights.restore()
    assert torch.equal(network.convolution.weight, expected)


def test_modules_without_weights_cannot_be_swapped() -> None:
    assert Weights([torch.nn.ReLU()], CPU).byte_count == 0


def test_the_trial_leaves_the_weights_where_they_were(network: Network) -> None:
    expected = network.convolution.weight.clone()
    assert Weights([network], CPU).measure_ns() > 0
    assert torch.equal(network.convolution.weight, expected)
