"""The service's language: what is written is read again, and what cannot be read is refused as such."""

import base64
import dataclasses
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import strategies
from novasonic import messages
from novasonic.errors import RemoteProtocolError
from novasonic.messages import (
    AudioInput,
    AudioOutput,
    InputContentEnd,
    InputContentStart,
    InputMessage,
    Message,
    OutputContentStart,
    OutputMessage,
    PromptStart,
    SessionStart,
    TextInput,
    TextOutput,
    ToolSpec,
    ToolUse,
    UnknownMessage,
    UsageEvent,
    UserSpeechStart,
    decode_input,
    decode_output,
    encode,
)
from novasonic.models import Usage

WEATHER = ToolSpec(
    name="weather",
    description="The weather of a city",
    schema={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
)


def document(name: str, body: Any) -> bytes:
    return json.dumps({"event": {name: body}}).encode()


def body_of(message: Message) -> Any:
    """What stands in the document of a message, read by somebody else's JSON."""
    [(_, body)] = json.loads(encode(message))["event"].items()
    return body


# --- there and back ---------------------------------------------------------------------------------------


@given(strategies.input_messages())
def test_what_a_client_says_is_read_as_it_was_said(message: InputMessage) -> None:
    """The emulator must see exactly what the session said."""
    assert decode_input(encode(message)) == message


@given(strategies.output_messages())
def test_what_the_service_says_is_read_as_it_was_said(message: OutputMessage) -> None:
    """The session must see exactly what the emulator said, and a replay what was recorded."""
    assert decode_output(encode(message)) == message


@given(strategies.garbage)
def test_whatever_the_service_sends_is_a_message_or_a_remote_protocol_error(data: bytes) -> None:
    """A stream that breaks for one odd document is a conversation lost."""
    try:
        message = decode_output(data)
    except RemoteProtocolError:
        return
    assert isinstance(message, OutputMessage)


@given(strategies.garbage)
def test_whatever_a_client_sends_is_a_message_or_a_remote_protocol_error(data: bytes) -> None:
    """The emulator answers it with the service's error, and must not fall over it."""
    try:
        message = decode_input(data)
    except RemoteProtocolError:
        return
    assert isinstance(message, InputMessage)


@given(strategies.documents)
def test_what_the_service_says_keeps_its_members_however_odd(said: dict[str, Any]) -> None:
    """A recording holds what came, not what this library understood of it."""
    [(name, body)] = said["event"].items()
    message = decode_output(json.dumps(said).encode())
    again = json.loads(encode(message))["event"]
    assert list(again) == [name]
    if not isinstance(body, dict):
        assert again[name] == body
        return
    if isinstance(message, AudioOutput) and "content" in body and "content" not in message.extra:
        assert base64.b64decode(again[name]["content"]) == base64.b64decode(body["content"])
        body = {key: value for key, value in body.items() if key != "content"}
    assert {key: again[name].get(key) for key in body} == body
    assert decode_output(encode(message)) == message


@pytest.mark.parametrize("read", [decode_output, decode_input])
@pytest.mark.parametrize("depth", [200, 100_000])
@pytest.mark.parametrize(
    "form", ["{}", '{{"event":{}}}', '{{"event":{{"textOutput":{}}}}}', '{{"event":{{"promptStart":{}}}}}']
)
def test_deep_nesting_is_no_danger(read: Any, depth: int, form: str) -> None:
    """JSON of a hundred kilobytes can be a hundred thousand deep."""
    for opening, closing in (("[", "]"), ('{"a":', "}")):
        nested = opening * depth + "1" + closing * depth
        try:
            read(form.format(nested).encode())
        except RemoteProtocolError:
            continue


@pytest.mark.parametrize("content", ['"' + '{\\"a\\":' * 2000 + '"', '"' + "[" * 100_000 + '"'])
def test_deep_nesting_in_a_string_is_no_danger(content: str) -> None:
    text = decode_output(b'{"event":{"textOutput":{"content":' + content.encode() + b"}}}")
    tool = decode_output(b'{"event":{"toolUse":{"content":' + content.encode() + b"}}}")
    start = decode_output(b'{"event":{"contentStart":{"additionalModelFields":' + content.encode() + b"}}}")
    assert isinstance(text, TextOutput)
    assert isinstance(tool, ToolUse)
    assert isinstance(start, OutputContentStart)
    assert (text.says_interrupted, tool.arguments, start.stage) == (False, None, None)


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\xff\xfe",
        b"null",
        b"[]",
        b'{"event":null}',
        b'{"event":[]}',
        b'{"event":{}}',
        b'{"events":{"textOutput":{}}}',
        b'{"event":{"textOutput":{},"audioOutput":{}}}',
        b'{"event":{"textOutput":{"content":"\\ud800"}}}',
        b'{"event":{"textOutput":{"content":"cut of',
    ],
)
def test_what_is_no_document_with_one_event_cannot_be_read(data: bytes) -> None:
    with pytest.raises(RemoteProtocolError, match=f"a document of {len(data)} bytes"):
        decode_output(data)
    with pytest.raises(RemoteProtocolError, match=f"a document of {len(data)} bytes"):
        decode_input(data)


