"""Tools of every kind of manners, and the one answer that each call gets."""

import asyncio
import json
import logging
import sys
import threading
from collections.abc import Callable
from typing import Any, Never

import pytest

from clocks import pass_time
from novasonic.events import ToolCall
from novasonic.messages import ToolSpec
from novasonic.runner import ToolRunner
from novasonic.session import SonicSession
from novasonic.tools import Tool, ToolContext, offered, tool

pytestmark = pytest.mark.clock("virtual")


def call(name: str, id_: str = "1", *, error: str | None = None, **arguments: Any) -> ToolCall:
    return ToolCall(turn=1, id=id_, name=name, arguments=arguments, error=error)


class Bench:
    """A runner and the answers that it gave, in order."""

    def __init__(self, *tools: Tool[..., Any] | ToolSpec | Callable[..., Any]) -> None:
        self.answers: list[tuple[str, Any]] = []
        self._answered = asyncio.Event()
        session = SonicSession()
        self.runner = ToolRunner(
            offered(tools),
            answer=self._answer,
            context=lambda each: ToolContext(session=session, call=each),
        )

    async def _answer(self, id_: str, text: str) -> None:
        self.answers.append((id_, json.loads(text)))
        self._answered.set()

    async def answered(self, count: int = 1) -> list[tuple[str, Any]]:
        while len(self.answers) < count:
            self._answered.clear()
            await self._answered.wait()
        return self.answers

    async def answer_to(self, each: ToolCall) -> Any:
        self.runner.take_up(each)
        [(id_, answer)] = await self.answered()
        assert id_ == each.id
        await self.close()
        assert len(self.answers) == 1
        return answer

    async def close(self, *, answer: bool = True) -> None:
        await self.runner.aclose(answer=answer, timeout=2)


async def test_what_a_tool_returns_goes_back() -> None:
    async def add(left: int, right: int) -> int:
        """Add."""
        return left + right

    assert await Bench(add).answer_to(call("add", left=3, right=4)) == {"result": 7}


async def test_a_plain_function_runs_in_a_thread() -> None:
    """It may block: the event loop's is the thread of all audio."""

    def where() -> str:
        """Where it runs."""
        return threading.current_thread().name

    assert await Bench(where).answer_to(call("where")) == {"result": "novasonic-tool-where"}


async def test_a_plain_function_may_return_something_to_wait_for() -> None:
    def later() -> Any:
        """Return something to wait for."""

        async def value() -> int:
            return 5

        return value()

    assert await Bench(later).answer_to(call("later")) == {"result": 5}


async def test_a_tool_is_told_which_call_it_answers() -> None:
    async def who(context: ToolContext) -> str:
        """Name the call."""
        return context.call.id

    assert await Bench(who).answer_to(call("who", "call-7")) == {"result": "call-7"}


async def test_an_unknown_tool_is_answered_with_those_that_there_are() -> None:
    async def clock() -> str:
        """Tell the time."""
        return "noon"

    answer = await Bench(clock).answer_to(call("cloak"))
    assert answer == {"error": "there is no tool named 'cloak'; there are: clock"}
    assert await Bench().answer_to(call("cloak")) == {
        "error": "there is no tool named 'cloak'; there are: none"
    }


async def test_arguments_that_do_not_fit_are_told_to_the_model_and_the_tool_never_runs() -> None:
    ran: list[int] = []

    async def count(to: int) -> None:
        """Count."""
        ran.append(to)

    answer = await Bench(count).answer_to(call("count", to="three"))
    assert "to" in answer["error"]
    assert "int" in answer["error"]
    answer = await Bench(count).answer_to(call("count", error="the arguments are no JSON object"))
    assert answer == {"error": "the arguments are no JSON object"}
    assert ran == []


def _exit() -> None:
    sys.exit(3)


def _interrupt() -> None:
    raise KeyboardInterrupt


def _stop() -> None:
    raise StopIteration("enough")


class UnspeakableError(Exception):
    def __str__(self) -> str:
        raise RuntimeError


def _unspeakable() -> None:
    raise UnspeakableError


def _fail() -> None:
    raise ValueError("no such city")


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (_fail, "ValueError: no such city"),
        (_exit, "RuntimeError: "),
        (_interrupt, "RuntimeError: "),
        (_stop, "RuntimeError: "),
        (_unspeakable, "UnspeakableError"),
    ],
)
@pytest.mark.parametrize("kind", ["plain", "async"])
async def test_a_tool_that_raises_is_answered_with_type_and_message(
    function: Callable[[], None], told: str, kind: str
) -> None:
    if kind == "async" and function is _interrupt:
        pytest.skip("there, it may be the user's own Ctrl-C")

    async def asynchronous() -> None:
        function()

    made = tool(name="bad", description="Fails.")(asynchronous if kind == "async" else function)
    answer = await Bench(made).answer_to(call("bad"))
    assert answer["error"].startswith(told)
    assert "Traceback" not in answer["error"]


class _Odd:
    @property
    def __dataclass_fields__(self) -> Never:
        raise ZeroDivisionError


@pytest.mark.parametrize("result", [b"\xff\xd8", {"photo": b"\xff"}, object(), float, _Odd()])
async def test_a_result_that_cannot_be_sent_is_an_error_for_the_model_and_in_the_log(
    result: object, caplog: pytest.LogCaptureFixture
) -> None:
    async def odd() -> object:
        """Return something odd."""
        return result

    answer = await Bench(odd).answer_to(call("odd"))
    assert answer == {"error": "the tool returned something that cannot be sent"}
    assert any("odd" in record.message for record in caplog.records if record.levelno == logging.ERROR)


