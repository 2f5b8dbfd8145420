"""What hypothesis says to the codec and to the fold: messages of both directions, and JSON of any shape."""

import json
from typing import Any

from hypothesis import strategies as st

from novasonic import messages
from novasonic.messages import BLOCK_TYPES, ENDPOINTING, INPUT_ROLES, InputMessage, Message, OutputMessage
from novasonic.models import Usage

COMPACT_MARKER = '{"interrupted":true}'
SPACED_MARKER = '{ "interrupted" : true }'
MARKERS = (COMPACT_MARKER, SPACED_MARKER)

OUTPUT_NAMES = (
    "audioOutput",
    "completionEnd",
    "completionStart",
    "contentEnd",
    "contentStart",
    "textOutput",
    "toolUse",
    "usageEvent",
    "userSpeechEnd",
    "userSpeechStart",
)
INPUT_NAMES = (
    "audioInput",
    "contentEnd",
    "contentStart",
    "promptEnd",
    "promptStart",
    "sessionEnd",
    "sessionStart",
    "textInput",
    "toolResult",
)
MEMBERS = (
    "additionalModelFields",
    "audioInputConfiguration",
    "audioOutputConfiguration",
    "completionId",
    "content",
    "contentId",
    "contentName",
    "details",
    "endpointingSensitivity",
    "inferenceConfiguration",
    "inputAudioDetectionOffsetMs",
    "inputAudioOffsetMs",
    "interactive",
    "promptName",
    "role",
    "sessionId",
    "stopReason",
    "toolConfiguration",
    "toolName",
    "toolResultInputConfiguration",
    "toolUseId",
    "totalTokens",
    "turnDetectionConfiguration",
    "type",
)
INNER_MEMBERS = (
    "delta",
    "endpointingSensitivity",
    "generationStage",
    "input",
    "inputSchema",
    "json",
    "maxTokens",
    "mediaType",
    "name",
    "output",
    "sampleRateHertz",
    "speechTokens",
    "textInputConfiguration",
    "textTokens",
    "tool",
    "toolChoice",
    "toolSpec",
    "toolUseId",
    "tools",
    "topP",
    "total",
    "voiceId",
)

names = st.text(max_size=8)
"""Ids and the like."""

counts = st.integers(0, 2**40)
rates = st.sampled_from([8_000, 16_000, 24_000])
pcm = st.binary(max_size=64)


def _objects(values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    return st.dictionaries(st.sampled_from(INNER_MEMBERS) | names, values, max_size=4)


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-(10**400), 10**400)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=8)
    | st.sampled_from(["TEXT", "AUDIO", "TOOL", "FINAL", "AAA=", "{}", "[]", '""', '{"a":1}', *MARKERS]),
    lambda values: st.lists(values, max_size=3) | _objects(values),
    max_leaves=8,
)
"""Any JSON, with many of the names and words that the service uses."""

json_objects = st.dictionaries(names, json_values, max_size=3)

_UNKNOWN = st.text(max_size=8).map("x".__add__)  # no member has such a name
_extra = st.dictionaries(_UNKNOWN, json_values, max_size=2)


# --- input ------------------------------------------------------------------------------------------------

_block = {"prompt_name": names, "content_name": names}
_ratios = st.none() | st.floats(0, 1) | st.integers(0, 1)

_tools = st.builds(messages.ToolSpec, name=names, description=names, schema=json_objects)


@st.composite
def _prompt_starts(draw: st.DrawFn) -> messages.PromptStart:
    tools = tuple(draw(st.lists(_tools, max_size=2)))
    choices = st.none() | st.sampled_from(["auto", "any"]) | names
    return messages.PromptStart(
        prompt_name=draw(names),
        voice=draw(names),
        sample_rate=draw(rates),
        tools=tools,
        tool_choice=draw(choices) if tools else None,
    )


def _content_starts(**members: st.SearchStrategy[Any]) -> st.SearchStrategy[messages.InputContentStart]:
    return st.builds(
        messages.InputContentStart,
        **_block,
        **members,
        role=st.sampled_from(INPUT_ROLES),
        interactive=st.booleans(),
    )


def input_messages() -> st.SearchStrategy[InputMessage]:
    """Whatever a client can say."""
    return st.one_of(
        st.builds(
            messages.SessionStart,
            inference=st.builds(
                messages.Inference, max_tokens=st.none() | counts, top_p=_ratios, temperature=_ratios
            ),
            endpointing=st.none() | st.sampled_from(ENDPOINTING),
        ),
        _prompt_starts(),
        _content_starts(type=st.just("TEXT")),
        _content_starts(type=st.just("AUDIO"), sample_rate=rates),
        _content_starts(type=st.just("TOOL"), tool_use_id=names),
        st.builds(messages.TextInput, **_block, content=st.text()),
        st.builds(messages.AudioInput, **_block, content=pcm),
        st.builds(messages.ToolResult, **_block, content=st.text()),
        st.builds(messages.InputContentEnd, **_block),
        st.builds(messages.PromptEnd, prompt_name=names),
        st.just(messages.SessionEnd()),
    )


