"""Runs the tools that the model calls, beside the conversation: one answer to each call, whatever happens.

A tool may fail, hang, block its thread, ignore that it is cancelled, or return what nobody can send: the
model is told so, and the conversation goes on. What a tool is, `novasonic.tools` says.
"""

import asyncio
import contextlib
import functools
import inspect
import logging
from collections.abc import Awaitable, Callable, Coroutine, Generator, Sequence
from dataclasses import dataclass
from typing import Any, Final

from novasonic.events import ToolCall
from novasonic.messages import ToolSpec
from novasonic.threads import in_thread
from novasonic.tools import ArgumentsError, Tool, ToolContext, error_text, result_text

logger = logging.getLogger("novasonic.runner")

# A model that calls more tools than this at once has lost its way, and each may hold a thread.
_MOST_AT_ONCE: Final = 32

# A program that answers calls itself has forgotten one that is this old, in seconds.
_FORGOTTEN: Final = 30.0

_CANCELLED: Final = "the tool was cancelled"
_CUT: Final = "the tool was cancelled, because the user broke in"
_ENDING: Final = "the tool was cancelled, because the conversation is ending"


@dataclass(slots=True)
class _Running:
    """A call whose tool is at work."""

    tool: Tool[..., Any]
    stopped: asyncio.Future[str]  # why nobody waits for it any more


