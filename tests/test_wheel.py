"""The built wheel, in a project that has nothing else: what a user gets by `pip install`."""

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

SCRIPT = """
    async def test_script(sonic_script):
        script = sonic_script([expect(typed("Hi!")), assistant_says("Hello!")])
        async with SonicSession(transport=script) as session:
            await session.ask("Hi!")
        assert_said(session, "ASSISTANT", "Hello!")
"""

EMULATOR = """
    async def test_emulator(sonic_emulator):
        bedrock = sonic_emulator(Scenario(turns=[Turn(typed="*", says="Hello!")]), speed=20)
        reply = await novasonic.ask("Hi!")
        assert reply.text == "Hello!"
        assert bedrock.sessions[0].outcome == "completed"
"""

CLOCK = """
    async def test_clock(sonic_clock):
        session = SonicSession(transport=MemoryConnector())
        async with session:
            await sonic_clock.advance(600)
        assert session.stats.silence_sent > 500
"""

REPLAY = """
    async def test_replay(sonic_replay, sonic_script, tmp_path):
        script, path = sonic_script([expect(typed("Hi!")), assistant_says("Hello!")]), tmp_path / "call.jsonl"
        await novasonic.ask("Hi!", transport=script, record=path)
        reply = await novasonic.ask("Hi!", transport=sonic_replay(path, speed=None))
        assert reply.text == "Hello!"
"""

INI = """
    [pytest]
    asyncio_mode = auto
    asyncio_default_fixture_loop_scope = function
    filterwarnings = error
"""

IMPORTS = """
    import novasonic
    from novasonic import SonicSession
    from novasonic.emulator import MemoryConnector, Scenario, Turn
    from novasonic.testing import assert_said, assistant_says, expect, typed
"""


def uv(*arguments: str | Path) -> None:
    """Call uv; where it cannot install packages, skip the test, unless it is CI's business that it can."""
    found = os.environ.get("UV") or shutil.which("uv")
    if found is None:
        pytest.skip("there is no uv, which builds and installs")
    ran = subprocess.run([found, *arguments], capture_output=True, text=True, check=False)
    if ran.returncode:
        said = f"uv {arguments[0]} failed:\n{ran.stderr}"
        pytest.fail(said, pytrace=False) if os.environ.get("CI") else pytest.skip(said)


@pytest.mark.timeout(300)  # it takes some seconds where packages are at hand
def test_a_new_project_uses_every_fixture_in_a_test_of_five_lines(tmp_path: Path) -> None:
    if not (ROOT / "src" / "novasonic").is_dir():
        pytest.skip("there is no checkout to build a wheel of")
    uv("build", "--quiet", "--wheel", "--out-dir", tmp_path / "dist", ROOT)
    [wheel] = (tmp_path / "dist").glob("*.whl")
    uv("venv", "--quiet", "--python", sys.executable, tmp_path / "venv")
    python = tmp_path / "venv" / ("Scripts" if os.name == "nt" else "bin") / "python"
    uv("pip", "install", "--quiet", "--python", python, f"novasonic[emulator,testing] @ {wheel.as_uri()}")

    tests = [SCRIPT, REPLAY, EMULATOR, CLOCK]
    project = tmp_path / "project"
    project.mkdir()
    source = "\n".join(map(textwrap.dedent, [IMPORTS, *tests]))
    (project / "test_it.py").write_text(source, encoding="utf-8")
    (project / "pytest.ini").write_text(textwrap.dedent(INI), encoding="utf-8")
    env = {
        name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "COV", "VIRTUAL"))
    }
    ran = subprocess.run(
        [python, "-m", "pytest", "-q"], cwd=project, env=env, capture_output=True, text=True, check=False
    )
    assert f"{len(tests)} passed" in ran.stdout, ran.stdout + ran.stderr