@pytest.mark.parametrize("data", [b"a secret", b'{"event":{"textOutput":{"content":"a secret"'])
def test_an_error_does_not_repeat_what_could_not_be_read(data: bytes) -> None:
    """It may be what somebody said, and errors go into logs."""
    with pytest.raises(RemoteProtocolError) as caught:
        decode_output(data)
    assert "secret" not in str(caught.value)


@given(strategies.either_messages())
def test_audio_and_words_are_not_shown(message: Message) -> None:
    """Messages end up in logs; what was said does not belong there."""
    words = "a word of somebody"
    if isinstance(message, AudioInput | AudioOutput):
        assert "secret" not in repr(dataclasses.replace(message, content=b"secret"))
    elif isinstance(message, TextInput | TextOutput | ToolUse | messages.ToolResult):
        assert words not in repr(dataclasses.replace(message, content=words))


# --- what the service says --------------------------------------------------------------------------------


def test_a_message_that_is_newer_than_this_library_is_handed_over() -> None:
    """The start of the user's speech arrived one day undocumented."""
    assert decode_output(document("videoOutput", {"frame": 7})) == UnknownMessage(
        name="videoOutput", payload={"frame": 7}
    )


@pytest.mark.parametrize("payload", [None, True, 7, "text", [1, 2]])
def test_a_known_name_without_members_is_handed_over_as_it_is(payload: Any) -> None:
    assert decode_output(document("textOutput", payload)) == UnknownMessage(
        name="textOutput", payload=payload
    )


def test_a_member_that_is_newer_than_this_library_is_kept() -> None:
    message = decode_output(document("textOutput", {"content": "Hello.", "mood": "fine"}))
    assert isinstance(message, TextOutput)
    assert (message.content, message.extra) == ("Hello.", {"mood": "fine"})


def test_a_member_of_the_wrong_type_is_kept_as_it_came() -> None:
    message = decode_output(document("textOutput", {"content": 7, "contentId": None}))
    assert isinstance(message, TextOutput)
    assert (message.content, message.content_id) == ("", "")
    assert message.extra == {"content": 7, "contentId": None}


