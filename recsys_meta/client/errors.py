"""What a call can end in besides an answer."""

from __future__ import annotations

from recsys_meta.client.responses import Problem


class ApiError(Exception):
    """The API said no. `status` and `problem` say why; `problem.request_id` finds it in the server's log."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail} (request {problem.request_id})")
        self.problem, self.status = problem, problem.status


class NoAnswer(Exception):
    """The API could not be reached, or its answer did not arrive, or was none of its own."""
