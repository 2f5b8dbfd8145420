"""What is known about the models: their voices, regions, abilities, limits and prices. Data, and no I/O.

AWS may change any of it on any day. So nothing here compares model ids: code asks a `Model` for an
ability, a model that is not known has the abilities of the newest, and a program that knows better
passes its own facts (`dataclasses.replace(models.lookup(id), prices=...)`, wherever a model is taken).
"""

import difflib
import re
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from datetime import date
from typing import Final, Literal

from novasonic.errors import ConfigurationError

__all__ = [
    "MODELS",
    "Limits",
    "Model",
    "Prices",
    "Usage",
    "Voice",
    "check_voice",
    "lookup",
    "suggest",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class Voice:
    """A voice that a model speaks with.

    Attributes:
        name: What the service calls it: lower case, and never translated.
        language: The language and the accent, as AWS writes them ("English (UK)").
        locales: The accent as language tags ("en-GB"); two for the voices of India.
        gender: How AWS describes its sound.
        polyglot: Whether it speaks all the languages of its model, and changes between them in a sentence.
    """

    name: str
    language: str
    locales: tuple[str, ...]
    gender: Literal["feminine", "masculine"]
    polyglot: bool = False

    @property
    def languages(self) -> tuple[str, ...]:
        """The languages that it speaks, as two-letter codes, its own first."""
        own = tuple(locale.partition("-")[0] for locale in self.locales)
        return own + tuple(code for code in _POLYGLOT if code not in own) if self.polyglot else own


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What the service puts up with on one stream.

    Attributes:
        stream: Seconds until the service closes a stream.
        input_gap: Seconds without audio or typed text until the service closes a stream.
        message_bytes: The longest message in either direction, in bytes of JSON.
        history_bytes: All the texts of a history together, in bytes of UTF-8.
        text_bytes: One `textInput`, in bytes of UTF-8; a longer text is sent as several, in one block.
        sample_rates: The rates of audio, in Hz, for what is sent and for what comes back.
        streams: Streams open at once in one account, until AWS raises the quota.
    """

    # Nova 2 user guide: "8 minutes" for a connection; the same page for version 1.
    stream: float = 480.0
    # The service's own error text. Since the middle of 2026 some accounts are told 295 seconds.
    input_gap: float = 55.0
    # Service model: `BidirectionalInputPayloadPart.bytes` has a length of at most 1000000.
    message_bytes: int = 1_000_000
    # Nova 2 user guide, "Chat history": 40 KB in all, 1 KB for each text. It does not say whether KB means
    # 1,000 or 1,024, so these are the smaller ones. Other clients send up to 200 KB to Nova 2 Sonic.
    history_bytes: int = 40_000
    text_bytes: int = 1_000
    # User guides of both versions, "Input events".
    sample_rates: tuple[int, ...] = (8_000, 16_000, 24_000)
    # Service quota, reported alike by three projects.
    streams: int = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Prices:
    """What tokens cost: US dollars for a million of each kind.

    The prices of this module are those of us-east-1, on demand. Other regions may cost more: in
    September 2026 the speech of Nova 2 Sonic was billed 21 % higher in ap-northeast-1.

    Attributes:
        speech_input: What the user says.
        speech_output: What the model says.
        text_input: Instructions, history, typed text, tool results.
        text_output: Transcripts, tool calls.
        as_of: The day on which somebody looked.
        source: Where.
    """

    speech_input: float
    speech_output: float
    text_input: float
    text_output: float
    as_of: date
    source: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """Tokens that were counted by the service; a second of speech is 25 of them.

    Usages add up. Added to one at other prices, a usage forgets its prices: no one table fits the sum.

    Attributes:
        speech_input: What the user said.
        speech_output: What the model said.
        text_input: Instructions, history, typed text, tool results.
        text_output: Transcripts, tool calls.
        prices: What the model's tokens cost; None where that is not known.
    """

    speech_input: int = 0
    speech_output: int = 0
    text_input: int = 0
    text_output: int = 0
    prices: Prices | None = field(default=None, repr=False, compare=False)

    def __add__(self, other: "Usage") -> "Usage":
        prices = {each.prices for each in (self, other)} - {None}
        return Usage(
            speech_input=self.speech_input + other.speech_input,
            speech_output=self.speech_output + other.speech_output,
            text_input=self.text_input + other.text_input,
            text_output=self.text_output + other.text_output,
            prices=prices.pop() if len(prices) == 1 else None,
        )

    @property
    def total(self) -> int:
        """All tokens, of every kind and both directions."""
        return self.speech_input + self.speech_output + self.text_input + self.text_output

    def cost(self, prices: Prices | None = None) -> float:
        """Return what these tokens cost, in US dollars.

        Args:
            prices: The prices to reckon with, in place of those that came with the usage.

        Raises:
            ConfigurationError: If none are given and none are known for the model.
        """
        prices = prices or self.prices
        if prices is None:
            raise ConfigurationError(
                "no prices are known for these tokens; say what they cost: usage.cost(models.Prices(...))"
            )
        dollars = (
            self.speech_input * prices.speech_input
            + self.speech_output * prices.speech_output
            + self.text_input * prices.text_input
            + self.text_output * prices.text_output
        )
        return dollars / 1_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A speech-to-speech model: what it can do, and what is allowed.

    Attributes:
        id: What the service is asked for: a model id, the id of an inference profile, or an ARN.
        name: What AWS calls it in print; the id, where the model is not known.
        known: Whether what follows is known of this very model, or assumed from the newest.
        answers_typed_text: Typed text is answered aloud; so the model can be made to speak first.
        sets_endpointing: A session may say how soon a pause of the user's is the end of a turn.
        runs_tools_asynchronously: The conversation goes on while a tool runs.
        reports_user_speech: The service says where the user's speech began and ended.
        takes_system_speech: A prompt may steer how Hindi is transcribed.
        voices: The voices that are known; the service may have more.
        regions: The regions where AWS offers the model, by its own id.
        end_of_life: The day from which AWS does not serve the model any more.
        limits: What the service puts up with.
        prices: What its tokens cost; None where that is not known.
    """

    id: str
    name: str
    known: bool = True
    answers_typed_text: bool = True
    sets_endpointing: bool = True
    runs_tools_asynchronously: bool = True
    reports_user_speech: bool = True
    takes_system_speech: bool = True
    voices: tuple[Voice, ...] = field(repr=False)
    regions: tuple[str, ...]
    end_of_life: date | None = None
    limits: Limits = field(default=Limits(), repr=False)
    prices: Prices | None = field(default=None, repr=False)

    def voice(self, name: str) -> Voice | None:
        """Return the voice of that name, or None if it is not a known one."""
        return next((voice for voice in self.voices if voice.name == name), None)


def _voices(
    *rows: tuple[str, tuple[str, ...], str, str], polyglot: tuple[str, ...] = ()
) -> tuple[Voice, ...]:
    """Turn the rows of AWS's table (language, locales, feminine, masculine) into voices."""
    genders: tuple[Literal["feminine", "masculine"], ...] = ("feminine", "masculine")
    return tuple(
        Voice(name=name, language=language, locales=locales, gender=gender, polyglot=name in polyglot)
        for language, locales, *names in rows
        for gender, name in zip(genders, names, strict=True)
        if name
    )


# Nova 2 user guide, "Language support": the languages between which a polyglot voice moves.
_POLYGLOT: Final = ("en", "fr", "it", "de", "es", "pt", "hi")

# Nova user guide (version 1), "Voices available for Amazon Nova Sonic".
_VOICES_1: Final = _voices(
    ("English (US)", ("en-US",), "tiffany", "matthew"),
    ("English (UK)", ("en-GB",), "amy", ""),
    ("French", ("fr-FR",), "ambre", "florian"),
    ("Italian", ("it-IT",), "beatrice", "lorenzo"),
    ("German", ("de-DE",), "greta", "lennart"),
    ("Spanish (US)", ("es-US",), "lupe", "carlos"),
)

# Nova 2 user guide, "Language support"; the clients that ship Nova 2.5 Sonic have the same sixteen.
_VOICES_2: Final = _voices(
    ("English (US)", ("en-US",), "tiffany", "matthew"),
    ("English (UK)", ("en-GB",), "amy", ""),
    ("English (Australia)", ("en-AU",), "olivia", ""),
    ("English (India), Hindi", ("en-IN", "hi-IN"), "kiara", "arjun"),
    ("French", ("fr-FR",), "ambre", "florian"),
    ("Italian", ("it-IT",), "beatrice", "lorenzo"),
    ("German", ("de-DE",), "tina", "lennart"),
    ("Spanish (US)", ("es-US",), "lupe", "carlos"),
    ("Portuguese (Brazil)", ("pt-BR",), "carolina", "leo"),
    polyglot=("tiffany", "matthew"),
)

MODELS: Final = (
    # Announced on 5 October 2026, as generally available in these four regions and at the price of Nova 2
    # Sonic; three shipping clients treat it like Nova 2 Sonic in everything else. The price list of
    # us-east-1 has NovaSonic2.5 at 0.003 (speech) and 0.00033 (text) for 1,000 input tokens.
    Model(
        id="amazon.nova-2-5-sonic",
        name="Nova 2.5 Sonic",
        voices=_VOICES_2,
        regions=("us-east-1", "us-west-2", "eu-north-1", "ap-northeast-1"),
        prices=Prices(
            speech_input=3.0,
            speech_output=12.0,
            text_input=0.33,
            text_output=2.75,
            as_of=date(2026, 10, 5),
            source="https://aws.amazon.com/about-aws/whats-new/2026/10/amazon-nova-2.5-sonic/",
        ),
    ),
    # Abilities: Nova 2 user guide (cross-modal input, turn-taking, asynchronous tools, input events) and
    # recordings of the service. Regions: eu-north-1 came later than the others. Prices: AWS's price list
    # of us-east-1, NovaSonic2.0-*, read by others on 12 September 2026, as on AWS's page in June 2026.
    Model(
        id="amazon.nova-2-sonic-v1:0",
        name="Nova 2 Sonic",
        voices=_VOICES_2,
        regions=("us-east-1", "us-west-2", "eu-north-1", "ap-northeast-1"),
        prices=Prices(
            speech_input=3.0,
            speech_output=12.0,
            text_input=0.33,
            text_output=2.75,
            as_of=date(2026, 9, 12),
            source="https://aws.amazon.com/nova/pricing/",
        ),
    ),
    # Abilities: the user guide of version 1 knows none of these, and clients drop or refuse them. End of
    # life: the model's card in the Bedrock user guide. Prices: its last, in AWS's price list of us-east-1.
    Model(
        id="amazon.nova-sonic-v1:0",
        name="Nova Sonic",
        answers_typed_text=False,
        sets_endpointing=False,
        runs_tools_asynchronously=False,
        reports_user_speech=False,
        takes_system_speech=False,
        voices=_VOICES_1,
        regions=("us-east-1", "eu-north-1", "ap-northeast-1"),
        end_of_life=date(2026, 9, 14),
        prices=Prices(
            speech_input=3.4,
            speech_output=13.6,
            text_input=0.06,
            text_output=0.24,
            as_of=date(2026, 9, 14),
            source="https://aws.amazon.com/bedrock/pricing/",
        ),
    ),
)
"""The models that are known, the newest first."""

# A geography or "global." stands before the id of a cross-region profile. "-2-" and "-2-5-" are the
# generation; the first generation has none, and its "-v1" is all that tells it from one yet to come.
_ID: Final = re.compile(
    r"(?:[a-z][a-z-]*\.)?amazon\.nova-(?:(?P<major>\d+)(?:[-.](?P<minor>\d+))?-)?sonic(?:-v(?P<revision>\d+)(?::\w+)*)?"
)

# Service model: the length of a `modelId`.
_LONGEST_ID: Final = 2048


def lookup(model: str | Model) -> Model:
    """Return what is known of a model, under the id that was given.

    Takes the ids of models, of cross-region inference profiles (`us.`, `eu.`, `global.`, ...) and ARNs of
    either. An id that says nothing, such as the ARN of an application's own profile, or that names a model
    newer than this list, gets a model that is not `known` and has the abilities of the newest.

    Args:
        model: The id; or a model, which is returned as it is.

    Raises:
        ConfigurationError: If the id cannot be one: empty, or longer than 2048 characters.
    """
    if isinstance(model, Model):
        return model
    if not 0 < len(model) <= _LONGEST_ID:
        raise ConfigurationError(
            f"model is {len(model)} characters long, but an id has 1 to {_LONGEST_ID}; "
            f"the newest is {MODELS[0].id!r}"
        )
    generation = _generation(model)
    for known in MODELS:
        if generation is not None and generation == _generation(known.id):
            return replace(known, id=model)
    return replace(MODELS[0], id=model, name=model, known=False, regions=(), end_of_life=None, prices=None)


def _generation(model_id: str) -> tuple[int, int] | None:
    """Return (2, 5) for Nova 2.5 Sonic, whatever stands around it; None for what is something else."""
    # arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.amazon.nova-2-sonic-v1:0
    name = model_id.rpartition("/")[2] if model_id.startswith("arn:") else model_id
    match = _ID.fullmatch(name)
    # A "-v2" of any generation would be a model that nobody knows yet.
    if match is None or match["revision"] not in {"1", None}:
        return None
    if match["major"] is None:
        return (1, 0) if match["revision"] else None
    return int(match["major"]), int(match["minor"] or 0)


def suggest(word: str, known: Iterable[str]) -> str | None:
    """Return the known word that somebody who wrote `word` may have meant, or None."""
    spellings = {each.casefold(): each for each in known}
    near = difflib.get_close_matches(word.casefold(), spellings, n=1)
    return spellings[near[0]] if near else None


def check_voice(model: Model, voice: str) -> str | None:
    """Return what is odd about a voice for a model, as a sentence; None if nothing is.

    It is for a warning, not for an error: AWS may add a voice on any day, and the service itself refuses
    one that it does not have. Of a model that is not known, every voice passes.
    """
    if not model.known or model.voice(voice) is not None:
        return None
    others = [(other, found) for other in MODELS if (found := other.voice(voice))]
    if others:
        other, found = others[0]
        alike = [repr(each.name) for each in model.voices if each.locales == found.locales]
        instead = f"; for {found.language} it has {' and '.join(alike)}" if alike else ""
        return f"{voice!r} is not a known voice of {model.id}, but of {other.id}{instead}"
    nearest = suggest(voice, (each.name for each in model.voices))
    if nearest is not None:
        return f"{voice!r} is not a known voice of {model.id}; did you mean {nearest!r}?"
    names = ", ".join(each.name for each in model.voices)
    return f"{voice!r} is not a known voice of {model.id}; its voices are {names}"
