"""Random trees of calls, run decorated or bare from the same description, for the property test.

A node says what kind of callable it is, how it ends and how it calls its children: one after the other, concurrently
(threads from synchronous code, tasks from asynchronous code), or interleaved (generators advanced in turn). Running a
tree gives its result or exception, and what happened: which node ran beneath which, and how it ended.
"""

from __future__ import annotations

import asyncio
import contextvars
import functools
import gc
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from opentelemetry import trace
from werkzeug.exceptions import NotFound

import otel_mlobs as mlobs

if TYPE_CHECKING:
    from collections.abc import Callable

SYNC_KINDS = ("function", "method", "classmethod", "staticmethod", "callable object", "partial", "lambda", "with")
ASYNC_KINDS = ("coroutine", "async method", "async callable object", "async partial", "async with")
GENERATOR_KINDS = ("generator", "generator method", "generator callable object", "generator partial")
ASYNC_GENERATOR_KINDS = (
    "async generator", "async generator method", "async generator callable object", "async generator partial",
)  # fmt: skip
KINDS = SYNC_KINDS + ASYNC_KINDS + GENERATOR_KINDS + ASYNC_GENERATOR_KINDS

ENDINGS = ("return", "return", "return", "ValueError", "Custom", "NotFound", "KeyError", "cancel", "MemoryError")
CONSUMPTIONS = ("all", "send", "close", "drop", "throw", "never", "elsewhere")
MODES = ("sequential", "concurrent", "interleaved")

PATH = "test.path"
SHARED = mlobs.operation("shared")
"""One instance, entered by all nodes of the kind ``with``, from many threads and tasks, and recursively."""


class CustomError(Exception):
    """An exception whose arguments are not its message."""

    def __init__(self, code: int, detail: str) -> None:
        super().__init__(code, detail)


@dataclass(frozen=True)
class Node:
    """One call of the tree."""

    kind: str
    operation: str
    ending: str = "return"
    catches: bool = False
    mode: str = "sequential"
    consumption: str = "all"
    steps: int = 1
    children: tuple[Node, ...] = ()

    @property
    def is_async(self) -> bool:
        return self.kind in ASYNC_KINDS + ASYNC_GENERATOR_KINDS

    @property
    def is_generator(self) -> bool:
        return self.kind in GENERATOR_KINDS + ASYNC_GENERATOR_KINDS


def raise_ending(node: Node, path: str) -> None:
    """End as the node says, where that is an exception."""
    if node.ending == "ValueError":
        raise ValueError("bad", path)
    if node.ending == "Custom":
        raise CustomError(7, path)
    if node.ending == "NotFound":
        raise NotFound(path)
    if node.ending == "KeyError":
        try:
            {}[path]
        except KeyError as error:
            raise RuntimeError(path) from error
    if node.ending == "MemoryError":
        raise MemoryError


def seen(error: BaseException) -> tuple[str, str, str]:
    """An exception as it can be compared between two runs."""
    return ("raised", type(error).__qualname__, repr(error.args))


