"""YAML as configuration files use it, with the line of each key.

Reading it needs no package, so that a component starts where nothing but Dynamo is installed; and
values stay as they were written (`1e3`, `0755`, `1.10`), because the option knows its type.

What is read: mappings, sequences, both in one line (`[a, b]`, `{a: b}`), plain and quoted texts,
texts of several lines (`|`, `>`), comments, one document. What is not, and is an error rather than
a guess: anchors, aliases, tags, merge keys, keys that are no texts, plain or quoted texts that go
on in the next line. The `dynamo` command refuses the first three as well.
"""

import re
from dataclasses import dataclass

from dynamo.runtime.arguments.document import Items, Node, Scalar, SyntaxTrouble, Table

#: Values within values: more than a configuration has, and far from the end of the stack.
MAX_DEPTH = 32

_KEY = re.compile(
    r"""(?:"(?:[^"\\]|\\.)*"|'(?:[^']|'')*'|[^\s'"#\[\]{},&*!|>%@`-][^#]*?|-[^\s#:][^#]*?)\s*:(?=\s|$)"""
)
_COMMENT = re.compile(r"(?:^|\s)#.*$")
_BLOCK = re.compile(r"([|>])([+-]?)([1-9]?)\s*(?:#.*)?$")
_ESCAPES = {
    "n": "\n",
    "t": "\t",
    "r": "\r",
    "0": "\0",
    '"': '"',
    "/": "/",
    "\\": "\\",
    " ": " ",
}
_HEX = {"x": 2, "u": 4, "U": 8}
_REFUSED = {
    "&": "anchors and aliases are not taken here, write the value out",
    "*": "anchors and aliases are not taken here, write the value out",
    "!": "tags are not taken here, the option knows its type",
    "%": "a text that begins with % needs quotes",
    "@": "a text that begins with @ needs quotes",
    "`": "a text that begins with ` needs quotes",
}


def parse(text: str) -> Table:
    """The table that a document holds.

    Raises:
        SyntaxTrouble: it holds something else, or is no YAML.
    """
    return _Reader(text).document()


@dataclass
class _Line:
    number: int
    indent: int
    text: str


