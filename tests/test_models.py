"""The catalogue: ids of every form, what is assumed of the unknown, voices, tokens and their price."""

import dataclasses
import subprocess
import sys
from datetime import date

import pytest
from hypothesis import given
from hypothesis import strategies as st

from novasonic import models
from novasonic.errors import ConfigurationError
from novasonic.models import MODELS, Model, Prices, Usage, check_voice, lookup, suggest

V1 = "amazon.nova-sonic-v1:0"
V2 = "amazon.nova-2-sonic-v1:0"
V25 = "amazon.nova-2-5-sonic"

NAMES = {V1: "Nova Sonic", V2: "Nova 2 Sonic", V25: "Nova 2.5 Sonic"}

PRICES = Prices(
    speech_input=3.0,
    speech_output=12.0,
    text_input=0.33,
    text_output=2.75,
    as_of=date(2026, 9, 12),
    source="a test",
)


def test_the_catalogue_imports_neither_numpy_nor_soxr_nor_aws_nor_msgspec() -> None:
    """Everything imports it, and `import novasonic` is to be cheap."""
    code = (
        "import sys, novasonic.audio, novasonic.models; "
        "print({'numpy', 'soxr', 'msgspec', 'awscrt', 'asyncio'} & set(sys.modules))"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert ran.stdout.strip() == "set()"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_a_model_of_the_catalogue_is_found_as_it_is_written_there(model: Model) -> None:
    assert lookup(model.id) == model


@pytest.mark.parametrize("base", [V1, V2, V25])
@pytest.mark.parametrize(
    "form",
    [
        "us.{}",
        "eu.{}",
        "apac.{}",
        "global.{}",
        "us-gov.{}",
        "arn:aws:bedrock:us-east-1::foundation-model/{}",
        "arn:aws-us-gov:bedrock:us-gov-west-1::foundation-model/{}",
        "arn:aws:bedrock:us-east-1:123456789012:inference-profile/us.{}",
    ],
)
def test_a_model_is_known_behind_a_profile_and_an_arn_and_keeps_the_id(form: str, base: str) -> None:
    """The id is what the service is asked for; rewriting it would ask for something else."""
    model = lookup(form.format(base))
    assert (model.id, model.name, model.known) == (form.format(base), NAMES[base], True)
    assert dataclasses.replace(model, id=base) == lookup(base)


def test_a_model_in_a_size_of_context_is_the_model() -> None:
    """Bedrock writes sizes behind the version of other Nova models: `-v1:0:256k`."""
    assert lookup(f"{V2}:256k").name == "Nova 2 Sonic"


@pytest.mark.parametrize(
    "unknown",
    [
        "amazon.nova-3-sonic-v1:0",
        "amazon.nova-2-sonic-v2:0",
        "amazon.nova-sonic-v2:0",
        "amazon.nova-sonic",
        "amazon.nova-2-5-1-sonic",
        "amazon.nova-2-sonic-mini-v1:0",
        "amazon.nova-2-lite-v1:0",
        "my-own-model",
        "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/x1y2z3",
        "arn:aws:bedrock:us-east-1:123456789012:provisioned-model/nova-2-sonic",
    ],
)
def test_an_unknown_model_has_the_abilities_of_the_newest_and_keeps_its_id(unknown: str) -> None:
    """A model that comes out tomorrow works today; taking it for version 1 would cost it typed text."""
    model = lookup(unknown)
    newest = lookup(V25)
    assert (model.id, model.name, model.known) == (unknown, unknown, False)
    assert abilities(model) == abilities(newest)
    assert (model.voices, model.limits) == (newest.voices, newest.limits)
    assert (model.prices, model.end_of_life, model.regions) == (None, None, ())


@given(st.text(min_size=1, max_size=60))
def test_any_text_is_looked_up_without_an_error(text: str) -> None:
    assert lookup(text).id == text


@pytest.mark.parametrize("impossible", ["", "x" * 2049])
def test_what_cannot_be_an_id_is_refused(impossible: str) -> None:
    with pytest.raises(ConfigurationError, match=r"1 to 2048; the newest is 'amazon\.nova-2-5-sonic'"):
        lookup(impossible)


def test_a_program_that_knows_better_brings_its_own_facts() -> None:
    """Prices and voices change between two releases of this library."""
    mine = dataclasses.replace(lookup(V2), prices=PRICES)
    assert lookup(mine) is mine


def abilities(model: Model) -> set[str]:
    return {
        field.name
        for field in dataclasses.fields(model)
        if field.name != "known" and getattr(model, field.name) is True
    }


def test_version_1_can_none_of_what_came_later() -> None:
    later = {
        "answers_typed_text",
        "sets_endpointing",
        "runs_tools_asynchronously",
        "reports_user_speech",
        "takes_system_speech",
    }
    assert abilities(lookup(V1)) == set()
    assert abilities(lookup(V2)) == abilities(lookup(V25)) == later


def test_version_1_has_an_end() -> None:
    assert [model.id for model in MODELS if model.end_of_life] == [V1]
    assert lookup(V1).end_of_life == date(2026, 9, 14)


def test_the_voices_are_those_of_the_user_guides() -> None:
    assert len(lookup(V1).voices) == 11
    assert len(lookup(V2).voices) == 16
    assert lookup(V25).voices == lookup(V2).voices
    only_1 = {voice.name for voice in lookup(V1).voices} - {voice.name for voice in lookup(V2).voices}
    assert only_1 == {"greta"}


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_a_name_is_one_voice_in_lower_case(model: Model) -> None:
    names = [voice.name for voice in model.voices]
    assert len(set(names)) == len(names)
    assert names == [name.lower() for name in names]


def test_a_voice_says_what_it_speaks() -> None:
    tiffany, kiara, amy = (lookup(V2).voice(name) for name in ("tiffany", "kiara", "amy"))
    assert tiffany is not None
    assert tiffany.languages == ("en", "fr", "it", "de", "es", "pt", "hi")
    assert kiara is not None
    assert (kiara.locales, kiara.languages, kiara.gender) == (("en-IN", "hi-IN"), ("en", "hi"), "feminine")
    assert amy is not None
    assert (amy.language, amy.languages, amy.polyglot) == ("English (UK)", ("en",), False)


def test_the_voices_of_version_1_keep_to_their_language() -> None:
    """Polyglot voices came with Nova 2, under the names that version 1 had."""
    assert not any(voice.polyglot for voice in lookup(V1).voices)


def test_a_voice_that_is_not_there_is_none() -> None:
    assert lookup(V2).voice("Tiffany") is None


@pytest.mark.parametrize("voice", ["tiffany", "leo"])
def test_nothing_is_odd_about_a_known_voice(voice: str) -> None:
    assert check_voice(lookup(V2), voice) is None


@pytest.mark.parametrize("odd", ["tifany", "Tiffany", "TIFFANY"])
def test_a_misspelt_voice_gets_the_one_that_was_meant(odd: str) -> None:
    assert check_voice(lookup(V2), odd) == (
        f"'{odd}' is not a known voice of amazon.nova-2-sonic-v1:0; did you mean 'tiffany'?"
    )


def test_a_voice_of_another_version_gets_those_of_its_language() -> None:
    """Who comes from version 1 and loses a voice wants to know what to write instead."""
    assert check_voice(lookup(V2), "greta") == (
        "'greta' is not a known voice of amazon.nova-2-sonic-v1:0, but of amazon.nova-sonic-v1:0; "
        "for German it has 'tina' and 'lennart'"
    )


def test_a_voice_of_a_language_that_version_1_lacks_says_whose_it_is() -> None:
    assert check_voice(lookup(V1), "leo") == (
        "'leo' is not a known voice of amazon.nova-sonic-v1:0, but of amazon.nova-2-5-sonic"
    )


def test_a_voice_like_no_other_gets_the_list() -> None:
    sentence = check_voice(lookup(V2), "zzz")
    assert sentence is not None
    assert "its voices are tiffany, matthew, amy" in sentence


def test_any_voice_passes_for_a_model_that_is_not_known() -> None:
    """It may have been added with the model."""
    assert check_voice(lookup("amazon.nova-3-sonic-v1:0"), "zzz") is None


def test_a_suggestion_keeps_the_spelling_of_what_is_known() -> None:
    assert suggest("us-east1", ["us-east-1", "eu-north-1"]) == "us-east-1"
    assert suggest("MEDIUMM", ["HIGH", "MEDIUM", "LOW"]) == "MEDIUM"
    assert suggest("medium", ["HIGH", "MEDIUM", "LOW"]) == "MEDIUM"
    assert suggest("quite", ["HIGH", "MEDIUM", "LOW"]) is None


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.id)
def test_every_known_model_has_prices_with_a_date_and_a_source(model: Model) -> None:
    """A price without its date is a rumour."""
    prices = model.prices
    assert prices is not None
    assert prices.as_of >= date(2026, 9, 1)
    assert prices.source.startswith("https://aws.amazon.com/")
    assert prices.speech_output > prices.speech_input > prices.text_output > prices.text_input > 0