async def test_a_tool_that_takes_too_long_is_given_up() -> None:
    ended = asyncio.Event()

    @tool(timeout=5)
    async def slow() -> None:
        """Take its time."""
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    bench = Bench(slow)
    bench.runner.take_up(call("slow"))
    await pass_time(4.9)
    assert bench.answers == []
    await bench.answered()
    assert bench.answers == [("1", {"error": "the tool did not answer within 5 s"})]
    await ended.wait()
    await bench.close()


async def test_a_tool_that_does_not_care_about_being_cancelled_is_answered_all_the_same(
    caplog: pytest.LogCaptureFixture,
) -> None:
    released = asyncio.Event()

    @tool(timeout=5)
    async def stubborn() -> None:
        """Never give up."""
        while not released.is_set():
            try:
                await released.wait()
            except asyncio.CancelledError:
                continue

    bench = Bench(stubborn)
    bench.runner.take_up(call("stubborn"))
    await bench.answered()
    await bench.close()
    assert "novasonic-tool-stubborn does not end" in caplog.text
    released.set()
    await pass_time(0.1)
    assert len(bench.answers) == 1


async def test_a_thread_that_hangs_holds_up_nobody() -> None:
    released = threading.Event()

    @tool(timeout=5)
    def hang() -> None:
        """Hang."""
        released.wait()

    @tool
    def quick() -> int:
        """Do not hang."""
        return 1

    bench = Bench(hang, quick)
    bench.runner.take_up(call("hang", "1"))
    bench.runner.take_up(call("quick", "2"))
    assert await bench.answered(2) == [
        ("2", {"result": 1}),
        ("1", {"error": "the tool did not answer within 5 s"}),
    ]
    await bench.close()
    released.set()


async def test_so_many_at_once_are_enough() -> None:
    """A tool that hangs still holds its thread, and the model may call it again and again."""
    released = asyncio.Event()

    async def wait() -> None:
        """Wait."""
        await released.wait()

    bench = Bench(wait)
    for number in range(33):
        bench.runner.take_up(call("wait", str(number)))
        await asyncio.sleep(0)
    [(id_, answer)] = await bench.answered()
    assert id_ == "32"
    assert "32 tools are running already" in answer["error"]
    released.set()
    await bench.answered(33)
    bench.runner.take_up(call("wait", "again"))
    assert (await bench.answered(34))[-1] == ("again", {"result": None})
    await bench.close()


async def test_a_tool_that_cancels_itself_is_answered() -> None:
    async def quit_() -> None:
        """Give up."""
        task = asyncio.current_task()
        assert task is not None
        task.cancel()
        await asyncio.sleep(0)

    made = tool(name="quit")(quit_)
    assert await Bench(made).answer_to(call("quit")) == {"error": "the tool was cancelled"}


async def test_a_barge_in_cancels_the_tools_that_want_it_and_no_others() -> None:
    async def wait(seconds: float) -> str:
        """Wait."""
        await pass_time(seconds)
        return "done"

    bench = Bench(
        tool(name="patient")(wait),
        tool(name="nervous", cancel_on_interrupt=True)(wait),
    )
    bench.runner.take_up(call("patient", "1", seconds=3.0))
    bench.runner.take_up(call("nervous", "2", seconds=3.0))
    await pass_time(1)
    bench.runner.interrupted()
    assert await bench.answered(2) == [
        ("2", {"error": "the tool was cancelled, because the user broke in"}),
        ("1", {"result": "done"}),
    ]
    await bench.close()


async def test_at_the_end_what_still_runs_is_cancelled_and_answered() -> None:
    async def forever() -> None:
        """Run on."""
        await asyncio.Event().wait()

    bench = Bench(forever)
    bench.runner.take_up(call("forever"))
    await pass_time(0.1)
    await bench.close()
    assert bench.answers == [("1", {"error": "the tool was cancelled, because the conversation is ending"})]


async def test_nothing_is_answered_where_nobody_listens_any_more() -> None:
    async def forever() -> None:
        """Run on."""
        await asyncio.Event().wait()

    bench = Bench(forever)
    bench.runner.take_up(call("forever"))
    await pass_time(0.1)
    await bench.close(answer=False)
    assert bench.answers == []


SPEC = ToolSpec(name="door", description="Open the door.", schema={"type": "object"})


async def test_a_program_that_forgets_a_call_is_reminded_once(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(SPEC)
    bench.runner.take_up(call("door", "call-1"))
    await pass_time(29.9)
    assert caplog.text == ""
    await pass_time(40)
    assert [record.message for record in caplog.records] == [
        "the call call-1 of the tool door has had no answer for 30 s; give one with send_tool_result()"
    ]
    assert bench.answers == []
    await bench.close()


async def test_a_program_that_answers_is_not_reminded(caplog: pytest.LogCaptureFixture) -> None:
    bench = Bench(SPEC)
    bench.runner.take_up(call("door", "call-1"))
    assert bench.runner.busy
    assert bench.runner.claim("call-1")
    assert not bench.runner.claim("call-1")
    assert not bench.runner.busy
    await pass_time(60)
    assert caplog.text == ""


async def test_whoever_answers_first_gives_the_one_answer() -> None:
    """A program may know sooner than the tool does."""
    ended = asyncio.Event()

    async def slow() -> None:
        """Take its time."""
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()

    bench = Bench(slow)
    bench.runner.take_up(call("slow"))
    await pass_time(1)
    assert bench.runner.claim("1")
    await ended.wait()
    await bench.close()
    assert bench.answers == []
