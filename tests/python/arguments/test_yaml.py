"""The reader of YAML against an independent one, and what it refuses."""

import random

import pytest

from dynamo.runtime.arguments import yaml_subset
from dynamo.runtime.arguments.document import Items, SyntaxTrouble, Table, plain

DOCUMENTS = [
    "",
    "# nothing\n",
    "---\na: 1\n...\n",
    "a: 1\nb: two words  # comment\nc: 'it''s'\nd: \"x\\ty \\u00e4\"\n",
    "a:\n  b:\n    c: 1\n  d: null\ne: ~\nf:\n",
    "a:\n- 1\n- two\nb:\n  - x: 1\n    y: 2\n  - - 1\n    - 2\n  -\n    z: 3\n",
    "a: [1, 'b', [c], {d: e}]\nf: {g: 1, 'h i': [2]}\n",
    "a: [\n  1,  # one\n  2,\n]\nb: {\n  c: d,\n}\n",
    "a: |\n  one\n    two\n\n  three\nb: |-\n  x\nc: |+\n  y\n\nd: 1\n",
    "a: >\n  one\n  two\n\n  three\n   more\n  four\nb: >-\n  x\n  y\n",
    "url: http://a:80/x#y\nempty: ''\nneg: -1\nflag: true\nno-way: False\nkey-with-dash: 1\n",
    "a: x#y\n",
    'a: "[not a list]"\n',
    "list:\n- {a: 1}\n- [b]\n",
    "deep:\n  - name: one\n    args:\n      - --x\n      - y\n    env: {A: b}\n  - name: two\n",
    "a : 1\n'b c': 2\n\"d\": 3\n",
    "windows: 1\r\nlines: 2\r\n",
]


@pytest.mark.parametrize("text", DOCUMENTS)
def test_documents_read_as_others_read_them(text):
    yaml = pytest.importorskip("yaml")
    assert as_texts(plain(yaml_subset.parse(text))) == as_texts(yaml.safe_load(text) or {})


def as_texts(value):
    """Numbers as texts: how they are written is the option's business."""
    if isinstance(value, dict):
        return {str(key): as_texts(item) for key, item in value.items()}
    if isinstance(value, list):
        return [as_texts(item) for item in value]
    return value if value is None or isinstance(value, bool) else str(value)


def generated(random_source, depth=0):
    words = [
        "a",
        "two words",
        "x: y",
        "# no",
        "",
        "null",
        "true",
        "1",
        "-",
        "- a",
        "[",
        "ä",
        "a\nb",
        "'",
        '"',
    ]
    kind = random_source.choice(["scalar", "list", "table"] if depth < 4 else ["scalar"])
    if kind == "list":
        return [generated(random_source, depth + 1) for _ in range(random_source.randint(0, 3))]
    if kind == "table":
        keys = random_source.sample(words[:8] + ["k1", "k2", "k3"], random_source.randint(0, 4))
        return {key: generated(random_source, depth + 1) for key in keys}
    return random_source.choice([*words, True, False, None, 5, -3, 1.5])


@pytest.mark.parametrize("is_flow", [False, True])
def test_whatever_another_one_writes_is_read_back(is_flow):
    yaml = pytest.importorskip("yaml")
    source = random.Random(5)
    for _ in range(500):
        value = {"top": generated(source)}
        # Its way of folding long lines is not ours to read.
        text = yaml.safe_dump(value, default_flow_style=is_flow, width=10**9, allow_unicode=True)
        if "? " in text:
            continue
        try:
            read = plain(yaml_subset.parse(text))
        except SyntaxTrouble as error:
            # Quoted texts with line breaks go on in the next line, which is refused.
            assert "quote" in str(error), text
            continue
        assert as_texts(read) == as_texts(value), text


def test_every_key_has_its_line():
    table = yaml_subset.parse("# c\na: 1\n\nb:\n  c: 2\n  d:\n  - e: 3\n")
    assert table.lines == {"a": 2, "b": 4}
    inner = table.entries["b"]
    assert isinstance(inner, Table) and inner.lines == {"c": 5, "d": 6}
    items = inner.entries["d"]
    assert isinstance(items, Items) and items.items[0].lines == {"e": 7}


@pytest.mark.parametrize(
    ("text", "line", "says"),
    [
        ("a: &x 1\n", 1, "anchors"),
        ("a: 1\nb: *x\n", 2, "anchors"),
        ("a: !int 1\n", 1, "tags"),
        ("<<: {a: 1}\n", 1, "merge keys"),
        ("a: 1\n  b: 2\n", 2, "goes on with the text above"),
        ("a:\n\tb: 1\n", 2, "tab"),
        ("a: 1\na: 2\n", 2, "stands on line 1 already"),
        ("a: [1, 2\nb: 3\n", 1, "not closed"),
        ("a: {b: 1, b: 2}\n", 1, "stands here already"),
        ('a: "x\n', 1, "not closed"),
        ("a: 'x' y\n", 1, "after the quotes"),
        ("a: b: c\n", 1, "needs quotes"),
        ("a: 1\n---\nb: 2\n", 2, "one document"),
        ("a:\n    b: 1\n  c: 2\n", 3, "indented"),
        ("- a\n", 1, "keys with values"),
        ("just text\n", 1, "keys with values"),
        ("a: 1\nnonsense\n", 2, "expected"),
        ('a: "\\q"\n', 1, "means nothing"),
        ("a: @x\n", 1, "needs quotes"),
        ("a: [b c: d]\n", 1, "keys"),
        ("a: {b}\n", 1, "no value"),
    ],
)
def test_what_is_refused_says_where_and_why(text, line, says):
    with pytest.raises(SyntaxTrouble, match=says) as caught:
        yaml_subset.parse(text)
    assert caught.value.line == line


def test_depth_is_bounded():
    with pytest.raises(SyntaxTrouble, match="too deeply"):
        yaml_subset.parse("a: " + "[" * 1_000 + "]" * 1_000)
    with pytest.raises(SyntaxTrouble, match="too deeply"):
        yaml_subset.parse("\n".join(" " * depth + "a:" for depth in range(1_000)))


def test_damaged_documents_end_in_one_kind_of_error():
    source = random.Random(7)
    whole = "\n".join(DOCUMENTS)
    for _ in range(3_000):
        text = list(whole[(at := source.randrange(len(whole))) : at + source.randrange(200)])
        for _ in range(source.randrange(4)):
            if text:
                text[source.randrange(len(text))] = source.choice("[]{}:,'\"|>-#\n\t &*!%\\x")
        try:
            yaml_subset.parse("".join(text))
        except SyntaxTrouble as error:
            assert error.line >= 1
