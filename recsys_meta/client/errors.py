"""Errors of a call: a refusal of the API, and no response of the API at all."""

from __future__ import annotations

from recsys_meta.wire.service_responses import ProblemDocument


class ApiError(Exception):
    """A refusal by the API. `status` and `problem` give the reason; `problem.request_id` finds it in the server's
    log."""

    def __init__(self, problem: ProblemDocument) -> None:
        super().__init__(f"{problem.status} {problem.title}: {problem.detail} (request {problem.request_id})")
        self.problem, self.status = problem, problem.status


class TransportError(Exception):
    """A call without a response of the API: it could not be reached, the response did not arrive, or something else
    sent it."""
