"""A report as a browser reads it: the tree of its elements."""

import html.parser

from vmr_jax.reporting.page import write_report


class Node:
    """An element of a parsed page."""

    def __init__(self, name, attributes):
        self.name, self.attributes, self.children = name, dict(attributes), []

    def all(self, name=None, **attributes):
        """Elements below this one, in order of the page; `class_` must be among the classes."""
        wanted = attributes.pop("class_", None)
        for child in self.children:
            if isinstance(child, Node):
                classes = child.attributes.get("class", "").split()
                same = all(child.attributes.get(key) == value for key, value in attributes.items())
                if (name is None or child.name == name) and same and (wanted is None or wanted in classes):
                    yield child
                yield from child.all(name, **attributes, **({"class_": wanted} if wanted else {}))

    def one(self, name=None, **attributes):
        (found,) = self.all(name, **attributes)
        return found

    @property
    def text(self):
        return "".join(child if isinstance(child, str) else child.text for child in self.children)


class Page(html.parser.HTMLParser):
    """Builds the tree and fails on an element that is not closed in order."""

    def __init__(self, source):
        super().__init__()
        self.root = Node("root", [])
        self._open = [self.root]
        self.feed(source)
        self.close()
        assert self._open == [self.root], "not closed at the end"

    def handle_starttag(self, tag, attrs):
        assert len(dict(attrs)) == len(attrs), f"{tag} has an attribute twice"
        node = Node(tag, attrs)
        self._open[-1].children.append(node)
        self._open.append(node)

    def handle_startendtag(self, tag, attrs):
        self._open[-1].children.append(Node(tag, attrs))

    def handle_endtag(self, tag):
        assert self._open.pop().name == tag

    def handle_data(self, data):
        self._open[-1].children.append(data)


def parse(source):
    return Page(source).root


def report_of(folder):
    return parse(write_report(folder).read_text(encoding="utf-8"))


def section_ids(page):
    return [node.attributes["id"] for node in page.all("section")]