class ToolRunner:
    """Runs the tools of one session.

    Args:
        tools: Those to run, and those that the program runs itself.
        answer: Sends the answer to a call: its id, and the text of a JSON object.
        context: Makes what a tool is told of its session.
    """

    def __init__(
        self,
        tools: Sequence[Tool[..., Any] | ToolSpec],
        *,
        answer: Callable[[str, str], Awaitable[None]],
        context: Callable[[ToolCall], ToolContext],
    ) -> None:
        self._tools: dict[str, Tool[..., Any] | ToolSpec] = {tool.name: tool for tool in tools}
        self._answer = answer
        self._context = context
        self._open: dict[str, asyncio.TimerHandle | _Running | None] = {}  # calls without an answer, by id
        self._tasks = set[asyncio.Task[None]]()  # one for each call that is answered here
        self._work = set[asyncio.Task[Any]]()  # the tools themselves; one that hangs is still in here

    @property
    def busy(self) -> bool:
        """Whether a call waits for its answer."""
        return bool(self._open)

    @contextlib.contextmanager
    def offering(self, tools: Sequence[Tool[..., Any] | ToolSpec] | None) -> Generator[None]:
        """Have other tools from now on, if any are given; those of before as well, until the block has ended.

        If it fails, there are only those of before again.
        """
        before = self._tools
        after = before if tools is None else {tool.name: tool for tool in tools}
        self._tools = before | after
        try:
            yield
        except BaseException:
            self._tools = before
            raise
        self._tools = after

    def owns(self, task: asyncio.Task[Any] | None) -> bool:
        """Whether a task is one of a tool's."""
        return task in self._tasks or task in self._work

    def runs(self, name: str) -> bool:
        """Whether a call of this name is answered here, and not by the program."""
        return not isinstance(self._tools.get(name), ToolSpec)

    def take_up(self, call: ToolCall) -> None:
        """See to it that a call is answered: by its tool, by an error, or by the program."""
        tool = self._tools.get(call.name)
        if isinstance(tool, ToolSpec):
            remind = asyncio.get_running_loop().call_later(_FORGOTTEN, _remind, call)
            self._open[call.id] = remind
        elif tool is None:
            offered = ", ".join(self._tools) or "none"
            self._refuse(call, f"there is no tool named {call.name!r}; there are: {offered}")
        elif call.error is not None:
            self._refuse(call, call.error)
        elif len(self._work) >= _MOST_AT_ONCE:
            self._refuse(call, f"{_MOST_AT_ONCE} tools are running already; wait for some of their results")
        else:
            running = _Running(tool, asyncio.get_running_loop().create_future())
            self._open[call.id] = running
            self._spawn(self._run(call, running), call)

    def claim(self, call_id: str) -> bool:
        """Take it upon oneself to answer a call; return whether it still waits for that."""
        if call_id not in self._open:
            return False
        match self._open.pop(call_id):
            case asyncio.TimerHandle() as reminder:
                reminder.cancel()
            case _Running(stopped=stopped) if not stopped.done():
                stopped.set_result(_CANCELLED)
            case _:
                pass
        return True

    def interrupted(self) -> None:
        """Cancel the tools that want to be, as the user broke in."""
        self._stop(_CUT, lambda tool: tool.cancel_on_interrupt)

    async def aclose(self, *, answer: bool, timeout: float) -> None:  # noqa: ASYNC109 - running out of time is no failure here
        """Cancel all tools, and answer their calls if that is of use; wait so long, in seconds, at most."""
        for waiting in self._open.values():
            if isinstance(waiting, asyncio.TimerHandle):
                waiting.cancel()
        self._stop(_ENDING, lambda _: True)
        if not answer:
            self._open.clear()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=timeout / 2)
        for task in (*self._tasks, *self._work):
            task.cancel()
        if left := self._tasks | self._work:
            _, left = await asyncio.wait(left, timeout=timeout / 2)
        for task in left:
            logger.warning("%s does not end although it was cancelled; it is left alone", task.get_name())

    def _stop(self, why: str, chosen: Callable[[Tool[..., Any]], bool]) -> None:
        for running in self._open.values():
            if isinstance(running, _Running) and chosen(running.tool) and not running.stopped.done():
                running.stopped.set_result(why)

    def _refuse(self, call: ToolCall, why: str) -> None:
        self._open[call.id] = None
        self._spawn(self._send(call, error_text(why)), call)

    def _spawn(self, work: Coroutine[Any, Any, None], call: ToolCall) -> None:
        task = asyncio.create_task(work, name=f"novasonic-call-{call.name}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _run(self, call: ToolCall, running: _Running) -> None:
        """Run a tool in a task of its own, so that one that hangs can be left behind; answer for it."""
        tool, stopped = running.tool, running.stopped
        work = asyncio.create_task(self._call(tool, call), name=f"novasonic-tool-{call.name}")
        self._work.add(work)
        work.add_done_callback(self._ended)
        either: set[asyncio.Future[Any]] = {work, stopped}
        await asyncio.wait(either, timeout=tool.timeout, return_when=asyncio.FIRST_COMPLETED)
        if stopped.done():
            text = error_text(stopped.result())
        elif work.done():
            text = _told(call, work)
        else:
            text = error_text(f"the tool did not answer within {tool.timeout:g} s")
            logger.warning(
                "the tool %s did not answer within %g s; it was cancelled", call.name, tool.timeout
            )
        if tool.asynchronous:  # a thread cannot be cancelled: its task stays, and counts, until it ends
            work.cancel()
        await self._send(call, text)

    def _ended(self, work: asyncio.Task[Any]) -> None:
        self._work.discard(work)
        if not work.cancelled():
            work.exception()  # seen: it was told, or comes too late

    async def _call(self, tool: Tool[..., Any], call: ToolCall) -> object:
        function = functools.partial(tool.call, **tool.arguments_for(call.arguments, self._context(call)))
        try:
            if tool.asynchronous:
                return await function()
            result = await in_thread(function, name=f"novasonic-tool-{call.name}")
            return await result if inspect.isawaitable(result) else result
        except SystemExit as exc:  # it would end the program
            raise RuntimeError(f"the tool raised {exc!r}") from exc

    async def _send(self, call: ToolCall, text: str) -> None:
        if not self.claim(call.id):
            return  # somebody else has answered
        try:
            await self._answer(call.id, text)
        except Exception as exc:  # noqa: BLE001 - a stream that has failed tells whoever reads it
            logger.debug("the answer to %s was not sent: %s", call.name, exc)


def _told(call: ToolCall, work: asyncio.Task[Any]) -> str:
    """What the model is told of a tool that has ended."""
    if work.cancelled():
        return error_text(_CANCELLED)
    failure = work.exception()
    if isinstance(failure, ArgumentsError):
        return error_text(str(failure))
    if failure is not None:
        logger.error("the tool %s failed", call.name, exc_info=failure)
        return error_text(_description(failure))
    try:
        return result_text(work.result())
    except Exception as exc:  # noqa: BLE001 - an object of the program's may raise anything when it is looked at
        logger.error("what the tool %s returned cannot be sent: %s", call.name, _description(exc))  # noqa: TRY400 - the stack is ours
        return error_text("the tool returned something that cannot be sent")


def _description(failure: BaseException) -> str:
    """Its type and message: a traceback is nothing for the model."""
    try:
        return f"{type(failure).__name__}: {failure}"
    except Exception:  # noqa: BLE001 - its __str__ fails, too
        return type(failure).__name__


def _remind(call: ToolCall) -> None:
    logger.warning(
        "the call %s of the tool %s has had no answer for %g s; give one with send_tool_result()",
        call.id,
        call.name,
        _FORGOTTEN,
    )
