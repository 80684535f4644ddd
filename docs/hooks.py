"""What building the pages needs beyond MkDocs: formulas as MathML, and files that live outside docs/.

Formulas are rendered here, once, so that the pages need no script and no network.
"""

import html
import re
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.exceptions import PluginError
from mkdocs.structure.files import File

ROOT = Path(__file__).parents[1]

# Pages and files of the repository that belong to the site, too; copied in, never kept twice.
OUTSIDE = (
    "CHANGELOG.md",
    "CITATION.cff",
    "CONTRIBUTING.md",
    "benchmarks/README.md",
    "benchmarks/scaling.png",
    *(str(path.relative_to(ROOT)) for path in sorted((ROOT / "notebooks").glob("*.ipynb"))),
)

# As pymdownx.arithmatex leaves them in the page.
FORMULA = re.compile(
    r'<(?P<tag>span|div) class="arithmatex">\\[(\[](?P<tex>.*?)\\[)\]]</(?P=tag)>', re.DOTALL
)


def on_files(files, config):
    """Add the files from outside docs/."""
    for name in OUTSIDE:
        files.append(File.generated(config, name, abs_src_path=str(ROOT / name)))
    return files


def on_page_markdown(markdown, page, **_):
    """Links out of docs/, as they stand in the repository, lead to the copies."""
    return markdown.replace("](../", "](") if "/" not in page.file.src_uri else markdown


def on_page_content(content, **_):
    """Every formula of the page as MathML, which browsers draw themselves."""
    return FORMULA.sub(_mathml, content)


def _mathml(found):
    display = "block" if found["tag"] == "div" else "inline"
    formula = convert(html.unescape(found["tex"]).strip(), display=display)
    if "\\" in formula:
        msg = f"latex2mathml does not know all of {found['tex']!r}; write it in other words of LaTeX"
        raise PluginError(msg)
    return formula
