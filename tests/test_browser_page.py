"""The page of examples/browser in real Chromium, with a microphone that plays a file, as a user meets it.

Its screenshots are kept in artifacts/.
"""

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import chromium
from chromium import Page
from novasonic.audio import read_wav, write_wav
from running import speech
from serving import ROOT, Server, server

pytestmark = pytest.mark.skipif(chromium.found() is None, reason="needs Debian's chromium")

SOUNDS = ROOT / "src" / "novasonic" / "emulator" / "sounds"
KENNEDY = ROOT.parent / "shared" / "audio" / "jfk-16k.wav"
ARTIFACTS = ROOT / "artifacts"

# Listens at the page's loudspeaker, in the time of its sound: one value for each 128 samples; and notes when
# messages came, in the same time.
TAP = """
window.tap = {sound: [], messages: []};
const url = URL.createObjectURL(new Blob([`
  registerProcessor("tap", class extends AudioWorkletProcessor {
    process([[sound]]) {
      this.batch ??= [];
      const power = sound ? sound.reduce((sum, x) => sum + x * x, 0) / sound.length : 0;
      this.batch.push([currentTime, Math.sqrt(power)]);
      if (this.batch.length === 8) this.port.postMessage(this.batch.splice(0));
      return true;
    }
  });
`], {type: "text/javascript"}));
const connect = AudioNode.prototype.connect;
AudioNode.prototype.connect = function (to, ...more) {
  if (to instanceof AudioDestinationNode && !tap.context) {
    tap.context = this.context;
    this.context.audioWorklet.addModule(url).then(() => {
      const node = new AudioWorkletNode(this.context, "tap", {channelCount: 1, channelCountMode: "explicit"});
      node.port.onmessage = ({data}) => tap.sound.push(...data);
      connect.call(this, node);
      connect.call(node, to);
    });
  }
  return connect.call(this, to, ...more);
};
const Socket = WebSocket;
window.WebSocket = class extends Socket {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", ({data}) => {
      if (typeof data === "string") tap.messages.push([tap.context.currentTime, JSON.parse(data).type]);
    });
  }
};
"""

LOUD = 0.01  # of 1, effective: speech is louder, and the rest of a filter is not
STATE = "document.querySelector('#state').dataset.state"


async def tapped(page: Page) -> None:
    """Have what comes out of the page's loudspeaker written down. To be said before it is loaded."""
    await page.command("Page.setBypassCSP", enabled=True)
    await page.command("Page.addScriptToEvaluateOnNewDocument", source=TAP)


def scenario(folder: Path, **told: object) -> str:
    path = folder / "scenario.json"
    path.write_text(json.dumps(told))
    return str(path)