class _Reader:
    """Reads lines from the top; `at` is the next one."""

    def __init__(self, text: str) -> None:
        self.source = text.split("\n")
        self.lines = list(self._contents())
        self.at = 0

    def _contents(self) -> list[_Line]:
        found: list[_Line] = []
        for number, raw in enumerate(self.source, start=1):
            line = raw.rstrip("\r \t")
            stripped = line.lstrip(" ")
            if stripped.startswith("\t") and stripped.strip():
                # Within a block text a tab is a character like any other; it is read from the source.
                found.append(_Line(number, len(line) - len(stripped), stripped))
                continue
            if not stripped or stripped.startswith("#"):
                continue
            found.append(_Line(number, len(line) - len(stripped), stripped))
        return found

    @property
    def line(self) -> _Line | None:
        return self.lines[self.at] if self.at < len(self.lines) else None

    def document(self) -> Table:
        if self.line and (self.line.text == "---" or self.line.text.startswith("--- ")):
            self.at += 1
        if self.line is None or self.line.text == "...":
            return Table(1)
        if self.line.indent == 0 and self.line.text.startswith("%"):
            raise SyntaxTrouble(self.line.number, "directives are not taken here")
        first = self.line
        node = self.block(first.indent, 0)
        if (rest := self.line) is not None and rest.text != "...":
            if rest.text.startswith("---"):
                raise SyntaxTrouble(rest.number, "one document is expected")
            raise SyntaxTrouble(
                rest.number,
                f"this line is indented by {rest.indent}, which no line above it that it could belong to is",
            )
        if isinstance(node, Scalar) and node.is_null:
            return Table(1)
        if not isinstance(node, Table):
            raise SyntaxTrouble(first.number, "keys with values are expected")
        return node

    def block(self, indent: int, depth: int) -> Node:
        """What begins at the next line, which has this indentation."""
        line = self.lines[self.at]
        if depth >= MAX_DEPTH:
            raise SyntaxTrouble(line.number, "the value is nested too deeply")
        if line.text.startswith("\t"):
            raise SyntaxTrouble(line.number, "a tab cannot indent, use spaces")
        if line.text == "-" or line.text.startswith("- "):
            return self.sequence(indent, depth)
        if _KEY.match(line.text):
            return self.mapping(indent, depth)
        self.at += 1
        return self.value(line, line.text, indent - 1, depth)

    def sequence(self, indent: int, depth: int, below_key: bool = False) -> Items:
        number, items = self.lines[self.at].number, []
        while (line := self.line) is not None and line.indent == indent:
            if line.text != "-" and not line.text.startswith("- "):
                break
            rest = line.text[1:].lstrip(" ")
            if not rest or rest.startswith("#"):
                self.at += 1
                items.append(self.nested(line, indent, depth))
                continue
            # What stands behind the dash is a block of its own, further to the right.
            inner = indent + len(line.text) - len(rest)
            self.lines[self.at] = _Line(line.number, inner, rest)
            items.append(self.block(inner, depth + 1))
        # Items may stand right below their key, which the next key ends.
        self.end_of_block(indent + 1 if below_key else indent)
        return Items(number, tuple(items))

    def mapping(self, indent: int, depth: int) -> Table:
        table = Table(self.lines[self.at].number)
        while (line := self.line) is not None and line.indent == indent:
            match = _KEY.match(line.text)
            if match is None:
                break
            key = self.key(line, match[0])
            if key in table.entries:
                first = table.lines[key]
                raise SyntaxTrouble(line.number, f"the key {key} stands on line {first} already")
            rest = line.text[match.end() :].strip()
            self.at += 1
            table.lines[key] = line.number
            if not rest or rest.startswith("#"):
                table.entries[key] = self.nested(line, indent, depth, in_mapping=True)
            else:
                table.entries[key] = self.value(line, rest, indent, depth)
        self.end_of_block(indent)
        return table

    def key(self, line: _Line, text: str) -> str:
        text = text[:-1].strip()
        if text[0] in "\"'":
            return _unquoted(line.number, text)
        if text == "<<":
            raise SyntaxTrouble(line.number, "merge keys are not taken here, write the values out")
        if text.startswith("? "):
            raise SyntaxTrouble(line.number, "a key has to be a text")
        return text

    def end_of_block(self, indent: int) -> None:
        line = self.line
        if line is None or line.indent < indent or line.text in ("---", "..."):
            return
        if line.text.startswith("\t"):
            raise SyntaxTrouble(line.number, "a tab cannot indent, use spaces")
        if line.indent > indent:
            raise SyntaxTrouble(
                line.number,
                f"this line is indented by {line.indent}, which no line above it that it could belong to is",
            )
        raise SyntaxTrouble(
            line.number, f'expected "key: value" or "- item", not {_short(line.text)}'
        )

    def nested(self, above: _Line, indent: int, depth: int, in_mapping: bool = False) -> Node:
        """What stands below a key or a dash."""
        line = self.line
        if line is not None and line.indent > indent:
            return self.block(line.indent, depth + 1)
        is_item = line is not None and (line.text == "-" or line.text.startswith("- "))
        if in_mapping and line is not None and line.indent == indent and is_item:
            return self.sequence(indent, depth + 1, below_key=True)
        return Scalar(above.number, "")

    def value(self, line: _Line, text: str, indent: int, depth: int) -> Node:
        """What stands behind a key or a dash on the same line."""
        if message := _REFUSED.get(text[0]):
            raise SyntaxTrouble(line.number, message)
        if match := _BLOCK.match(text):
            return self.block_text(line, match, indent)
        if text[0] in "[{":
            return self.flow(line, text, depth)
        is_quoted = text[0] in "\"'"
        scalar = _quoted(line.number, text) if is_quoted else _plain(line.number, text)
        self.refuse_continuation(indent)
        return scalar

    def refuse_continuation(self, indent: int) -> None:
        following = self.line
        if following is not None and following.indent > indent:
            raise SyntaxTrouble(
                following.number,
                "this line goes on with the text above it; write that on one line, or begin it with |",
            )

    def block_text(self, line: _Line, match: re.Match[str], indent: int) -> Scalar:
        """A text of several lines, taken from the source as it stands."""
        taken: list[str] = []
        own = indent + int(match[3]) if match[3] else None
        for raw in self.source[line.number :]:
            content = raw.rstrip("\r")
            width = len(content) - len(content.lstrip(" "))
            if content.strip():
                own = width if own is None else own
                if width < own or own <= indent:
                    break
            taken.append(content[own:] if own is not None else "")
        while self.line is not None and self.line.number <= line.number + len(taken):
            self.at += 1
        body = taken
        while body and not body[-1].strip():
            body = body[:-1]
        text = "\n".join(body) if match[1] == "|" else _folded(body)
        tail = {"": "\n" if body else "", "-": "", "+": "\n" * (1 + len(taken) - len(body))}
        return Scalar(line.number, text + tail[match[2]], is_plain=False)

    def flow(self, line: _Line, text: str, depth: int) -> Node:
        """`[...]` or `{...}`, which may go on over lines."""
        flow = _Flow([(line.number, text)])
        while not flow.is_closed():
            if self.line is None:
                raise SyntaxTrouble(line.number, f"the {text[0]} of this line is not closed")
            flow.parts.append((self.line.number, self.line.text))
            self.at += 1
        node = flow.node(depth + 1)
        flow.end()
        return node