@pytest.mark.parametrize(
    ("name", "body"),
    [
        (
            "contentStart",
            {
                "additionalModelFields": '{"generationStage":"FINAL"}',
                "completionId": "c",
                "contentId": "b",
                "promptName": "p",
                "role": "USER",
                "sessionId": "s",
                "textOutputConfiguration": {"mediaType": "text/plain"},
                "type": "TEXT",
            },
        ),
        (
            "contentStart",
            {
                "audioOutputConfiguration": {
                    "channelCount": 1,
                    "encoding": "base64",
                    "mediaType": "audio/lpcm",
                    "sampleRateHertz": 24000,
                    "sampleSizeBits": 16,
                },
                "completionId": "c",
                "contentId": "b",
                "promptName": "p",
                "role": "ASSISTANT",
                "sessionId": "s",
                "type": "AUDIO",
            },
        ),
        (
            "contentStart",
            {
                "completionId": "c",
                "contentId": "b",
                "promptName": "p",
                "role": "TOOL",
                "sessionId": "s",
                "toolUseOutputConfiguration": {"mediaType": "application/json"},
                "type": "TOOL",
            },
        ),
        (
            "usageEvent",
            {
                "completionId": "c",
                "details": {
                    "delta": {
                        "input": {"speechTokens": 4, "textTokens": 3},
                        "output": {"speechTokens": 2, "textTokens": 1},
                    },
                    "total": {
                        "input": {"speechTokens": 40, "textTokens": 30},
                        "output": {"speechTokens": 20, "textTokens": 10},
                    },
                },
                "promptName": "p",
                "sessionId": "s",
                "totalInputTokens": 70,
                "totalOutputTokens": 30,
                "totalTokens": 100,
            },
        ),
    ],
)
def test_a_message_in_the_form_that_the_service_writes_leaves_nothing_over(
    name: str, body: dict[str, Any]
) -> None:
    """Nor does it change when it is written again: the keys come in the same order, too."""
    message = decode_output(document(name, body))
    assert not isinstance(message, UnknownMessage)
    assert message.extra == {}
    assert encode(message) == json.dumps({"event": {name: body}}, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("fields", "stage"),
    [
        ('{"generationStage":"FINAL"}', "FINAL"),
        ('{ "generationStage" : "SPECULATIVE", "more": 1 }', "SPECULATIVE"),
        ({"generationStage": "FINAL"}, "FINAL"),
        ('{"generationStage":"DRAFT"}', "DRAFT"),
        ('{"generationStage":7}', None),
        ("{}", None),
        ("[]", None),
        ("not JSON", None),
        ("", None),
        (None, None),
        (7, None),
        ([], None),
    ],
)
def test_the_stage_is_json_in_a_string_and_odd_ones_are_none(fields: Any, stage: str | None) -> None:
    message = decode_output(document("contentStart", {"type": "TEXT", "additionalModelFields": fields}))
    assert isinstance(message, OutputContentStart)
    assert message.stage == stage
    assert body_of(message)["additionalModelFields"] == fields


@pytest.mark.parametrize(
    ("rate", "understood"),
    [(8000, 8000), (24000.0, 24000), (0, None), (-1, None), (True, None), ("24000", None), (10**400, None)],
    ids=lambda value: repr(value)[:8],
)
def test_a_sample_rate_that_cannot_be_is_none(rate: Any, understood: int | None) -> None:
    """Whoever divides by it would fail."""
    body = {"type": "AUDIO", "audioOutputConfiguration": {"sampleRateHertz": rate}}
    message = decode_output(document("contentStart", body))
    assert isinstance(message, OutputContentStart)
    assert message.sample_rate == understood
    assert body_of(message)["audioOutputConfiguration"]["sampleRateHertz"] == rate


@pytest.mark.parametrize(
    ("offset", "understood"),
    [(40, 40), (40.0, 40), (40.5, 0), (True, 0), ("40", 0), (None, 0), (10**400, 0), (1e300, 0)],
    ids=lambda value: repr(value)[:8],
)
def test_an_offset_is_a_whole_number_that_can_be_reckoned_with(offset: Any, understood: int) -> None:
    message = decode_output(document("userSpeechStart", {"inputAudioOffsetMs": offset}))
    assert isinstance(message, UserSpeechStart)
    assert message.offset_ms == understood
    if understood == 0:
        assert message.extra == {"inputAudioOffsetMs": offset}