@dataclass
class Run:
    """One run of a tree. ``ended``: path → the parent's path and how the node ended."""

    decorated: bool
    ended: dict[str, tuple[str | None, str]] = field(default_factory=dict)
    leaks: list[str] = field(default_factory=list)
    caught: list[BaseException] = field(default_factory=list)

    # -- what a node does ------------------------------------------------------------------------------------------

    def check(self, path: str, when: str) -> None:
        """The node's own span is current whenever its body runs."""
        if self.decorated:
            span: Any = trace.get_current_span()
            found = (getattr(span, "attributes", None) or {}).get(PATH)
            if found != path:
                self.leaks.append(f"{when} in {path} the current span is of {found}")

    def enter(self, path: str, parent: str | None) -> None:
        self.ended[path] = (parent, "running")
        mlobs.current_operation().set_attribute(PATH, path)
        self.check(path, "at the start")

    def leave(self, path: str, error: BaseException | None) -> None:
        how = "ok" if error is None else type(error).__qualname__
        self.ended[path] = (self.ended[path][0], how)

    def plain_body(self, node: Node, path: str, parent: str | None) -> Any:
        self.enter(path, parent)
        try:
            results = self.children(node, path)
            if node.ending == "cancel":
                raise asyncio.CancelledError(path)
            raise_ending(node, path)
        except BaseException as error:
            self.leave(path, error)
            raise
        self.leave(path, None)
        return [path, results]

    async def async_body(self, node: Node, path: str, parent: str | None) -> Any:
        self.enter(path, parent)
        try:
            results = await self.children_async(node, path)
            await self.async_ending(node, path)
        except BaseException as error:
            self.leave(path, error)
            raise
        self.leave(path, None)
        return [path, results]

    async def async_ending(self, node: Node, path: str) -> None:
        if node.ending == "cancel":
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_soon(task.cancel)
            await asyncio.Event().wait()
        raise_ending(node, path)

    def generator_body(self, node: Node, path: str, parent: str | None) -> Any:
        self.enter(path, parent)
        results: list[Any] = []
        try:
            for index, child in enumerate(node.children):
                results.append(self.call(child, f"{path}.{index}", path, node.catches))
                self.check(path, f"after child {index}")
                try:
                    results.append((yield index))
                except ValueError as error:
                    if not node.catches:
                        raise
                    results.append(seen(error))
                self.check(path, f"after yield {index}")
            if node.ending == "cancel":
                raise asyncio.CancelledError(path)
            raise_ending(node, path)
        except BaseException as error:
            self.leave(path, error)
            raise
        self.leave(path, None)
        return results

    def async_generator_of(self, node: Node, parent: str | None) -> Any:
        async def generator(*args: str) -> Any:
            path = args[-1]
            self.enter(path, parent)
            try:
                for index, child in enumerate(node.children):
                    result = await self.call_async(child, f"{path}.{index}", path, node.catches)
                    self.check(path, f"after child {index}")
                    try:
                        received = yield [index, result]
                    except ValueError as error:
                        if not node.catches:
                            raise
                        received = seen(error)
                    self.check(path, f"after yield {index}")
                    if received is not None:
                        yield ["received", received]
                await self.async_ending(node, path)
            except BaseException as error:
                self.leave(path, error)
                raise
            self.leave(path, None)

        return generator

    # -- how a node calls its children -----------------------------------------------------------------------------

    def children(self, node: Node, path: str) -> list[Any]:
        calls = [(child, f"{path}.{index}") for index, child in enumerate(node.children)]
        if node.mode == "concurrent":
            results = in_threads([functools.partial(self.call, child, at, path, True) for child, at in calls])
        elif node.mode == "interleaved":
            results = self.interleaved(calls, path)
        else:
            results = []
            for child, at in calls:
                results.append(self.call(child, at, path, node.catches))
                self.check(path, f"after {at}")
        self.check(path, "after the children")
        return results

    async def children_async(self, node: Node, path: str) -> list[Any]:
        calls = [(child, f"{path}.{index}") for index, child in enumerate(node.children)]
        if node.mode == "concurrent":
            tasks = [
                asyncio.ensure_future(self.call_async(child, at, path, True))
                if child.is_async
                else asyncio.ensure_future(asyncio.to_thread(self.call, child, at, path, True))
                for child, at in calls
            ]
            results = [*await asyncio.gather(*tasks)]
        elif node.mode == "interleaved":
            results = self.interleaved([(child, at) for child, at in calls if not child.is_async], path)
            results += [await self.call_async(child, at, path, node.catches) for child, at in calls if child.is_async]
        else:
            results = []
            for child, at in calls:
                results.append(await self.call_async(child, at, path, node.catches))
                self.check(path, f"after {at}")
        self.check(path, "after the children")
        return results

    def interleaved(self, calls: list[tuple[Node, str]], path: str) -> list[Any]:
        """Advance the generators among the children in turn; the others run in between."""
        results: list[Any] = []
        running: list[Any] = []
        for child, at in calls:
            if child.kind in GENERATOR_KINDS:
                running.append(self.callable_of(child, path)(at))
            else:
                results.append(self.call(child, at, path, True))
        while running:
            for generator in tuple(running):
                try:
                    results.append(next(generator))
                except StopIteration as stop:
                    results.append(stop.value)
                    running.remove(generator)
                except BaseException as error:
                    self.caught.append(error)
                    results.append(seen(error))
                    running.remove(generator)
                self.check(path, "between the generators")
        return results

    def call(self, node: Node, path: str, parent: str, catches: bool) -> Any:
        try:
            if node.is_async:
                return in_threads([lambda: asyncio.run(self.call_async(node, path, parent, False))])[0]
            function = self.callable_of(node, parent)
            return self.consume(node, path, function(path)) if node.is_generator else function(path)
        except BaseException as error:
            if not catches:
                raise
            self.caught.append(error)
            return seen(error)

    async def call_async(self, node: Node, path: str, parent: str, catches: bool) -> Any:
        if not node.is_async:
            return self.call(node, path, parent, catches)
        try:
            function = self.callable_of(node, parent)
            if node.is_generator:
                return await self.consume_async(node, path, function(path))
            return await function(path)
        except BaseException as error:
            if not catches:
                raise
            self.caught.append(error)
            return seen(error)

    def consume(self, node: Node, path: str, generator: Any) -> Any:
        received: list[Any] = []
        if node.consumption == "never":
            return "never started"
        try:
            for step in range(100):
                if step == node.steps and node.consumption == "close":
                    generator.close()
                    return [*received, "closed"]
                if step == node.steps and node.consumption == "drop":
                    del generator
                    gc.collect(0)
                    return [*received, "dropped"]
                if step == node.steps and node.consumption == "throw":
                    received.append(generator.throw(ValueError("thrown", path)))
                    continue
                value = step if step and node.consumption == "send" else None
                if node.consumption == "elsewhere":
                    received.append(in_threads([functools.partial(generator.send, value)])[0])
                else:
                    received.append(generator.send(value))
        except StopIteration as stop:
            received.append(stop.value)
        return received

    async def consume_async(self, node: Node, path: str, generator: Any) -> Any:
        received: list[Any] = []
        if node.consumption == "never":
            return "never started"
        try:
            for step in range(100):
                if step == node.steps and node.consumption == "close":
                    await generator.aclose()
                    return [*received, "closed"]
                if step == node.steps and node.consumption == "drop":
                    del generator
                    for _ in range(5):
                        await asyncio.sleep(0)
                    return [*received, "dropped"]
                if step == node.steps and node.consumption == "throw":
                    received.append(await generator.athrow(ValueError("thrown", path)))
                    continue
                value = step if step and node.consumption == "send" else None
                if node.consumption == "elsewhere":
                    received.append(await asyncio.ensure_future(as_coroutine(generator.asend(value))))
                else:
                    received.append(await generator.asend(value))
        except StopAsyncIteration:
            received.append("end")
        return received

    # -- the callable of every kind --------------------------------------------------------------------------------

    def callable_of(self, node: Node, parent: str | None) -> Callable[[str], Any]:
        """The node's callable, decorated where this run is. Its body takes the path last, so it is a method too."""

        def plain(*args: str) -> Any:
            return self.plain_body(node, args[-1], parent)

        async def coroutine(*args: str) -> Any:
            return await self.async_body(node, args[-1], parent)

        def generator(*args: str) -> Any:
            return (yield from self.generator_body(node, args[-1], parent))

        body: Any = plain
        if node.kind in GENERATOR_KINDS:
            body = generator
        elif node.kind in ASYNC_GENERATOR_KINDS:
            body = self.async_generator_of(node, parent)
        elif node.kind in ASYNC_KINDS:
            body = coroutine
        if node.kind.endswith("with"):
            return self.entering(node, body) if self.decorated else body  # type: ignore[no-any-return]
        return shaped(node.kind, body, spec_of(node) if self.decorated else lambda function: function)

    def entering(self, node: Node, body: Any) -> Callable[[str], Any]:
        def inside(at: str) -> Any:
            with SHARED:
                return body(at)

        async def inside_async(at: str) -> Any:
            with SHARED:
                return await body(at)

        return inside_async if node.is_async else inside


