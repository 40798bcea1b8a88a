"""Called by mkdocs while it builds the site: adds a page per method and dataset, and the changelog."""

import re
import sys
from pathlib import Path

from mkdocs.structure.files import File

sys.path.insert(0, str(Path(__file__).parent))
import generated


def on_files(files, config):
    """Adds the pages that nobody writes."""
    for name, card in generated.cards().items():
        page = generated.method_page(name, card)
        files.append(File.generated(config, f"methods/{name}.md", content=page))
    for path in sorted((generated.ROOT / "data").glob("*/README.md")):
        text = re.sub(r"\(\.\./(\w+)/README\.md\)", r"(\1.md)", path.read_text(encoding="utf-8"))
        files.append(File.generated(config, f"datasets/{path.parent.name}.md", content=text))
    for name in ("CHANGELOG", "CONTRIBUTING"):
        text = (generated.ROOT / f"{name}.md").read_text(encoding="utf-8")
        files.append(File.generated(config, f"{name.lower()}.md", content=text))
    return files
