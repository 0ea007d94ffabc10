"""The stand-in is as strict as a GPU: what it lets pass silently, no test of a branch for GPUs
could find.
"""

from __future__ import annotations

import os

import pytest
import torch

from components import device
from components.device import Execution, Slot
from components.errors import ConfigError
from tests.stand_in_gpu import OnGpu, stand_in_gpu


def test_tensors_of_host_and_device_do_not_mix():
    with stand_in_gpu():
        x = torch.ones(3, device="cuda")
        assert x.is_cuda and not x.is_cpu and x.device == torch.device("cuda:0")
        assert (x + torch.tensor(1.0)).tolist() == [2.0] * 3, (
            "a single number may come from the host"
        )
        with pytest.raises(
            RuntimeError,
            match="Expected all tensors to be on the same device, but add got \\[3\\] on the CPU",
        ):
            x + torch.ones(3)
        with pytest.raises(TypeError, match="can't convert cuda:0 device type tensor to numpy"):
            x.numpy()


LOOKS = {
    "a number": lambda x: x.sum().item(),
    "a truth value": lambda x: bool((x > 0).all()),
    "a list": lambda x: x.tolist(),
    "where it is not zero": lambda x: x.nonzero(),
    "a mask": lambda x: x[x > 0],
    "indices from the host": lambda x: x[torch.tensor([0, 1])],
    "repeats without their sum": lambda x: torch.repeat_interleave(x.long()),
    "a count": lambda x: torch.bincount(x.long()),
    "a copy to the host": lambda x: x.cpu(),
    "a queued copy to ordinary memory": lambda x: torch.empty(3).copy_(x, non_blocking=True),
    "a copy to the device": lambda x: torch.ones(3).to("cuda"),
    "a queued copy from ordinary memory": lambda x: torch.ones(3).to("cuda", non_blocking=True),
    "a list that is sent there": lambda x: torch.tensor([1, 2], device="cuda"),
}


@pytest.mark.parametrize("what", LOOKS)
def test_each_look_is_recorded_once(what):
    with stand_in_gpu() as gpu:
        x = torch.ones(3, device="cuda")
        LOOKS[what](x)
        assert len(gpu.looks) == 1


def test_work_on_the_device_is_no_look():
    with stand_in_gpu() as gpu:
        x = torch.ones(3, 4, device="cuda", requires_grad=True)
        loss = torch.where(x > 0, x, 0).square().sum() + x[torch.arange(2, device="cuda")].sum()
        loss.backward()
        x.detach().sort().values.topk(2).indices.repeat_interleave(2, output_size=12)
        assert gpu.looks == []
        assert isinstance(x.grad, OnGpu)
        assert x.grad.tolist() == [[3.0] * 4] * 2 + [[2.0] * 4]


def test_a_queued_copy_has_arrived_when_its_event_has_been_waited_for():
    with stand_in_gpu() as gpu:
        x = torch.ones(2, device="cuda")
        host = torch.empty(2, pin_memory=True).copy_(x, non_blocking=True)
        x.add_(1)  # later on the device than the copy
        arrived = torch.cuda.Event()
        arrived.record()
        assert host.isnan().all()
        arrived.synchronize()
        assert host.tolist() == [1.0, 1.0]
        assert gpu.looks == [] and gpu.queued == 1


def test_memory_is_counted_once_and_until_nothing_uses_it():
    with stand_in_gpu() as gpu:
        x = torch.zeros(256, device="cuda")
        view = x[:10]
        assert gpu.bytes == 1024
        del x
        assert gpu.bytes == 1024
        del view
        assert (gpu.bytes, gpu.peak) == (0, 1024)


def test_where_auto_means_cuda_its_one_device_is_a_slot(monkeypatch):
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    with stand_in_gpu():
        assert device.resolve() == torch.device("cuda")
        assert device.slots(Execution()) == [Slot("cuda:0")]
        assert device.memory_free()[0] == "cuda"
        with pytest.raises(
            ConfigError, match=r"execution.device: no cuda:1 here, this machine has 1 CUDA device"
        ):
            device.resolve("cuda:1")


def test_a_task_that_holds_the_device_shows_it_alone_to_what_it_starts(monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,4")
    with stand_in_gpu():
        with device.hold(Execution(device="cuda:0")) as (settings, slot):
            assert (settings.device, slot) == ("cuda:0", Slot("cuda:0"))
            assert os.environ["CUDA_VISIBLE_DEVICES"] == "3"
            assert device.is_held(Slot("cuda:0"))
        assert os.environ["CUDA_VISIBLE_DEVICES"] == "3,4"
