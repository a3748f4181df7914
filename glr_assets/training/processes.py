"""Several processes of one machine that train one network together: how they start, meet and end.

The caller's own process is number 0 and keeps all that is told and stored. The others are started by it with a copy
of what is trained, so it needs to be no script of its own: it may be a step of Dagster, a command or a notebook. Each
takes its share of every batch; gradients, and the statistics of batch normalisation, are of the whole batch. So one
process and several find the same network, up to the order in which float32 numbers are added.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import pickle
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

# This module is imported only by functions that train a network.
import torch  # noqa: TID253
import torch.distributed as dist  # noqa: TID253
from lightning.fabric.plugins.environments.cluster_environment import ClusterEnvironment  # noqa: TID253
from lightning.pytorch.plugins import LayerSync  # noqa: TID253
from torch import Tensor, nn  # noqa: TID253
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # noqa: TID253

from glr_assets.errors import GlrError

Carried = TypeVar("Carried")

# A process that waits longer for the others gives up: watching held-out photographs is the longest of waits.
PATIENCE = timedelta(hours=2)
# How long one whose work is done, or that fell over, has to end.
FAREWELL_SECONDS = 10.0
POLL_SECONDS = 0.05


@dataclass(frozen=True)
class Team:
    """A process's place among those that train together."""

    number: int = 0
    size: int = 1
    port: int = 0
    """where the others find process 0, on this machine"""

    def join(self, device: torch.device, store: TCPStore | None = None) -> None:
        """Meet the others; returns when all are there."""
        if device.type == "cuda":
            torch.cuda.set_device(self.number)
        if store is None:
            store = TCPStore("127.0.0.1", self.port, self.size, is_master=False, timeout=PATIENCE)
            store.set(_here(self.number), "")
        backend = "nccl" if device.type == "cuda" else "gloo"
        dist.init_process_group(backend, store=store, rank=self.number, world_size=self.size, timeout=PATIENCE)


class HelpersError(Exception):
    """A process that helped has ended before its work did; the text says why."""


