"""Conversations for `hypothesis`: what the service may say, in any order that it may say it in."""

from collections.abc import Sequence
from typing import Literal

from novasonic.messages import OutputMessage
from novasonic.testing.turns import (
    Said,
    assistant_says,
    calls_tool,
    interrupts,
    stream_of,
    usage,
    user_says,
    was_heard,
)

try:
    from hypothesis import strategies as st
except ImportError as exc:
    raise ImportError("conversations() needs hypothesis: pip install hypothesis") from exc


def conversations(
    *, max_turns: int = 6, tools: Sequence[str] = ("weather",), interruptions: bool = True
) -> st.SearchStrategy[list[OutputMessage]]:
    """Return a strategy for all that a service says on one stream: whole turns, of which none is the same.

    The user speaks in one piece or several; the model answers in one sentence or several, calls tools, and
    is interrupted before or after all of it was generated; the service counts tokens anywhere between::

        @given(conversations())
        def test_the_screen_never_shows_a_sentence_twice(said):
            screen = Screen()
            for event in events_of(said):
                screen.handle(event)
            assert len(screen.lines) == len(set(screen.lines))

    To play one to a session, give it to a script: `ScriptedTransport([said])`.

    Args:
        max_turns: The most turns of one conversation. There may be none.
        tools: The tools that are called. Nothing answers them.
        interruptions: Whether the user breaks in.
    """
    words = st.text(st.characters(codec="utf-8", exclude_categories=["C"]), min_size=1, max_size=40)
    sentences = st.lists(words, min_size=1, max_size=3)
    seconds = st.sampled_from([0.08, 0.2, 0.5, 1.0])

    @st.composite
    def turn(draw: st.DrawFn) -> list[Said]:
        said = list[Said]()
        if draw(st.booleans()):
            said.append(user_says(*draw(sentences), place=draw(st.sampled_from(["before", "after"]))))
        if draw(st.booleans()) and tools:
            said.append(calls_tool(draw(st.sampled_from(list(tools))), {"text": draw(words)}))
        if draw(st.booleans()):
            said.append(usage(text_output=draw(st.integers(1, 100))))
        answer, each = draw(sentences), draw(seconds)
        if not (interruptions and draw(st.booleans())):
            heard = draw(st.integers(0, len(answer)))
            return [*said, assistant_says(*answer, seconds=each, until="generated"), [was_heard()] * heard]
        until: float | Literal["generated"] = draw(st.floats(0.08, each * len(answer)))
        if draw(st.booleans()):
            until = "generated"
        return [*said, assistant_says(*answer, seconds=each, until=until), interrupts(*draw(sentences))]

    return st.lists(turn(), max_size=max_turns).map(lambda turns: stream_of(*turns))
