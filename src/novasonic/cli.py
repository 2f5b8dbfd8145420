"""The command `novasonic`: a demonstration, a conversation, recordings, the emulator, the voices, a doctor.

Whatever goes wrong is one sentence on standard error and exit status 1; `--verbose` shows more.
"""

import argparse
import asyncio
import contextlib
import json
import logging
import os
import shlex
import shutil
import signal
import sys
import warnings
from collections.abc import AsyncGenerator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from novasonic import __version__, models
from novasonic.echo import ECHO_MODES
from novasonic.errors import ConfigurationError, SonicError
from novasonic.reply import Reply
from novasonic.session import ask

if TYPE_CHECKING:
    from novasonic.diagnosis import Line

_STARTING: Final = 20.0  # seconds for an emulator to start: a fresh Python, a new certificate
_STOPPING: Final = 5.0
_DEMO: Final = Path(__file__).parent / "emulator" / "demo.json"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command, and return the status for the shell: 0, or 1 where something went wrong."""
    options = _parser().parse_args(arguments)
    logging.basicConfig(format="%(name)s: %(message)s", level=logging.ERROR)
    logging.getLogger("novasonic").setLevel(logging.DEBUG if options.verbose else logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("default")
            warnings.showwarning = _show_warning
            status: int | None = asyncio.run(options.run(options))
    except KeyboardInterrupt:
        return 130  # as shells have it: 128 and the number of SIGINT
    except BrokenPipeError:  # `novasonic voices | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # or Python complains at its end
        return 1
    except (SonicError, ImportError) as exc:
        if options.verbose:
            logging.getLogger("novasonic.cli").exception("the command failed")
        print(f"novasonic: {exc}", file=sys.stderr)
        return 1
    return status or 0


def _show_warning(message: Warning | str, *_: object, **__: object) -> None:
    print(f"novasonic: {message}", file=sys.stderr)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="novasonic", description="Spoken conversations with Amazon Nova 2 Sonic."
    )
    parser.add_argument("--version", action="version", version=f"novasonic {__version__}")
    commands = parser.add_subparsers(required=True, metavar="command")

    demo = _command(commands, "demo", _demo, "hold a whole spoken conversation, offline")
    demo.add_argument("--out", default="answer.wav", help="where to write what was heard (%(default)s)")

    one = _command(commands, "ask", _ask, "ask one question, by voice or text")
    one.add_argument("prompt", help="a recording (WAV; FLAC, Ogg or MP3 with an extra), or a text to type")
    one.add_argument("--out", metavar="FILE", help="write the spoken answer into a WAV file")
    one.add_argument("--emulator", action="store_true", help="ask an emulator, started for this, not AWS")
    one.add_argument("--model", help="id of the model")
    one.add_argument("--voice", help="see `novasonic voices`")
    one.add_argument("--system", help="what the model is told about its task")
    one.add_argument("--region", help="AWS region")
    one.add_argument("--profile", help="AWS profile")
    one.add_argument("--timeout", type=float, default=60.0, help="seconds to wait for the answer (60)")

    talk = _command(commands, "talk", _talk, "talk with the model through microphone and loudspeaker")
    talk.add_argument("--emulator", action="store_true", help="talk with an emulator, started for this")
    talk.add_argument("--model", help="id of the model")
    talk.add_argument("--voice", help="see `novasonic voices`")
    talk.add_argument("--system", help="what the model is told about its task")
    talk.add_argument("--region", help="AWS region")
    talk.add_argument("--profile", help="AWS profile")
    talk.add_argument("--device", help="name or index of the sound device; else the default ones")
    talk.add_argument("--list-devices", action="store_true", help="list the sound devices, and end")
    talk.add_argument(
        "--echo",
        choices=ECHO_MODES,
        default="auto",
        help="keep the loudspeaker out of the microphone: cancel it (with novasonic[aec]), half-duplex "
        "(nobody can break in), or off, for headphones (%(default)s)",
    )
    talk.add_argument("--record", metavar="FILE", help="record both sides into a WAV file")

    emulator = _command(commands, "emulator", _emulator, "run Bedrock on localhost until Ctrl-C")
    emulator.add_argument("--host", default="127.0.0.1", help="address to listen on (%(default)s)")
    emulator.add_argument("--port", type=int, default=8443, help="port to listen on; 0 for a free one")
    emulator.add_argument("--scenario", help="a JSON or YAML file, or `demo`; else it says what it hears")
    emulator.add_argument("--speed", type=float, default=1.0, help="how much faster than the real one")
    emulator.add_argument(
        "--state",
        metavar="DIR",
        help="keep the certificate and the keys in this folder, so that clients survive a restart",
    )
    emulator.add_argument(
        "--until-eof", action="store_true", help="end with standard input, for programs that start it"
    )

    _add_replay(commands)

    examined = _command(
        commands,
        "doctor",
        _doctor,
        "find out what keeps a session from working",
        "It ends with status 1 if something does. Without --offline or --emulator it opens a session, and "
        "closes it again, which costs a few hundred tokens.",
    )
    place = examined.add_mutually_exclusive_group()
    place.add_argument(
        "--emulator", action="store_true", help="examine an emulator, started for this, not AWS"
    )
    place.add_argument("--endpoint-url", metavar="URL", help="where the service is, if not where AWS says")
    place.add_argument("--offline", action="store_true", help="leave out all that goes over the network")
    examined.add_argument("--model", help="id of the model")
    examined.add_argument("--region", help="AWS region")
    examined.add_argument("--profile", help="AWS profile")
    examined.add_argument("--timeout", type=float, default=10.0, help="seconds for each step (%(default)g)")
    examined.add_argument("--json", action="store_true", help="print a list of objects")

    voices = _command(commands, "voices", _voices, "list the voices of a model")
    voices.add_argument("--model", default=models.MODELS[0].id, help="id of the model (%(default)s)")
    return parser


def _add_replay(commands: Any) -> None:  # noqa: ANN401 - argparse has no name for it
    replay = _command(
        commands,
        "replay",
        _replay,
        "show a recorded conversation",
        "A session records with `SonicSession(record=...)`. What another program has captured as JSON lines "
        "is imported: `--mapping` names a shape that is known, or a file that tells how to read it, as the "
        "documentation of `novasonic.importing` explains.",
    )
    replay.add_argument("recording", help="a recording; with --import, a capture")
    replay.add_argument("--wav", metavar="FILE", help="write what was heard: the user left, Nova right")
    replay.add_argument("--svg", metavar="FILE", help="draw who spoke when")
    replay.add_argument("--png", metavar="FILE", help="draw it as a PNG, with novasonic[picture]")
    replay.add_argument(
        "--import", dest="capture", action="store_true", help="read a capture of another shape"
    )
    replay.add_argument("--mapping", metavar="FILE", help="how to read a capture (condensed)")
    replay.add_argument("--model", help="id of the model, if the file does not say: for the price")
    replay.add_argument("--out", metavar="FILE", help="write what was imported as a recording")


def _command(commands: Any, name: str, run: Any, summary: str, more: str = "") -> argparse.ArgumentParser:  # noqa: ANN401
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=summary, description=f"{summary.capitalize()}. {more}" if more else summary
    )
    parser.add_argument("--verbose", action="store_true", help="show what happens inside")
    parser.set_defaults(run=run)
    return parser


async def _demo(options: argparse.Namespace) -> None:
    from novasonic import demo  # noqa: PLC0415 - needs an extra

    async with emulated("demo"):
        await demo.run(Path(options.out))


def _settings(options: argparse.Namespace) -> Any:  # noqa: ANN401 - SessionOptions
    given = {name: getattr(options, name) for name in ("model", "voice", "system", "region", "profile")}
    return {name: value for name, value in given.items() if value is not None}


async def _talk(options: argparse.Namespace) -> None:
    from novasonic import talk  # noqa: PLC0415 - needs an extra

    if options.list_devices:
        await asyncio.to_thread(talk.print_devices)
        return
    device = options.device
    settings = _settings(options)
    if options.record is not None:
        settings["record_audio"] = options.record
    async with contextlib.AsyncExitStack() as stack:
        if options.emulator:
            await stack.enter_async_context(emulated())
        await talk.run(int(device) if device and device.isdecimal() else device, options.echo, **settings)


async def _ask(options: argparse.Namespace) -> None:
    settings = _settings(options)
    async with contextlib.AsyncExitStack() as stack:
        if options.emulator:
            await stack.enter_async_context(emulated())
        reply = await ask(options.prompt, timeout=options.timeout, **settings)
    _show(reply, typed=options.prompt)
    if options.out:
        await asyncio.to_thread(reply.save, options.out)
        print(f"{options.out}: {reply.duration:.1f} s of speech")


def _show(reply: Reply, *, typed: str) -> None:
    print(f"you:  {reply.user_text or typed}")
    print(f"nova: {reply.text}")
    details = [f"{reply.usage.total} tokens"]
    if reply.usage.prices is not None:
        details.append(f"${reply.usage.cost():.4f}")
    if reply.latency.audio is not None:
        details.append(f"answered after {reply.latency.audio:.2f} s")
    print(f"      {', '.join(details)}")


async def _voices(options: argparse.Namespace) -> None:
    model = models.lookup(options.model)
    if not model.known:
        print(f"novasonic: {model.id!r} is not a known model; these are the newest one's", file=sys.stderr)
    for voice in model.voices:
        speaks = ", ".join(voice.languages) if voice.polyglot else ", ".join(voice.locales)
        print(f"{voice.name:<10} {voice.language:<24} {voice.gender:<10} {speaks}")


async def _emulator(options: argparse.Namespace) -> None:
    from novasonic.emulator import Emulator, Scenario  # noqa: PLC0415 - needs an extra

    scenario = None
    if options.scenario:
        path = _DEMO if options.scenario == "demo" else Path(options.scenario)
        scenario = await asyncio.to_thread(Scenario.load, path)
    stop, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        with contextlib.suppress(NotImplementedError):  # Windows has none: there, Ctrl-C raises
            loop.add_signal_handler(number, stop.set)
    if options.until_eof:
        reader = asyncio.StreamReader()
        await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
        ended = asyncio.create_task(reader.read(), name="novasonic-stdin")
        ended.add_done_callback(lambda _: stop.set())
    try:
        async with Emulator(
            scenario, host=options.host, port=options.port, speed=options.speed, state=options.state
        ) as bedrock:
            for name, value in bedrock.env.items():
                print(f"export {name}={shlex.quote(value)}")
            print(f"# Bedrock is at {bedrock.endpoint_url} until Ctrl-C", flush=True)
            await stop.wait()
    except OSError as exc:
        raise ConfigurationError(
            f"cannot listen on {options.host}, port {options.port}: {exc.strerror}"
        ) from exc


async def _replay(options: argparse.Namespace) -> None:
    await asyncio.to_thread(_review, options)


def _review(options: argparse.Namespace) -> None:
    from novasonic import importing, recording, review  # noqa: PLC0415 - the other commands start sooner without
    from novasonic.account import account  # noqa: PLC0415

    if options.capture:
        tape = importing.import_capture(
            options.recording, importing.load_mapping(options.mapping or "condensed")
        )
    elif options.mapping or options.out:
        raise ConfigurationError("--mapping and --out are for captures; give --import, too")
    else:
        tape = recording.read(options.recording)
    tape = tape.with_model(options.model) if options.model else tape
    if options.out:
        tape.save(options.out)
    told = account(tape)
    if options.wav:
        review.write_wav(told, Path(options.wav))
    if options.svg or options.png:
        review.write_pictures(
            told, svg=options.svg and Path(options.svg), png=options.png and Path(options.png)
        )
    review.show(told, shutil.get_terminal_size().columns)


async def _doctor(options: argparse.Namespace) -> int:
    from novasonic import diagnosis, doctor  # noqa: PLC0415 - the other commands start sooner without

    quiet = options.json or options.verbose or not sys.stderr.isatty()
    findings = await doctor.examine(
        model=options.model,
        region=options.region,
        profile=options.profile,
        endpoint_url=options.endpoint_url,
        offline=options.offline,
        timeout=options.timeout,
        emulator=emulated() if options.emulator else None,
        on_check=lambda name: None if quiet else _overwrite(f"... {name}"),
    )
    if not quiet:
        _overwrite("")
    if options.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        lines = diagnosis.lines(findings, shutil.get_terminal_size().columns)
        encoding = sys.stdout.encoding
        _print_lines([each.encodable(encoding) for each in lines])
        print(f"\n{diagnosis.summary(findings)}")
    return int(diagnosis.has_failed(findings))


def _overwrite(text: str) -> None:
    """Say what is going on, in a line that the next one replaces."""
    print(f"\r{text:<20}\r", end="", file=sys.stderr, flush=True)


def _print_lines(lines: "Sequence[Line]") -> None:
    try:
        from rich.console import Console  # noqa: PLC0415 - an extra
        from rich.text import Text  # noqa: PLC0415
    except ImportError:  # whoever needs the doctor may have none
        print(*(f"{head}{text}" for _, head, text, _ in lines), sep="\n")
        return
    colours = {"ok": "green", "warning": "yellow", "failed": "bold red", "skipped": "dim"}
    console = Console(highlight=False, soft_wrap=True)
    for state, head, text, is_hint in lines:
        style = "cyan" if is_hint else "dim" if state == "skipped" else ""
        console.print(Text.assemble((head, colours[state]), (text, style)))


@contextlib.asynccontextmanager
async def emulated(scenario: str | None = None) -> AsyncGenerator[str]:
    """Run an emulator, lead this process there for good, which does nothing else, and yield its address.

    Raises:
        ConfigurationError: If it does not start; with its own word for why.
    """
    async with _emulator_process(scenario) as env:
        for name in ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_CREDENTIAL_EXPIRATION"):  # those of other keys
            os.environ.pop(name, None)
        os.environ.update(env)
        yield env["AWS_ENDPOINT_URL_BEDROCK_RUNTIME"]


@contextlib.asynccontextmanager
async def _emulator_process(scenario: str | None = None) -> AsyncGenerator[dict[str, str]]:
    """Run an emulator in a process of its own, and yield the environment that leads there.

    Raises:
        ConfigurationError: If it does not start; with its own word for why.
    """
    arguments = ["-m", "novasonic", "emulator", "--port", "0", "--until-eof"]
    if scenario is not None:
        arguments += ["--scenario", scenario]
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *arguments,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    assert process.stdout is not None  # noqa: S101 - asked for above
    assert process.stderr is not None  # noqa: S101 - as well
    assert process.stdin is not None  # noqa: S101 - as well
    try:
        env = dict[str, str]()
        async with asyncio.timeout(_STARTING):
            while (line := (await process.stdout.readline()).decode()).startswith("export "):
                name, _, value = shlex.split(line)[1].partition("=")
                env[name] = value
            if not env:
                reason = (await process.stderr.read()).decode().strip().removeprefix("novasonic: ")
                raise ConfigurationError(f"the emulator does not start: {reason or 'it gives no reason'}")
        yield env
    except TimeoutError as exc:
        raise ConfigurationError(f"the emulator does not start within {_STARTING:g} s") from exc
    finally:
        process.stdin.close()
        try:
            async with asyncio.timeout(_STOPPING):
                await process.communicate()
        except (TimeoutError, asyncio.CancelledError):
            process.kill()
            await process.wait()
            raise
