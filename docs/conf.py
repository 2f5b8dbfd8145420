"""How Sphinx builds the documentation: `make docs`, in which every dead reference is an error.

Nothing is fetched while it is built. Links into Python's own documentation are made from `PYTHON`, a table of
the pages that novasonic's signatures lead to. So they need no inventory, and work once somebody is online.
"""

import dataclasses
import re
import sys
from typing import Final

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx
from sphinx.environment import BuildEnvironment
from sphinx.pycode import ModuleAnalyzer
from sphinx.util.inspect import signature, stringify_signature
from sphinx.util.nodes import make_refnode

import novasonic

project = "novasonic"
author = copyright = "The novasonic developers"  # noqa: A001 - Sphinx calls it so
version = release = novasonic.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
exclude_patterns = ["_build"]
nitpicky = True
default_role = "py:obj"
html_theme = "furo"
html_title = "novasonic"
html_copy_source = False

add_module_names = False
autodoc_default_options = {"members": True, "special-members": "__aenter__, __anext__, __call__"}
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
maximum_signature_line_length = 90
napoleon_numpy_docstring = False
napoleon_attr_annotations = False  # the signature has them
napoleon_use_ivar = True  # attributes of a dataclass stand in its docstring, once
myst_heading_anchors = 3
nitpick_ignore_regex = [
    ("py:class", "[PRT]"),  # parameters of a generic class
    ("py:class", r"novasonic\.(emulator|testing)\.\w+\.\w+"),  # what its parts hand each other
    ("py:class", r"(hypothesis|pytest)\..*"),
    ("py:exc", "ArgumentsError"),  # is told to the model, and no program meets it
]

PYTHON: Final = {
    "asyncio.Future": "asyncio-future",
    "asyncio.Task": "asyncio-task",
    "asyncio.Transport": "asyncio-protocol",
    "asyncio.timeout": "asyncio-task",
    "collections.abc": "collections.abc",
    "concurrent.futures": "concurrent.futures",
    "datetime.date": "datetime",
    "datetime.datetime": "datetime",
    "enum.Enum": "enum",
    "functools.partial": "functools",
    "os.PathLike": "os",
    "pathlib.Path": "pathlib",
    "re.Pattern": "re",
    "ssl.SSLContext": "ssl",
    "types.TracebackType": "types",
    "typing": "typing",
}
"""Names of Python, and of whole modules of it, with the pages of its library reference that have them."""

ELSEWHERE: Final = {
    "_asyncio.Future": "asyncio.Future",
    "_asyncio.Task": "asyncio.Task",
    "asyncio.transports.Transport": "asyncio.Transport",
    "concurrent.futures._base.Executor": "concurrent.futures.Executor",
    "pathlib._local.Path": "pathlib.Path",
    # Signatures name a part of these; what there is to be read stands here.
    "novasonic.conversation.Player": "novasonic.playback.Player",
    "novasonic.files.AudioReader": "novasonic.audio.WavReader",
    "novasonic.recording.Tape": "novasonic.replay",
    "novasonic.replaying.Replay": "novasonic.replay",
    "novasonic.session.SessionOptions": "novasonic.SonicSession",
    "novasonic.tools.AnyTool": "novasonic.Tool",
}


def find(
    app: Sphinx,
    env: BuildEnvironment,
    node: pending_xref,
    contnode: nodes.Element,
) -> nodes.Node | None:
    """Resolve what Sphinx cannot: short names in docstrings, and names of Python."""
    if node.get("refdomain") != "py":
        return None
    target = ELSEWHERE.get(node["reftarget"], node["reftarget"])
    objects = env.domains.python_domain.objects
    names = [target, f"novasonic.{target}"]
    if re.search(r"[._A-Z]", target):  # a plain word may be anything, such as a parameter
        named = [each for each in objects if each.endswith(f".{target}") and not objects[each].aliased]
        names += named if len(named) == 1 else []
    for name in names:
        if name in objects and objects[name].objtype not in {"attribute", "property"}:
            found = objects[name]
            return make_refnode(app.builder, node["refdoc"], found.docname, found.node_id, contnode)
    page = PYTHON.get(target) or PYTHON.get(target.rpartition(".")[0])
    if page is not None:
        address = f"https://docs.python.org/3/library/{page}.html#{target}"
        return nodes.reference("", "", contnode, internal=False, refuri=address)
    if node.get("reftype") == "obj":
        return contnode  # backquotes in a docstring may hold any code
    return None


def read_docstring(
    _app: Sphinx, what: str, name: str, _found: object, _options: object, lines: list[str]
) -> None:
    """Read docstrings as people do: what is indented is code, and a colon may stand in a sentence."""
    if what == "data":
        lines[:] = said_of(name.rpartition(".")[2])
    if what in {"attribute", "data", "property"}:
        lines[:0] = ["..", ""]  # an empty comment, or napoleon reads "Type: what it is" in the first line
    text = "\n".join(re.sub(r"(`[^`]+`)(?=\w)", r"\1\\ ", line) for line in lines)  # `ToolSpec`s
    text = re.sub(r"^(\S.*[^:\n]):\n\n(?= )", r"\1::\n\n", text, flags=re.MULTILINE)
    text = re.sub(r"^(\S.*[^:\n])\n\n(?= )", r"\1\n\n::\n\n", text, flags=re.MULTILINE)
    lines[:] = text.split("\n")


def said_of(name: str) -> list[str]:
    """Return what stands under a constant or an alias where it is written, wherever it is public."""
    for module in sorted(each for each in sys.modules if each.startswith("novasonic")):
        analyzer = ModuleAnalyzer.for_module(module)
        analyzer.analyze()
        if ("", name) in analyzer.attr_docs:
            return analyzer.attr_docs["", name]
    return []


def read_signature(
    _app: Sphinx,
    _what: str,
    _name: str,
    found: object,
    _options: object,
    arguments: str | None,
    returns: str | None,
) -> tuple[str | None, str | None]:
    """Leave out the fields that a class has from another, and write what a factory makes as Python can."""
    if isinstance(found, type) and dataclasses.is_dataclass(found):
        bases = [base for base in found.__mro__[1:] if dataclasses.is_dataclass(base)]
        inherited = {field.name for base in bases for field in dataclasses.fields(base)}
        whole = signature(found)
        own = [each for name, each in whole.parameters.items() if name not in inherited]
        arguments = stringify_signature(
            whole.replace(parameters=own), show_return_annotation=False, unqualified_typehints=True
        )
    return arguments and arguments.replace("<factory>", "..."), returns


def setup(app: Sphinx) -> None:
    """Sphinx calls this."""
    app.connect("missing-reference", find)
    app.connect("autodoc-process-docstring", read_docstring, priority=400)  # before napoleon takes sections
    app.connect("autodoc-process-signature", read_signature)
