"""What a redacted recording still tells: what was equal, and nothing else."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novasonic import messages
from novasonic.messages import Message, ToolSpec
from novasonic.redaction import Redactor
from strategies import input_messages, output_messages

# Settings stay, and audio is kept or left out as a whole.
NOT_TEXT = (messages.SessionStart, messages.PromptStart, messages.AudioInput, messages.AudioOutput)
SECRET = "my name is Grace"


def body_of(message: Message) -> tuple[str, dict[str, Any]]:
    (item,) = json.loads(messages.encode(message))["event"].items()
    name, body = item
    return name, body


def text_output(text: str) -> tuple[str, dict[str, Any]]:
    return body_of(messages.TextOutput(content_id="c", role="USER", content=text))


def test_equal_texts_become_equal_placeholders_and_others_do_not() -> None:
    redact = Redactor()
    texts = ["one", "two", "one", " one ", "Two", "", "  \n"]
    found = [redact.body(*text_output(text)) for text in texts]
    assert [each["content"] for each in found] == [  # type: ignore[index]  # it is an object
        "text 1",
        "text 2",
        "text 1",
        " text 1 ",
        "text 3",
        "",
        "  \n",
    ]


@given(
    st.one_of(input_messages(), output_messages()).filter(lambda message: not isinstance(message, NOT_TEXT))
)
def test_the_service_gets_what_it_takes_and_the_session_what_it_reads(message: Message) -> None:
    """A redacted message is still one of its kind, with all its ids."""
    name, body = body_of(message)
    redacted = json.dumps({"event": {name: Redactor().body(name, body)}}).encode()
    output = isinstance(message, messages.OutputBase | messages.UnknownMessage)
    again = messages.decode_output(redacted) if output else messages.decode_input(redacted)
    assert type(again) is type(message)
    for member in (
        "content_id",
        "prompt_name",
        "content_name",
        "tool_use_id",
        "stop_reason",
        "stage",
        "delta",
    ):
        assert getattr(again, member, None) == getattr(message, member, None)
    if isinstance(message, messages.TextOutput):
        assert again.says_interrupted == message.says_interrupted  # type: ignore[union-attr]


SCHEMA = {
    "type": "object",
    "properties": {"city": {"type": "string"}, "trip": {"$ref": "#/$defs/Trip"}},
    "$defs": {"Trip": {"properties": {"days": {"type": "integer"}}}},
}


def test_arguments_and_results_keep_the_shape_that_the_tool_has() -> None:
    """Names that a schema knows are no secret; others may be those of customers."""
    redact = Redactor()
    prompt = messages.PromptStart(
        prompt_name="p", voice="matthew", tools=[ToolSpec(name="go", description="Goes.", schema=SCHEMA)]
    )
    assert redact.body(*body_of(prompt)) == body_of(prompt)[1]
    arguments = {"city": "Paris", "trip": {"days": 7, "of": ["Grace", "Paris", None, True]}, "Grace": 7.0}
    call = messages.ToolUse(tool_use_id="t", tool_name="go", content=json.dumps(arguments))
    result = messages.ToolResult(prompt_name="p", content_name="c", content='{"error": "no Paris", "x": 8}')
    called, answered = (redact.body(*body_of(message)) for message in (call, result))
    assert json.loads(called["content"]) == {  # type: ignore[index]
        "city": "text 1",
        "trip": {"days": 1, "text 2": ["text 3", "text 1", None, True]},
        "text 3": 1.0,
    }
    assert json.loads(answered["content"]) == {"error": "text 4", "text 5": 2}  # type: ignore[index]
    assert called["toolName"] == "go"  # type: ignore[index]


@pytest.mark.parametrize("content", ['"{\\"city\\": \\"Paris\\"}"', "Paris", '["Paris"]', "{"])
def test_arguments_of_any_form_are_redacted(content: str) -> None:
    call = messages.ToolUse(tool_use_id="t", tool_name="go", content=content)
    assert "Paris" not in json.dumps(Redactor().body(*body_of(call)))


@pytest.mark.parametrize(
    "body",
    [
        {"somethingNew": SECRET},
        {"role": "USER", "details": [{"words": SECRET, "id": {"content": SECRET}}]},
        SECRET,
        [SECRET],
        {"content": {"text": SECRET}},
    ],
)
@pytest.mark.parametrize("name", ["brandNew", "textOutput", "toolUse", "contentEnd"])
def test_what_nobody_knows_is_redacted(name: str, body: Any) -> None:
    assert SECRET not in json.dumps(Redactor().body(name, body))


def test_a_marker_that_says_more_says_no_more() -> None:
    name, body = text_output(f'{{ "interrupted" : true, "said": "{SECRET}" }}')
    assert Redactor().body(name, body)["content"] == '{"interrupted":true}'  # type: ignore[index]


@given(st.text())
def test_a_function_sees_every_text_without_the_blanks_around_it(text: str) -> None:
    seen = list[str]()

    def hide(words: str) -> str:
        seen.append(words)
        return "***"

    found = Redactor(hide).text(text)
    assert seen == ([text.strip()] if text.strip() else [])
    assert found == text.replace(text.strip(), "***", 1) if text.strip() else found == text