def _folded(lines: list[str]) -> str:
    """Lines of a paragraph joined; lines that are indented further stay as they are."""
    text = ""
    for before, line in zip(["", *lines], lines, strict=False):
        if not text and not before:
            text += line if line or not text else ""
            text += "" if line else "\n"
        elif not line:
            text += "\n"
        elif line[0] in " \t" or before[:1] in (" ", "\t"):
            text += "\n" + line
        elif not before:
            text += line
        else:
            text += " " + line
    return text


class _Flow:
    """Characters of a value in one line, wherever its line ends."""

    def __init__(self, parts: list[tuple[int, str]]) -> None:
        self.parts = parts
        self.row = 0
        self.column = 0

    def is_closed(self) -> bool:
        """Whether every bracket has its end."""
        depth, quote = 0, ""
        for _, text in self.parts:
            at = 0
            while at < len(text):
                char = text[at]
                if quote:
                    if char == "\\" and quote == '"':
                        at += 1
                    elif char == quote:
                        quote = ""
                elif char in "\"'" and (at == 0 or text[at - 1] in " ,[{:"):
                    quote = char
                elif char == "#" and (at == 0 or text[at - 1] == " "):
                    break
                elif char in "[{":
                    depth += 1
                elif char in "]}":
                    depth -= 1
                    if depth == 0:
                        return True
                at += 1
        return False

    @property
    def number(self) -> int:
        return self.parts[min(self.row, len(self.parts) - 1)][0]

    def rest(self) -> str:
        """What is left of the line, after spaces and comments."""
        while self.row < len(self.parts):
            text = self.parts[self.row][1]
            while self.column < len(text) and text[self.column] in " \t":
                self.column += 1
            if self.column < len(text) and text[self.column] != "#":
                return text[self.column :]
            self.row, self.column = self.row + 1, 0
        return ""

    def take(self, char: str) -> bool:
        if self.rest().startswith(char):
            self.column += 1
            return True
        return False

    def node(self, depth: int) -> Node:
        if depth >= MAX_DEPTH:
            raise SyntaxTrouble(self.number, "the value is nested too deeply")
        if self.take("["):
            return self.items(depth)
        if self.take("{"):
            return self.table(depth)
        return self.scalar()

    def items(self, depth: int) -> Items:
        number, items = self.number, []
        while not self.take("]"):
            items.append(self.node(depth + 1))
            if self.rest().startswith(":"):
                raise SyntaxTrouble(self.number, "a list has items, not keys; use {key: value}")
            if not self.take(",") and not self.rest().startswith("]"):
                raise SyntaxTrouble(self.number, "a comma or ] is expected")
        return Items(number, tuple(items))

    def table(self, depth: int) -> Table:
        table = Table(self.number)
        while not self.take("}"):
            number, key = self.number, self.scalar().text
            if key in table.entries:
                raise SyntaxTrouble(number, f"the key {key} stands here already")
            table.lines[key] = number
            if self.take(":"):
                is_empty = self.rest()[:1] in ",}"
                table.entries[key] = Scalar(number, "") if is_empty else self.node(depth + 1)
            else:
                raise SyntaxTrouble(number, f"the key {key} has no value; write {key}: VALUE")
            if not self.take(",") and not self.rest().startswith("}"):
                raise SyntaxTrouble(self.number, "a comma or } is expected")
        return table

    def scalar(self) -> Scalar:
        rest, number = self.rest(), self.number
        if not rest:
            raise SyntaxTrouble(number, "a value is expected")
        if message := _REFUSED.get(rest[0]):
            raise SyntaxTrouble(number, message)
        if rest[0] in "\"'":
            length = _quoted_length(number, rest)
            self.column += length
            return Scalar(number, _unquoted(number, rest[:length]), is_plain=False)
        match = re.match(r"(?:[^,\[\]{}:#]|:(?=[^\s,\[\]{}])|(?<=\S)#)+", rest)
        if match is None:
            raise SyntaxTrouble(number, f"a value is expected, not {rest[0]}")
        self.column += match.end()
        return Scalar(number, match[0].strip())

    def end(self) -> None:
        if rest := self.rest():
            raise SyntaxTrouble(self.number, f"nothing is expected here, not {_short(rest)}")