def shaped(kind: str, body: Any, spec: Any) -> Callable[[str], Any]:
    """``body`` as the kind says, with ``spec`` applied to it."""
    if kind.endswith("classmethod"):
        return type("Holder", (), {"call": spec(classmethod(body))})().call  # type: ignore[no-any-return,attr-defined]
    if kind.endswith("staticmethod"):
        return type("Holder", (), {"call": staticmethod(spec(body))})().call  # type: ignore[no-any-return,attr-defined]
    if kind.endswith("method"):
        return type("Holder", (), {"call": spec(body)})().call  # type: ignore[no-any-return,attr-defined]
    if kind.endswith("callable object"):
        return spec(type("Called", (), {"__call__": body})())  # type: ignore[no-any-return]
    if kind.endswith("partial"):
        return spec(functools.partial(body))  # type: ignore[no-any-return]
    if kind == "lambda":
        return spec(lambda at: body(at))  # type: ignore[no-any-return]
    return spec(body)  # type: ignore[no-any-return]


def spec_of(node: Node) -> Any:
    """The decorator of a node."""
    if node.operation == "feature_lookup":
        return mlobs.feature_lookup(view="users", features=3)
    if node.operation == "candidate_generation":
        return mlobs.candidate_generation(source="two_tower", k=5)
    if node.operation == "ranking":
        return mlobs.ranking(model="ltr", version=7)
    if node.operation == "prediction":
        return mlobs.prediction(model="churn", inputs=lambda *args: args[-1], expected=CustomError)
    return mlobs.operation("rerank")


async def as_coroutine(awaitable: Any) -> Any:
    """A task takes a coroutine."""
    return await awaitable


def in_threads(calls: list[Callable[[], Any]]) -> list[Any]:
    """Run ``calls`` in threads of their own, in copies of this context, and return or raise what they did."""
    results: list[Any] = [None] * len(calls)
    errors: list[BaseException | None] = [None] * len(calls)

    def run(index: int, call: Callable[[], Any]) -> None:
        try:
            results[index] = call()
        except BaseException as error:
            errors[index] = error

    threads = [
        threading.Thread(target=contextvars.copy_context().run, args=(run, index, call))
        for index, call in enumerate(calls)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for error in errors:
        if error is not None:
            raise error
    return results
