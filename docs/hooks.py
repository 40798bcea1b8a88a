"""Called by mkdocs while it builds the site: adds a page per method and dataset, and the changelog.

The written pages link to files of the repository, where they can be read too; on the site these links lead to
the pages that are made of the files.
"""

import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import generated

# link of a written page -> link on the site
_LINKS = (
    (r"\(\.\./data/(\w+)/README\.md\)", r"(datasets/\1.md)"),
    (r"\(\.\./vmr_jax/models/(\w+)\.py\)", r"(methods/\1.md)"),
    (r"\(\.\./(CHANGELOG|CONTRIBUTING)\.md\)", lambda found: f"({found[1].lower()}.md)"),
)


def on_page_markdown(markdown, page, config, files):
    """The text of a written page with the links of the site."""
    for link, on_site in _LINKS:
        markdown = re.sub(link, on_site, markdown)
    return markdown


def on_files(files, config):
    """Adds the pages that nobody writes."""
    for name, card in generated.cards().items():
        page = generated.method_page(name, card)
        files.append(File.generated(config, f"methods/{name}.md", content=page))
    for path in sorted((generated.ROOT / "data").glob("*/README.md")):
        text = re.sub(r"\(\.\./(\w+)/README\.md\)", r"(\1.md)", path.read_text(encoding="utf-8"))
        files.append(File.generated(config, f"datasets/{path.parent.name}.md", content=text))
    files.append(File.generated(config, "survey.md", content=generated.survey_page()))
    for name in ("CHANGELOG", "CONTRIBUTING"):
        text = (generated.ROOT / f"{name}.md").read_text(encoding="utf-8")
        files.append(File.generated(config, f"{name.lower()}.md", content=text))
    return files