def _plain(number: int, text: str) -> Scalar:
    text = _COMMENT.sub("", text).rstrip()
    if re.search(r":(\s|$)", text):
        raise SyntaxTrouble(number, f'a text with ": " needs quotes: {_short(text)}')
    return Scalar(number, text)


def _quoted(number: int, text: str) -> Scalar:
    length = _quoted_length(number, text)
    rest = text[length:].strip()
    if rest and not (rest.startswith("#") and text[length] in " \t"):
        raise SyntaxTrouble(number, f"nothing is expected after the quotes, not {_short(rest)}")
    return Scalar(number, _unquoted(number, text[:length]), is_plain=False)


def _quoted_length(number: int, text: str) -> int:
    pattern = r'"(?:[^"\\]|\\.)*"' if text[0] == '"' else r"'(?:[^']|'')*'"
    match = re.match(pattern, text)
    if match is None:
        raise SyntaxTrouble(number, f"the quote {text[0]} is not closed on its line")
    return match.end()


def _unquoted(number: int, text: str) -> str:
    inner = text[1:-1]
    if text[0] == "'":
        return inner.replace("''", "'")
    out, at = "", 0
    while at < len(inner):
        char = inner[at]
        if char != "\\":
            out, at = out + char, at + 1
            continue
        code = inner[at + 1]
        if code in _ESCAPES:
            out, at = out + _ESCAPES[code], at + 2
        elif code in _HEX:
            digits = inner[at + 2 : at + 2 + _HEX[code]]
            try:
                out, at = out + chr(int(digits, 16)), at + 2 + len(digits)
            except (OverflowError, ValueError):
                raise SyntaxTrouble(number, f"\\{code}{digits} is no character") from None
        else:
            raise SyntaxTrouble(number, f"\\{code} means nothing; write \\\\ for a backslash")
    return out


def _short(text: str) -> str:
    """The beginning of a text, for messages."""
    return text if len(text) <= 40 else f"{text[:37]}..."