@pytest.mark.parametrize("content", ["AAA", "A A=", "AAA=AAA=", "ÄÄÄ=", 7, None])
def test_audio_that_is_no_base64_is_no_audio_and_is_kept(content: Any) -> None:
    message = decode_output(document("audioOutput", {"content": content}))
    assert isinstance(message, AudioOutput)
    assert (message.content, message.extra) == (b"", {"content": content})


def test_tokens_that_are_missing_are_none_and_the_others_count() -> None:
    body = {"details": {"delta": {"input": {"textTokens": 5}, "output": 7}, "total": None}}
    message = decode_output(document("usageEvent", body))
    assert isinstance(message, UsageEvent)
    assert (message.delta, message.total) == (Usage(text_input=5), Usage())


@pytest.mark.parametrize(
    "content", [*strategies.MARKERS, '{"interrupted":true,"more":1}', ' {"interrupted": true}\n']
)
def test_the_sign_of_a_barge_in_is_known_with_blanks_and_without(content: str) -> None:
    assert TextOutput(content=content).says_interrupted


@pytest.mark.parametrize(
    "content",
    [
        "",
        "I was interrupted.",
        '{"interrupted":false}',
        '{"interrupted":1}',
        '{"interrupted":"true"}',
        '["interrupted"]',
        '"interrupted"',
        '{"interrupted":true',
        'He said {"interrupted":true}',
    ],
)
def test_other_words_are_no_sign_of_a_barge_in(content: str) -> None:
    """The model may talk about interruptions, and about JSON."""
    assert not TextOutput(content=content).says_interrupted


@given(strategies.json_objects)
def test_arguments_are_json_in_a_string_and_may_be_encoded_twice(arguments: dict[str, Any]) -> None:
    once = json.dumps(arguments)
    assert ToolUse(content=once).arguments == arguments
    assert ToolUse(content=json.dumps(once)).arguments == arguments


@pytest.mark.parametrize("content", ["", "  ", "{}", '""', '" "', '"{}"'])
def test_a_tool_without_arguments_gets_none(content: str) -> None:
    """However the service says that there are none: encoded twice, nothing is two quotation marks."""
    assert ToolUse(content=content).arguments == {}


@pytest.mark.parametrize("content", ["[]", "7", "null", "not JSON", '"[]"', '"text"', '{"a":', r'"\"{}\""'])
def test_arguments_that_are_no_object_are_not_made_up(content: str) -> None:
    assert ToolUse(content=content).arguments is None


@pytest.mark.parametrize(
    ("content", "arguments"), [({"city": "Oslo"}, {"city": "Oslo"}), (7, None), ([], None)]
)
def test_arguments_that_come_as_they_are_are_taken_as_they_are(content: Any, arguments: Any) -> None:
    """A tool that is run without the arguments that were meant does the wrong thing."""
    message = decode_output(document("toolUse", {"toolUseId": "t", "content": content}))
    assert isinstance(message, ToolUse)
    assert message.arguments == arguments


# --- what a client says -----------------------------------------------------------------------------------


def test_a_prompt_says_all_that_the_service_insists_on() -> None:
    """The schema is JSON in a string: an object there ends the session."""
    prompt = PromptStart(prompt_name="p", voice="tiffany", tools=(WEATHER,), tool_choice="weather")
    assert body_of(prompt) == {
        "promptName": "p",
        "textOutputConfiguration": {"mediaType": "text/plain"},
        "audioOutputConfiguration": {
            "mediaType": "audio/lpcm",
            "sampleRateHertz": 24000,
            "sampleSizeBits": 16,
            "channelCount": 1,
            "voiceId": "tiffany",
            "encoding": "base64",
            "audioType": "SPEECH",
        },
        "toolUseOutputConfiguration": {"mediaType": "application/json"},
        "toolConfiguration": {
            "toolChoice": {"tool": {"name": "weather"}},
            "tools": [
                {
                    "toolSpec": {
                        "name": "weather",
                        "description": "The weather of a city",
                        "inputSchema": {"json": json.dumps(WEATHER.schema, separators=(",", ":"))},
                    }
                }
            ],
        },
    }