# --- output -----------------------------------------------------------------------------------------------

usages = st.builds(Usage, speech_input=counts, text_input=counts, speech_output=counts, text_output=counts)

_ids = {"session_id": names, "prompt_name": names, "extra": _extra}
_completion = {**_ids, "completion_id": names}
_roles = st.sampled_from(["USER", "ASSISTANT", "TOOL", "SOMEBODY", ""])
_stages = st.none() | st.sampled_from(["SPECULATIVE", "FINAL"]) | names
_reasons = st.sampled_from(["PARTIAL_TURN", "END_TURN", "INTERRUPTED", "TOOL_USE", "MAX_TOKENS", ""])
_texts = st.text(max_size=20) | st.sampled_from(MARKERS)


def output_messages(
    *, content_ids: st.SearchStrategy[str] = names, extra: st.SearchStrategy[Any] = _extra
) -> st.SearchStrategy[OutputMessage]:
    """Whatever the service can say, in blocks of these ids."""
    ids = {**_completion, "content_id": content_ids, "extra": extra}
    return st.one_of(
        st.builds(messages.CompletionStart, **_completion),
        st.builds(
            messages.OutputContentStart,
            **ids,
            type=st.sampled_from(["TEXT", "TOOL", "VIDEO", ""]),
            role=_roles,
            stage=_stages,
        ),
        st.builds(
            messages.OutputContentStart,
            **ids,
            type=st.just("AUDIO"),
            role=_roles,
            stage=_stages,
            sample_rate=st.none() | rates,
        ),
        st.builds(messages.TextOutput, **ids, role=_roles, content=_texts),
        st.builds(messages.AudioOutput, **ids, role=_roles, content=pcm),
        st.builds(
            messages.ToolUse,
            **ids,
            role=_roles,
            tool_use_id=names,
            tool_name=names,
            content=json_values.map(json.dumps) | st.text(max_size=8),
        ),
        st.builds(
            messages.OutputContentEnd,
            **ids,
            type=st.sampled_from([*BLOCK_TYPES, "VIDEO", ""]),
            stop_reason=_reasons,
        ),
        st.builds(messages.CompletionEnd, **_completion, stop_reason=_reasons),
        st.builds(messages.UsageEvent, **_completion, delta=usages, total=usages),
        st.builds(messages.UserSpeechStart, **_ids, offset_ms=counts),
        st.builds(messages.UserSpeechEnd, **_ids, offset_ms=counts, detected_at_ms=counts),
        st.builds(messages.UnknownMessage, name=_UNKNOWN, payload=json_values),
    )


def either_messages() -> st.SearchStrategy[Message]:
    """Whatever can go over a stream."""
    return st.one_of(input_messages(), output_messages())


# --- what is not quite a message --------------------------------------------------------------------------

_bodies = st.dictionaries(st.sampled_from(MEMBERS) | names, json_values, max_size=8)


@st.composite
def _spoilt(draw: st.DrawFn) -> dict[str, Any]:
    """A message with members that are missing, of the wrong type or too many."""
    document = json.loads(messages.encode(draw(either_messages())))
    [(name, body)] = document["event"].items()
    if isinstance(body, dict):
        for key in draw(st.lists(st.sampled_from(sorted(body)), max_size=3)) if body else []:
            if draw(st.booleans()):
                body.pop(key, None)
            else:
                body[key] = draw(json_values)
        body.update(draw(st.dictionaries(st.sampled_from(MEMBERS) | names, json_values, max_size=2)))
    return {"event": {name: body}}


documents = st.one_of(
    _spoilt(),
    st.tuples(st.sampled_from(OUTPUT_NAMES + INPUT_NAMES) | names, _bodies | json_values).map(
        lambda found: {"event": {found[0]: found[1]}}
    ),
)
"""Documents with one event, whose members may be anything."""

_half_characters = st.text(st.characters(codec=None), max_size=8)  # with lone surrogates

garbage = st.one_of(
    st.binary(max_size=64),
    documents.map(json.dumps).map(str.encode),
    documents.map(json.dumps).flatmap(
        lambda text: st.integers(0, len(text)).map(lambda end: text[:end].encode())
    ),
    json_values.map(json.dumps).map(str.encode),
    st.builds(lambda event: json.dumps({"event": event}).encode(), json_values),
    st.builds(
        lambda name, text: json.dumps({"event": {name: {"content": text, text: 1}}}).encode(),
        st.sampled_from(OUTPUT_NAMES + INPUT_NAMES),
        _half_characters,
    ),
)
"""Whatever may stand in a frame."""