@pytest.fixture(scope="module")
def offline(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """The server as the first line of its help says: nothing but an emulator behind it."""
    with server(tmp_path_factory.mktemp("offline"), "--emulator") as running:
        yield running


@pytest.fixture
def user(tmp_path: Path) -> Path:
    """What a user says, in a file: a question, and eight seconds later something else."""
    question, form = read_wav(SOUNDS / "question.wav")
    interruption, _ = read_wav(SOUNDS / "interruption.wav")
    pause, answer, rest = (bytes(2 * round(seconds * form.sample_rate)) for seconds in (1.0, 8.0, 30.0))
    write_wav(tmp_path / "user.wav", pause + question + answer + interruption + rest, form.sample_rate)
    return tmp_path / "user.wav"


async def test_a_user_speaks_is_answered_breaks_in_and_leaves(
    offline: Server, tmp_path: Path, user: Path
) -> None:
    microphone = f"--use-file-for-fake-audio-capture={user}%noloop"
    async with chromium.chromium(tmp_path / "profile", microphone) as page:
        await tapped(page)
        await page.resize(1100, 800)
        await page.go(offline.url)
        await page.screenshot(ARTIFACTS / "page-before.png")
        await page.click("#start")
        await page.until(f"{STATE} === 'listening'")
        await page.until("document.querySelector('#you-level').ariaValueNow > 30")
        await page.until("document.querySelector('.you .words')")
        assert "weather" in await page.text(".you .words")

        await page.until("document.querySelector('.nova .planned')")
        await page.until(f"{STATE} === 'speaking'")
        await page.until("document.querySelector('#nova-level').ariaValueNow > 30")
        await page.until("document.querySelector('.nova .said') && document.querySelector('.nova .planned')")
        await page.screenshot(ARTIFACTS / "page-speaking.png")
        assert "Looked up weather (city: Paris)" in await page.text("#log")
        said = "Of course! It is sunny in Paris today, with a light wind."
        assert await page.text(".nova .said") == said

        await page.until("tap.messages.some(([, type]) => type === 'interrupted')")
        await page.until(f"{STATE} !== 'speaking'")
        latency = await page.run("tap.context.outputLatency")  # from there to the ear
        heard: dict[str, Any] = await page.run("({sound: tap.sound, messages: tap.messages})")
        [cut] = [at for at, type_ in heard["messages"] if type_ == "interrupted"]
        loud = [at for at, level in heard["sound"] if level > LOUD]
        assert max(loud) > cut - 1, "it was in mid-sentence"
        assert max(loud) + latency < cut + 0.1
        assert await page.text(".nova .unsaid")

        await page.until("document.querySelectorAll('.you .words').length === 2")
        await page.resize(390, 780, mobile=True)
        await page.until("document.querySelectorAll('.nova')[1]?.querySelector('.said')")
        await page.screenshot(ARTIFACTS / "page-phone.png")
        assert "Tomorrow it will rain" in await page.text("#log")
        again = [at for at, level in await page.run("tap.sound") if level > LOUD and at > cut + 0.1]
        assert again, "and the next answer is heard"

        await page.click("#start")
        await page.until(f"{STATE} === 'off'")
        assert "You have ended the conversation." in await page.text("#log")
        await page.resize(390, 780, mobile=True, dark=True)
        await page.screenshot(ARTIFACTS / "page-phone-dark.png")
        assert page.complaints == []
    await offline.is_quiet()


@pytest.fixture
def tone(tmp_path: Path) -> str:
    """The name of a sound of three seconds."""
    write_wav(tmp_path / "tone.wav", speech(3), 16_000)
    return "tone.wav"


async def test_speech_plays_without_a_gap(tmp_path: Path, tone: str) -> None:
    """It comes in forty pieces, and nowhere is it quiet in the middle."""
    says = [{"text": "Hmmm.", "sound": tone}]
    told = scenario(tmp_path, turns=[{"typed": "*", "says": says}])
    with server(tmp_path, "--emulator", told) as served:
        async with chromium.chromium(tmp_path / "profile") as page:
            await tapped(page)
            await page.go(served.url)
            await page.click("#text")
            await page.type("Hum, please.")
            await page.press("Enter", 13, "\r")
            await page.until("document.querySelector('.nova .said')")
            await page.until(f"{STATE} === 'listening'")
            sound = await page.run("tap.sound")
            loud = [number for number, (_, level) in enumerate(sound) if level > LOUD]
            heard = sound[loud[0] : loud[-1] + 1]
            assert heard[-1][0] - heard[0][0] == pytest.approx(3.0, abs=0.05)
            assert [at for at, level in heard if level < LOUD] == []
            assert page.complaints == []


@pytest.mark.skipif(not KENNEDY.exists(), reason="needs the recordings that lie beside this repository")
@pytest.mark.timeout(150)
async def test_what_the_microphone_hears_arrives_as_it_was_said(tmp_path: Path) -> None:
    """Eleven seconds of real speech, which the emulator measures: no faster, no slower, nothing lost."""
    microphone = f"--use-file-for-fake-audio-capture={KENNEDY}%noloop"
    with server(tmp_path, "--emulator", scenario(tmp_path)) as served:
        # Where a machine is busy elsewhere, a browser loses sound of its microphone before the page gets it.
        for attempt in ("first", "second", "last"):
            async with chromium.chromium(tmp_path / attempt, microphone) as page:
                await page.go(served.url)
                await page.click("#start")
                try:
                    seconds = await page.until(
                        "(all => all >= 8 && all)([...document.querySelectorAll('.you .words')].flatMap("
                        "each => [...each.innerText.matchAll(/\\((\\d+\\.\\d) seconds/g)])"
                        ".reduce((sum, found) => sum + Number(found[1]), 0))"
                    )
                except TimeoutError:
                    if attempt == "last":
                        raise
                else:
                    assert seconds < 11.5
                    assert page.complaints == []
                    return


async def test_the_microphones_sound_is_filtered_before_it_is_made_slower(
    offline: Server, tmp_path: Path
) -> None:
    """At 16 kHz, a whistle of 10 kHz would be heard at 6 kHz. What speech consists of is untouched."""
    level = """
        async (rate, frequency) => {
          const context = new OfflineAudioContext(1, rate, rate);
          await context.audioWorklet.addModule("audio.worklet.js");
          const tone = new OscillatorNode(context, {frequency});
          const capture = new AudioWorkletNode(context, "capture");
          const frames = [];
          capture.port.onmessage = ({data}) => data.pcm && frames.push(...new Int16Array(data.pcm));
          tone.connect(capture).connect(context.destination);
          tone.start();
          await context.startRendering();
          while (frames.length < 15872) await new Promise((soon) => setTimeout(soon, 10));
          const middle = frames.slice(2000, 14000).map((each) => each / 32768);
          return [frames.length, Math.sqrt(middle.reduce((sum, x) => sum + x * x, 0) / middle.length)];
        }
    """
    async with chromium.chromium(tmp_path / "profile") as page:
        await page.go(offline.url)
        for rate in (48_000, 44_100):
            for frequency in (200, 1_000, 5_000):
                samples, found = await page.run(f"({level})({rate}, {frequency})")
                assert samples == 15_872  # 31 frames of 512: what a second has, but for the last 8 ms
                assert found == pytest.approx(0.7071, rel=0.02), frequency
            for frequency in (8_500, 10_000, 15_000):
                _, found = await page.run(f"({level})({rate}, {frequency})")
                assert found < 0.001, frequency


async def test_everything_can_be_done_by_keyboard_and_has_a_name(offline: Server, tmp_path: Path) -> None:
    async with chromium.chromium(tmp_path / "profile") as page:
        await page.go(offline.url)
        await page.until("!document.querySelector('#offline').hidden")
        reached = list[str]()
        for _ in range(8):
            await page.press("Tab", 9)
            reached.append(await page.run("document.activeElement.id || document.activeElement.localName"))
            if reached[-1] == "text":
                break
        assert {"summary", "start", "text"} < set(reached)
        tree = (await page.command("Accessibility.getFullAXTree"))["nodes"]
        used = [
            each
            for each in tree
            if each.get("role", {}).get("value") in {"button", "textbox", "meter", "log"}
        ]
        assert len(used) >= 6
        assert all(each["name"]["value"] for each in used)

        await page.type("Good morning.")
        await page.press("Enter", 13, "\r")
        await page.until("document.querySelector('.nova .said')")
        assert await page.text(".you .words") == "Good morning."
        assert await page.run("document.querySelector('#microphone').ariaPressed") == "false", (
            "nobody asked for it"
        )
        assert await page.run("document.activeElement.id") == "text", "the next message can be typed at once"
        level = "Number(document.querySelector('#you-level').ariaValueNow)"
        await page.run("document.querySelector('#microphone').focus()")
        await page.press(" ", 32, " ")
        await page.until(f"document.querySelector('#microphone').ariaPressed === 'true' && {level} > 30")
        await page.press(" ", 32, " ")
        await page.until(f"document.querySelector('#microphone').ariaPressed === 'false' && {level} === 0")
        await page.run("document.querySelector('#start').focus()")
        await page.press(" ", 32, " ")
        await page.until(f"{STATE} === 'off'")
        assert page.complaints == []


# The contrast of each text with what it stands on, by the formula of WCAG 2.
CONTRAST = """
(() => {
  const parts = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const light = (colour) => parts(colour).slice(0, 3).map((x) => x / 255)
    .map((x) => (x <= 0.04045 ? x / 12.92 : ((x + 0.055) / 1.055) ** 2.4))
    .reduce((sum, x, n) => sum + x * [0.2126, 0.7152, 0.0722][n], 0);
  const ground = (element) => {
    const found = getComputedStyle(element).backgroundColor;
    return parts(found)[3] === 0 ? ground(element.parentElement) : found;
  };
  const out = {};
  for (const element of document.body.querySelectorAll("*")) {
    if (![...element.childNodes].some((node) => node.nodeType === 3 && node.data.trim())) continue;
    if (!element.checkVisibility() || element.closest("option")) continue;
    const pair = [light(getComputedStyle(element).color), light(ground(element))].sort((a, b) => b - a);
    out[element.id || element.className || element.localName] = (pair[0] + 0.05) / (pair[1] + 0.05);
  }
  return out;
})()
"""

EVERYTHING = """
view => {
  const {transcript} = view;
  transcript.said({text: "Hello?", turn: 1});
  for (const [id, text] of [["a", "Hello!"], ["b", "How are you?"]]) {
    transcript.answered({text, isFinal: false, turn: 1, contentId: id});
  }
  transcript.answered({text: "Hello!", isFinal: true, turn: 1, contentId: "c"});
  transcript.interrupted({turn: 1});
  transcript.answered({text: "As I said.", isFinal: false, turn: 2, contentId: "d"});
  transcript.note("A note.");
  view.fail("Something is wrong.");
}
"""


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
async def test_it_fits_on_a_small_phone_and_can_be_read(offline: Server, tmp_path: Path, dark: bool) -> None:
    async with chromium.chromium(tmp_path / "profile") as page:
        await page.resize(320, 568, mobile=True, dark=dark)
        await page.go(offline.url)
        await page.until("!document.querySelector('#offline').hidden")
        contrasts: dict[str, float] = await page.run(CONTRAST)
        await page.run(f"import('/talk.js').then(({{view}}) => ({EVERYTHING})(view))")
        await page.click("#settings summary")
        assert await page.run("document.documentElement.scrollWidth") == 320
        bottoms = (
            "[...document.querySelectorAll('button, #text')].map((each) => each.getBoundingClientRect())"
        )
        assert await page.run(
            f"{bottoms}.every(({{bottom, height}}) => bottom <= innerHeight && height >= 44)"
        )
        contrasts |= await page.run(CONTRAST)
        assert {"said", "planned", "unsaid", "note", "who", "start", "error", "state", "offline"} <= set(
            contrasts
        )
        assert {name: found for name, found in contrasts.items() if found < 4.5} == {}


async def test_without_a_microphone_it_says_so_and_goes_on(offline: Server, tmp_path: Path) -> None:
    async with chromium.chromium(tmp_path / "profile") as page:
        await page.go(offline.url)
        await page.run(
            "navigator.mediaDevices.getUserMedia = async () => {"
            " throw new DOMException('Permission denied', 'NotAllowedError') }"
        )
        await page.click("#start")
        await page.until(f"{STATE} === 'listening'")
        assert "Allow it" in await page.text("#error")
        await page.click("#text")
        await page.type("Good morning.")
        await page.click("form button")
        await page.until("document.querySelector('.nova .said')")


async def test_the_token_is_asked_for_and_taken_from_the_address(tmp_path: Path) -> None:
    told = scenario(tmp_path, turns=[{"typed": "*", "says": "Hello!"}])
    with server(tmp_path, "--emulator", told, NOVASONIC_TOKEN="open sesame ☂") as served:
        async with chromium.chromium(tmp_path / "profile") as page:
            await page.go(served.url)
            await page.until("!document.querySelector('#token-field').hidden")
            assert "needs an access token" in await page.text("#error")
            await page.go(f"{served.url}?again#open%20sesame%20%E2%98%82")
            await page.until("!document.querySelector('#offline').hidden")
            await page.click("#text")
            await page.type("Good morning.")
            await page.press("Enter", 13, "\r")
            await page.until("document.querySelector('.nova .said')")


async def test_a_server_that_goes_away_is_told_in_words(tmp_path: Path) -> None:
    with server(tmp_path, "--emulator", scenario(tmp_path)) as served:
        async with chromium.chromium(tmp_path / "profile") as page:
            await page.go(served.url)
            await page.click("#start")
            await page.until(f"{STATE} === 'listening'")
            served.process.terminate()
            await page.until(f"{STATE} === 'off'")
            assert "being restarted" in await page.text("#log")
            await asyncio.to_thread(served.process.wait, 20)
            await page.click("#start")
            await page.until("!document.querySelector('#error').hidden")
            assert "cannot be reached" in await page.text("#error")


async def test_a_server_that_answers_and_takes_no_conversation_is_told_in_words(
    offline: Server, tmp_path: Path
) -> None:
    """As in the moment in which it goes away."""
    refused = """WebSocket = class {
        constructor() { setTimeout(() => this.onclose({code: 1006, reason: ""})) }
        close() {}
    }; 0"""
    async with chromium.chromium(tmp_path / "profile") as page:
        await page.go(offline.url)
        await page.run(refused)
        await page.click("#start")
        await page.until("!document.querySelector('#error').hidden")
        assert "took no conversation" in await page.text("#error")
        assert await page.run(STATE) == "off"