def test_a_prompt_without_tools_does_not_mention_them() -> None:
    body = body_of(PromptStart(prompt_name="p", voice="tiffany"))
    assert not any("tool" in key for key in body)


@pytest.mark.parametrize("choice", ["auto", "any"])
def test_a_choice_that_names_no_tool_stands_for_itself(choice: str) -> None:
    body = body_of(PromptStart(prompt_name="p", voice="amy", tools=(WEATHER,), tool_choice=choice))
    assert body["toolConfiguration"]["toolChoice"] == {choice: {}}


def test_what_is_left_to_the_service_is_not_said() -> None:
    start = SessionStart(inference=messages.Inference(max_tokens=None, top_p=None, temperature=None))
    assert body_of(start) == {"inferenceConfiguration": {}}


def test_a_pause_is_asked_for_where_version_2_wants_it() -> None:
    assert body_of(SessionStart(endpointing="LOW")) == {
        "inferenceConfiguration": {"maxTokens": 1024, "topP": 0.9, "temperature": 0.7},
        "turnDetectionConfiguration": {"endpointingSensitivity": "LOW"},
    }


def test_a_tool_block_holds_the_media_type_that_the_service_asks_for() -> None:
    """Without it, or with another role, the service closes the stream."""
    start, result, end = messages.tool_block('{"celsius":7}', prompt_name="p", tool_use_id="t1")
    assert isinstance(start, InputContentStart)
    assert isinstance(result, messages.ToolResult)
    assert isinstance(end, InputContentEnd)
    assert body_of(start) == {
        "promptName": "p",
        "contentName": start.content_name,
        "type": "TOOL",
        "interactive": False,
        "role": "TOOL",
        "toolResultInputConfiguration": {
            "toolUseId": "t1",
            "type": "TEXT",
            "textInputConfiguration": {"mediaType": "text/plain"},
        },
    }
    assert result.content == '{"celsius":7}'
    assert start.content_name == result.content_name == end.content_name


@given(
    st.text() | st.text("aé€😀 ", min_size=900, max_size=2500),
    st.sampled_from(messages.INPUT_ROLES),
    st.booleans(),
)
def test_a_text_of_any_length_is_one_block_in_parts_that_the_service_takes(
    text: str, role: messages.InputRole, interactive: bool
) -> None:
    start, *parts, end = messages.text_block(text, prompt_name="p", role=role, interactive=interactive)
    assert isinstance(start, InputContentStart)
    assert isinstance(end, InputContentEnd)
    assert (start.type, start.role, start.interactive) == ("TEXT", role, interactive)
    said = [part.content for part in parts if isinstance(part, TextInput)]
    assert len(said) == len(parts) > 0
    assert "".join(said) == text
    assert all(len(part.encode()) <= messages.TEXT_LIMIT for part in said)
    assert {part.content_name for part in parts if isinstance(part, TextInput)} == {start.content_name}
    assert end.content_name == start.content_name


@pytest.mark.parametrize(
    ("text", "sizes"),
    [
        ("", [0]),
        ("x" * 1000, [1000]),
        ("x" * 1001, [1000, 1]),
        ("x" * 999 + " y", [1000, 1]),
        ("é" * 501, [1000, 2]),
        ("x" + "é" * 500, [999, 2]),
        ("xx" + "😀" * 250, [998, 4]),
    ],
    ids=lambda value: repr(value)[-12:],
)
def test_a_text_is_cut_between_characters_and_only_if_it_must_be(text: str, sizes: list[int]) -> None:
    _, *parts, _ = messages.text_block(text, prompt_name="p", role="USER")
    assert [len(part.content.encode()) for part in parts if isinstance(part, TextInput)] == sizes


