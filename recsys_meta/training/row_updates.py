"""AdamW on the rows that a step reads, equal to AdamW on the whole table up to rounding.

Without a gradient AdamW still moves a row: by weight decay and by what is left of its momentum. After d such steps

    m_d = beta1^d m,   v_d = beta2^d v,   p_d = P p - Q m / (sqrt(v) + E)

where P and Q are numbers that depend on the learning rates of those steps alone. So they are kept for each step at
which a row may last have been updated, and a row is brought up to date when it is read: no step passes over a table.
The same holds for an exponential average of the weights, a_d = A a + B p - C m / (sqrt(v) + E). E stands for eps, which
beside a shrinking sqrt(v) grows from step to step: it is the mean over the steps, weighted as Q is, which is right to
first order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from recsys_meta.core.types import Params
from recsys_meta.training.table_shards import TableShards

CURRENT = (1.0, 0.0, 1.0, 0.0, 0.0, 0.0)
"""P, Q, A, B, C and Q E of a row that is up to date."""
LONGEST = 4096
"""Steps after which all rows of a table are brought up to date, so that its history stays short."""
SETTLED_ROWS = 65_536
"""Rows that are brought up to date at a time, where all are: what it takes beside the table does not grow with it."""


@dataclass
class RowHistory:
    """axis: that along which the rows of the table lie; updated [rows]: the step at which each row is; coefficients
    [6, n] float64: P, Q, A, B, C and Q E for rows that are at step `start`, start + 1, ... up to the last one taken."""

    axis: int
    updated: Tensor
    start: int
    coefficients: Tensor

    @classmethod
    def of(cls, table: Tensor, axis: int, step: int) -> RowHistory:
        """History of a table whose rows are all at this step."""
        updated = torch.full((table.shape[axis],), step, dtype=torch.int64, device=table.device)
        return cls(axis, updated, step, torch.tensor(CURRENT, dtype=torch.float64, device=table.device)[:, None])

    def view(self, table: Tensor) -> Tensor:
        """The table, or a tensor of its shape, with its rows along the first axis."""
        return table.detach().transpose(0, self.axis)

    @property
    def step(self) -> int:
        """Number of steps taken."""
        return self.start + self.coefficients.shape[1] - 1

    def advance(self, group: Mapping[str, Any], decay: float | None) -> None:
        """Count one more step, at the learning rate and weight decay of an optimiser's group; `decay` is that of the
        average of the weights, None without one."""
        rate, shrink, (beta1, beta2) = group["lr"], 1 - group["lr"] * group["weight_decay"], group["betas"]
        step = self.step + 1
        age = torch.arange(step - self.start, 0, -1, dtype=torch.float64, device=self.updated.device)
        pull = rate * (1 - beta2**step) ** 0.5 / (1 - beta1**step)
        pull = pull * (beta1 / beta2**0.5) ** age
        p, q, a, b, c, qe = self.coefficients
        p, q = p * shrink, q * shrink + pull
        qe = qe * shrink + pull * group["eps"] * (1 - beta2**step) ** 0.5 / beta2 ** (age / 2)
        if decay is not None:
            a, b, c = a * decay, b * decay + (1 - decay) * p, c * decay + (1 - decay) * q
        last = self.coefficients.new_tensor(CURRENT)[:, None]
        self.coefficients = torch.cat([torch.stack([p, q, a, b, c, qe]), last], 1)

    def restart(self) -> None:
        """Forget coefficients, all rows being up to date."""
        self.start, self.coefficients = self.step, self.coefficients[:, -1:].clone()


class RowUpdates:
    """Updates of the rows of tables that steps select, beside an AdamW that takes the other steps.

    The moments are the optimiser's own; averages are those of the weights by name, empty without any. Of tables in
    `shards` parameters, moments and averages have the rows of this process alone: it updates those, and reads all.
    """

    def __init__(self, optimiser: torch.optim.AdamW, params: Params, shards: TableShards | None = None) -> None:
        self._optimiser = optimiser
        self._params = params
        self._shards = shards
        groups = {id(p): group for group in optimiser.param_groups for p in group["params"]}
        self._groups = {k: groups[id(v)] for k, v in params.items() if id(v) in groups}
        self.histories: dict[str, RowHistory] = {}

    @torch.no_grad()
    def read(self, rows: Mapping[str, Tensor], averages: Params, columns: Collection[str] = ()) -> Params:
        """Bring rows up to date and return them, [n, ...], as leaves that require gradients. Of tables in `columns` the
        ids are those of columns."""
        for key, ids in rows.items():
            if key not in self.histories:
                axis, step = int(key in columns), int(self._state(key)["step"])
                self.histories[key] = RowHistory.of(self._params[key], axis, step)
            history = self.histories[key]
            if history.coefficients.shape[1] > LONGEST:
                self._settle(key, averages)
            self._catch_up(key, self._locate(key, ids)[1], averages)
        return {k: self._all_rows(k, ids).requires_grad_() for k, ids in rows.items()}

    @torch.no_grad()
    def step(self, rows: Mapping[str, Tensor], leaves: Params, averages: Params, decay: float | None) -> None:
        """Take a step on the rows that `read` returned, by the gradients of the leaves; `decay` is that of the average
        of the weights, None without one."""
        for key, read in rows.items():
            state, group, history = self._state(key), self._groups[key], self.histories[key]
            (beta1, beta2), gradient = group["betas"], leaves[key].grad
            place, ids = self._locate(key, read)
            before = leaves[key].detach()[place]
            gradient = torch.zeros_like(before) if gradient is None else gradient[place]
            state["step"] += 1
            step = int(state["step"])
            first, second = history.view(state["exp_avg"]), history.view(state["exp_avg_sq"])
            mean = first[ids].lerp_(gradient, 1 - beta1)
            square = second[ids].mul_(beta2).addcmul_(gradient, gradient, value=1 - beta2)
            scale = (square.sqrt() / (1 - beta2**step) ** 0.5).add_(group["eps"])
            values = before * (1 - group["lr"] * group["weight_decay"])
            values.addcdiv_(mean, scale, value=-group["lr"] / (1 - beta1**step))
            history.view(self._params[key]).index_copy_(0, ids, values)
            first.index_copy_(0, ids, mean)
            second.index_copy_(0, ids, square)
            if decay is not None and key in averages:
                average = history.view(averages[key])
                average.index_copy_(0, ids, average[ids].lerp_(values, 1 - decay))
            history.advance(group, decay)
            history.updated[ids] = history.step

    @torch.no_grad()
    def settle(self, averages: Params, but: Mapping[str, Tensor] | None = None) -> None:
        """Bring all rows of all tables up to date, for a reader of whole tables or a step on them; `but` names tables
        that are left as they are."""
        for key in self.histories:
            if but is None or key not in but:
                self._settle(key, averages)

    def forget(self, but: Mapping[str, Tensor]) -> None:
        """Forget the histories of tables that a step changed as a whole, `but` those whose rows it read. All their rows
        are as far as the optimiser is."""
        self.histories = {k: v for k, v in self.histories.items() if k in but}

    def dump(self) -> dict[str, Tensor]:
        """State beyond the optimiser's, for a checkpoint: name -> tensor."""
        tensors = {}
        for key, history in self.histories.items():
            tensors[f"{key}/updated"] = history.updated
            tensors[f"{key}/coefficients"] = history.coefficients
            tensors[f"{key}/origin"] = torch.tensor([history.axis, history.start])
        return tensors

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restore what `dump` returned."""
        keys = {k.rpartition("/")[0] for k in tensors}
        self.histories = {
            k: RowHistory(
                int(tensors[f"{k}/origin"][0]),
                tensors[f"{k}/updated"].to(self._params[k].device, copy=True),
                int(tensors[f"{k}/origin"][1]),
                tensors[f"{k}/coefficients"].to(self._params[k].device, copy=True),
            )
            for k in sorted(keys)
        }

    def _state(self, key: str) -> dict[str, Any]:
        """Moments of a table, as the optimiser starts them."""
        table = self._params[key]
        state: dict[str, Any] = self._optimiser.state[table]
        if not state:
            state |= {
                "step": torch.tensor(0.0),
                "exp_avg": torch.zeros_like(table),
                "exp_avg_sq": torch.zeros_like(table),
            }
        return state

    def _locate(self, key: str, ids: Tensor) -> tuple[Tensor | slice, Tensor]:
        """Positions among the ids of the rows that are in this process, and where they lie: all, except for a shard."""
        if self._shards is None or key not in self._shards.shapes:
            return slice(None), ids
        return self._shards.locate(key, ids)

    def _all_rows(self, key: str, ids: Tensor) -> Tensor:
        """Rows of a table, those of other processes too."""
        table = self.histories[key].view(self._params[key])
        if self._shards is None or key not in self._shards.shapes:
            return table[ids]
        place, local = self._shards.locate(key, ids)
        return self._shards.exchange(place, table[local], len(ids))

    def _settle(self, key: str, averages: Params) -> None:
        history = self.histories[key]
        stale = (history.updated < history.step).nonzero().flatten()
        for start in range(0, len(stale), SETTLED_ROWS):
            self._catch_up(key, stale[start : start + SETTLED_ROWS], averages)
        history.restart()

    def _catch_up(self, key: str, ids: Tensor, averages: Params) -> None:
        history, state, group = self.histories[key], self._state(key), self._groups[key]
        table, first, second = (history.view(v) for v in (self._params[key], state["exp_avg"], state["exp_avg_sq"]))
        at = history.updated[ids]
        shape = (len(CURRENT), len(ids), *[1] * (table.dim() - 1))
        coefficients = history.coefficients[:, at - history.start].view(shape)
        eps = torch.where(coefficients[1] > 0, coefficients[5] / coefficients[1], group["eps"]).to(table.dtype)
        p, q, a, b, c, _ = coefficients.to(table.dtype)
        age = (history.step - at).to(torch.float64).view(shape[1:])
        (beta1, beta2), values, mean, square = group["betas"], table[ids], first[ids], second[ids]
        direction = mean / (square.sqrt() + eps)
        if key in averages:
            average = history.view(averages[key])
            average.index_copy_(0, ids, a * average[ids] + b * values - c * direction)
        table.index_copy_(0, ids, p * values - q * direction)
        first.index_copy_(0, ids, mean * (beta1**age).to(table.dtype))
        second.index_copy_(0, ids, square * (beta2**age).to(table.dtype))
        history.updated[ids] = history.step