@contextmanager
def team_of(
    size: int, device: torch.device, work: Callable[[Team, Carried], object], carried: Carried
) -> Iterator[Team]:
    """Process 0 of a team whose others do `work(team, carried)`; they are gone afterwards, however it ends.

    Args:
        size: processes; one is this alone.
        device: cpu, or cuda for a GPU each.
        work: a function of a module, which the others find by its name.
        carried: what they are given a copy of, by pickle.

    Raises:
        GlrError: what a helper fell over, where that is why this process came no further.
        HelpersError: a helper that ended without a word (killed, out of memory).
    """
    if size == 1:
        yield Team()
        return
    threads = torch.get_num_threads()
    store = TCPStore("127.0.0.1", 0, size, is_master=True, wait_for_workers=False, timeout=PATIENCE)
    spawn = multiprocessing.get_context("spawn")
    ends: list[Connection] = []
    helpers: list[Any] = []
    torch.set_num_threads(max(1, threads // size))
    scratch = tempfile.TemporaryDirectory(prefix="glr-training-")
    try:
        # Not by torch's way of sending tensors, which would give all processes the same memory to train in; and by a
        # file, as one that ends before it has taken what is sent would never be done with.
        work_file = Path(scratch.name) / "work.pickle"
        work_file.write_bytes(pickle.dumps((work, carried)))
        for number in range(1, size):
            mine, theirs = spawn.Pipe(duplex=False)
            arguments = (Team(number, size, store.port), device.type, max(1, threads // size), theirs, work_file)
            helper = spawn.Process(target=_help, args=arguments, name=f"training {number}")
            helper.start()
            theirs.close()
            ends.append(mine)
            helpers.append(helper)
        for number, helper in enumerate(helpers, start=1):
            # Whoever joins waits for all, in torch's own code and without a look at whether they live.
            while not store.check([_here(number)]):
                if not helper.is_alive():
                    raise HelpersError(_ended(number, helper.exitcode))
                time.sleep(POLL_SECONDS)
        team = Team(0, size, store.port)
        team.join(device, store)
        yield team
        for helper in helpers:
            helper.join(FAREWELL_SECONDS)
    except RuntimeError as error:
        # A process whose partner is gone is told by a broken connection: the reason is the partner's.
        raise _reason(helpers, ends) or error from error
    finally:
        torch.set_num_threads(threads)
        if dist.is_initialized():
            dist.destroy_process_group()
        for helper in helpers:
            # It has nothing to lose, and lightning would have it finish a step that needs this process.
            helper.kill()
            helper.join()
        scratch.cleanup()


def _reason(helpers: list[Any], ends: list[Connection]) -> Exception | None:
    for number, (helper, end) in enumerate(zip(helpers, ends, strict=True), start=1):
        with contextlib.suppress(EOFError):
            if end.poll(FAREWELL_SECONDS):
                told = end.recv()
                return told if isinstance(told, GlrError) else HelpersError(f"process {number} of the training: {told}")
        helper.join(FAREWELL_SECONDS)
        if helper.exitcode:
            return HelpersError(_ended(number, helper.exitcode))
    return None


def _ended(number: int, exit_code: int | None) -> str:
    return f"process {number} of the training ended by itself (exit code {exit_code})"


def _here(number: int) -> str:
    """The key by which a process tells that it is there."""
    return f"process {number} is here"


def _help(team: Team, device: str, threads: int, end: Connection, work_file: Path) -> None:
    torch.set_num_threads(threads)
    try:
        team.join(torch.device(device))
        work, carried = pickle.loads(work_file.read_bytes())
        work(team, carried)
    except GlrError as error:
        end.send(error)
        raise SystemExit(1) from None
    except (RuntimeError, MemoryError) as error:
        # Also what process 0 causes by ending first; nobody reads it then.
        end.send((str(error).strip() or type(error).__name__).splitlines()[0])
        raise SystemExit(1) from None
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


class TeamEnvironment(ClusterEnvironment):
    """Tells lightning that the processes are there already, and which of them this is."""

    def __init__(self, team: Team) -> None:
        super().__init__()
        self.team = team

    @property
    def creates_processes_externally(self) -> bool:
        """They are started here."""
        return True

    @property
    def main_address(self) -> str:
        """Where all of them are."""
        return "127.0.0.1"

    @property
    def main_port(self) -> int:
        """Where process 0 listens."""
        return self.team.port

    @staticmethod
    def detect() -> bool:
        """Never found by looking."""
        return False

    def world_size(self) -> int:
        """All processes."""
        return self.team.size

    def set_world_size(self, size: int) -> None:
        """It is known."""

    def global_rank(self) -> int:
        """The process's number."""
        return self.team.number

    def set_global_rank(self, rank: int) -> None:
        """It is known."""

    def local_rank(self) -> int:
        """The process's number: all are on one machine."""
        return self.team.number

    def node_rank(self) -> int:
        """There is one machine."""
        return 0


class WholeBatchNorms(LayerSync):
    """Has batch normalisation count the whole batch, on processors; torch's own way of it is for GPUs alone."""

    def apply(self, model: nn.Module) -> nn.Module:
        """Let the layers of `model` count the whole batch."""
        return _exchanged(model, {nn.BatchNorm1d: _WholeBatchNorm1d, nn.BatchNorm2d: _WholeBatchNorm2d})

    def revert(self, model: nn.Module) -> nn.Module:
        """Let them be what they were; what they have learnt stays."""
        return _exchanged(model, {_WholeBatchNorm1d: nn.BatchNorm1d, _WholeBatchNorm2d: nn.BatchNorm2d})


def _exchanged(model: nn.Module, kinds: dict[type[nn.Module], type[nn.Module]]) -> nn.Module:
    for module in model.modules():
        # Parameters, buffers and whoever refers to them stay: only how it is computed differs.
        module.__class__ = kinds.get(type(module), type(module))
    return model


class _WholeBatchNorm(nn.modules.batchnorm._BatchNorm):
    """Batch normalisation over the batches of all processes (Ioffe and Szegedy 2015, arXiv 1502.03167)."""

    def forward(self, features: Tensor) -> Tensor:
        if not self.training:
            return super().forward(features)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.num_batches_tracked is not None
        assert self.momentum is not None
        over = [0, *range(2, features.ndim)]
        shape = [1, -1, *[1] * (features.ndim - 2)]
        count = _sum_of_all(features.new_tensor(float(features.numel() // features.shape[1])))
        mean = _sum_of_all(features.sum(over)) / count
        centred = features - mean.view(shape)
        # In two steps: the mean of squares less the square of the mean loses what float32 can tell.
        variance = _sum_of_all(centred.square().sum(over)) / count
        with torch.no_grad():
            self.num_batches_tracked.add_(1)
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.lerp_(variance * count / (count - 1).clamp(min=1), self.momentum)
        scaled = centred * torch.rsqrt(variance + self.eps).view(shape)
        return scaled * self.weight.view(shape) + self.bias.view(shape) if self.affine else scaled


class _WholeBatchNorm1d(_WholeBatchNorm, nn.BatchNorm1d):
    pass


class _WholeBatchNorm2d(_WholeBatchNorm, nn.BatchNorm2d):
    pass


def _sum_of_all(tensor: Tensor) -> Tensor:
    summed: Tensor = _SumOfAll.apply(tensor)  # type: ignore[no-untyped-call]
    return summed


class _SumOfAll(torch.autograd.Function):
    """The sum over all processes; each has a part in what every process makes of it."""

    @staticmethod
    def forward(context: Any, tensor: Tensor) -> Tensor:
        summed = tensor.clone()
        dist.all_reduce(summed)
        return summed

    @staticmethod
    def backward(context: Any, gradient: Tensor) -> Tensor:
        summed = gradient.contiguous().clone()
        dist.all_reduce(summed)
        return summed
