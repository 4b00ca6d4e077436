"""Jobs on a chosen backend of gradhess."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

Problem = TypeVar("Problem")
Answer = TypeVar("Answer")


def on_backend(name: str, job: Callable[[Problem], Answer]) -> Callable[[], Callable[[Problem], Answer]]:
    """A factory of ``job`` with that backend active; ImportError, with the reason, where the backend is not there."""

    def factory() -> Callable[[Problem], Answer]:
        import gradhess as gh

        try:
            with gh.use_backend(name):
                pass
        except gh.errors.BackendError as error:
            raise ImportError(str(error)) from error

        def on_it(problem: Problem) -> Answer:
            with gh.use_backend(name):
                return job(problem)

        return on_it

    return factory