tokens = st.integers(min_value=0, max_value=10**9)
usages = st.builds(
    Usage,
    speech_input=tokens,
    speech_output=tokens,
    text_input=tokens,
    text_output=tokens,
    prices=st.none() | st.just(PRICES),
)


def test_a_minute_of_speech_costs_what_the_price_list_says() -> None:
    """25 tokens a second; the dollars are worked out by hand."""
    usage = Usage(speech_input=1500, speech_output=1500, text_input=1000, text_output=400)
    assert usage.total == 4400
    assert usage.cost(PRICES) == pytest.approx(0.0045 + 0.018 + 0.00033 + 0.0011)


def test_a_usage_that_was_given_its_prices_costs_by_them() -> None:
    usage = Usage(speech_output=1_000_000, prices=PRICES)
    assert usage.cost() == 12.0
    assert usage.cost(dataclasses.replace(PRICES, speech_output=14.52)) == 14.52


def test_tokens_of_a_model_without_prices_have_no_cost_but_a_reason() -> None:
    with pytest.raises(ConfigurationError, match="no prices are known"):
        Usage(speech_output=1).cost()


def test_prices_are_no_part_of_what_a_usage_is() -> None:
    """Two sessions that used as much are equal; a log line shows tokens, not a price list."""
    assert Usage(text_input=3, prices=PRICES) == Usage(text_input=3)
    assert "rices" not in repr(Usage(text_input=3, prices=PRICES))


@given(usages, usages, usages)
def test_usages_add_up_in_any_order(a: Usage, b: Usage, c: Usage) -> None:
    assert a + b == b + a
    assert (a + b) + c == a + (b + c) == sum((b, c), a)
    assert (a + b).total == a.total + b.total


@given(usages, usages)
def test_a_sum_costs_the_sum(a: Usage, b: Usage) -> None:
    assert (a + b).cost(PRICES) == pytest.approx(a.cost(PRICES) + b.cost(PRICES))


def test_the_first_usage_with_prices_gives_them_to_the_sum() -> None:
    """A total starts at nothing, and nothing has no price."""
    assert (Usage() + Usage(speech_input=1, prices=PRICES)).prices == PRICES


def test_a_sum_of_different_prices_has_none() -> None:
    """Better no cost than a wrong one."""
    dear = dataclasses.replace(PRICES, text_input=1.0)
    assert (Usage(prices=PRICES) + Usage(prices=dear)).prices is None


def test_everything_public_is_named_once() -> None:
    assert sorted(models.__all__, key=str.casefold) == sorted(set(models.__all__), key=str.casefold)
    assert all(hasattr(models, name) for name in models.__all__)