def test_a_long_text_is_cut_after_a_word() -> None:
    text = "word " * 1000
    _, *parts, _ = messages.text_block(text, prompt_name="p", role="SYSTEM")
    assert all(isinstance(part, TextInput) and part.content.endswith("word ") for part in parts[:-1])


def test_every_block_has_a_name_of_its_own() -> None:
    blocks = [messages.text_block("again", prompt_name="p", role="USER") for _ in range(100)]
    names = {block[0].content_name for block in blocks if isinstance(block[0], InputContentStart)}
    assert len(names) == 100


AUDIO_BLOCK = {
    "promptName": "p",
    "contentName": "c",
    "type": "AUDIO",
    "interactive": True,
    "role": "USER",
    "audioInputConfiguration": {"sampleRateHertz": 16000},
}
TOOL_BLOCK = {
    "promptName": "p",
    "contentName": "c",
    "type": "TOOL",
    "role": "TOOL",
    "toolResultInputConfiguration": {
        "toolUseId": "t",
        "type": "TEXT",
        "textInputConfiguration": {"mediaType": "text/plain"},
    },
}
PROMPT = {"promptName": "p", "audioOutputConfiguration": {"sampleRateHertz": 24000, "voiceId": "amy"}}
TOOL = {"toolSpec": {"name": "n", "description": "d", "inputSchema": {"json": "{}"}}}


@pytest.mark.parametrize(
    ("name", "body", "wrong"),
    [
        ("textOutput", {}, "'textOutput' is no message of a client"),
        ("sessionEnd", None, "sessionEnd has no members"),
        ("audioInput", {"contentName": "c", "content": "AAA="}, "audioInput.promptName is missing"),
        ("audioInput", {"promptName": "p", "content": "AAA="}, "audioInput.contentName is missing"),
        ("audioInput", {"promptName": "p", "contentName": "c"}, "audioInput.content is missing"),
        ("audioInput", {"promptName": "p", "contentName": "c", "content": "AAA"}, "audioInput.content"),
        ("textInput", {"promptName": "p", "contentName": "c"}, "textInput.content is missing"),
        (
            "textInput",
            {"promptName": "p", "contentName": "c", "content": 7},
            "textInput.content has the wrong",
        ),
        (
            "toolResult",
            {"promptName": "p", "contentName": "c", "content": {}},
            "toolResult.content has the wr",
        ),
        ("contentEnd", {"promptName": "p"}, "contentEnd.contentName is missing"),
        ("promptEnd", {}, "promptEnd.promptName is missing"),
        ("contentStart", {**AUDIO_BLOCK, "type": "VIDEO"}, "contentStart.type is 'VIDEO'"),
        ("contentStart", {**AUDIO_BLOCK, "role": "NOBODY"}, "contentStart.role is 'NOBODY'"),
        (
            "contentStart",
            {**AUDIO_BLOCK, "interactive": "yes"},
            "contentStart.interactive has the wrong type",
        ),
        ("contentStart", {**AUDIO_BLOCK, "audioInputConfiguration": {}}, "sampleRateHertz is missing"),
        (
            "contentStart",
            {key: value for key, value in AUDIO_BLOCK.items() if key != "audioInputConfiguration"},
            "contentStart.audioInputConfiguration is missing",
        ),
        (
            "contentStart",
            {**TOOL_BLOCK, "toolResultInputConfiguration": {"toolUseId": "t", "type": "TEXT"}},
            "textInputConfiguration is missing",
        ),
        (
            "contentStart",
            {
                **TOOL_BLOCK,
                "toolResultInputConfiguration": {"textInputConfiguration": {"mediaType": "text/plain"}},
            },
            "toolUseId is missing",
        ),
        ("promptStart", {"promptName": "p"}, "promptStart.audioOutputConfiguration is missing"),
        (
            "promptStart",
            {**PROMPT, "audioOutputConfiguration": {"voiceId": "amy"}},
            "sampleRateHertz is missing",
        ),
        ("promptStart", {**PROMPT, "toolConfiguration": {"tools": {}}}, "tools has the wrong type"),
        ("promptStart", {**PROMPT, "toolConfiguration": {"tools": [7]}}, "tools holds something that is no"),
        ("promptStart", {**PROMPT, "toolConfiguration": {"tools": [{}]}}, "toolSpec is missing"),
        (
            "promptStart",
            {
                **PROMPT,
                "toolConfiguration": {
                    "tools": [{"toolSpec": {"name": "n", "inputSchema": {"json": {"type": "object"}}}}]
                },
            },
            "json has the wrong type",
        ),
        (
            "promptStart",
            {
                **PROMPT,
                "toolConfiguration": {"tools": [{"toolSpec": {"name": "n", "inputSchema": {"json": "[]"}}}]},
            },
            "inputSchema.json is no JSON object in a string",
        ),
        (
            "promptStart",
            {**PROMPT, "toolConfiguration": {"tools": [TOOL], "toolChoice": {"auto": {}, "any": {}}}},
            "toolChoice names any, auto",
        ),
        (
            "promptStart",
            {**PROMPT, "toolConfiguration": {"tools": [TOOL], "toolChoice": {"tool": {}}}},
            "name is missing",
        ),
        ("sessionStart", {"endpointingSensitivity": "HIGH"}, "belongs into turnDetectionConfiguration"),
        (
            "sessionStart",
            {"turnDetectionConfiguration": {"endpointingSensitivity": "MAXIMUM"}},
            "endpointingSensitivity is 'MAXIMUM'; it may be HIGH, MEDIUM, LOW",
        ),
        ("sessionStart", {"inferenceConfiguration": {"maxTokens": "many"}}, "maxTokens has the wrong type"),
        ("sessionStart", {"inferenceConfiguration": {"maxTokens": True}}, "maxTokens has the wrong type"),
        ("sessionStart", {"inferenceConfiguration": {"maxTokens": 10**400}}, "maxTokens has the wrong type"),
        ("sessionStart", {"inferenceConfiguration": {"topP": True}}, "topP has the wrong type"),
        (
            "sessionStart",
            {"inferenceConfiguration": {"temperature": "hot"}},
            "temperature has the wrong type",
        ),
        ("sessionStart", {"inferenceConfiguration": []}, "inferenceConfiguration has the wrong type"),
    ],
)
def test_a_client_is_told_which_member_is_wrong(name: str, body: Any, wrong: str) -> None:
    """The service is strict with its clients; the emulator is to be no kinder."""
    with pytest.raises(RemoteProtocolError, match=wrong.replace(".", r"\.")):
        decode_input(document(name, body))


def test_a_client_may_leave_out_what_the_service_has_defaults_for() -> None:
    assert decode_input(document("sessionStart", {})) == SessionStart(
        inference=messages.Inference(max_tokens=None, top_p=None, temperature=None)
    )
    assert decode_input(document("promptStart", PROMPT)) == PromptStart(prompt_name="p", voice="amy")


def test_a_client_may_write_its_whole_numbers_with_a_point() -> None:
    """JavaScript and Swift have one kind of number."""
    body = {**PROMPT, "audioOutputConfiguration": {"sampleRateHertz": 8000.0, "voiceId": "amy"}}
    start = decode_input(document("promptStart", body))
    assert isinstance(start, PromptStart)
    assert start.sample_rate == 8000


def test_what_nobody_knows_in_a_clients_message_is_passed_over() -> None:
    assert decode_input(document("promptEnd", {"promptName": "p", "reason": "bored"})) == messages.PromptEnd(
        prompt_name="p"
    )
