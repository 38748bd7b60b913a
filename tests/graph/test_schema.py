"""The JSON schema against the files that the checker refuses, and those that it takes: an editor
must say the same."""

import json
import pathlib
import re

import jsonschema
import pytest
import yaml

from conftest import DATA, ROOT

SNAPSHOTS = ROOT / "lib/graph/src/schema/snapshots"

# Two keys of one mapping are beyond a JSON schema; so is what a long text is cut from.
CUT = re.compile(r"\.\.\. \(\d+ bytes\)")


class Loader(yaml.SafeLoader):
    """Numbers and booleans as in YAML 1.2, in which `on` is a text."""


Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
Loader.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("^(?:true|false)$"), list("tf"))


@pytest.fixture(scope="module")
def validator():
    schema = json.loads((ROOT / "docs/reference/graph.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    return jsonschema.Draft202012Validator(schema)


def broken():
    """Rule and text of each broken file of the checker's snapshot."""
    [snapshot] = SNAPSHOTS.glob("*every_rule*.snap")
    text = snapshot.read_text().split("---\n", 2)[2]
    for part in text.strip().split("\n\n# "):
        rule, _, rest = part.removeprefix("# ").partition("\n")
        file, _, _ = rest.partition("\n=> ")
        if not CUT.search(file):
            yield rule, file


def test_the_schema_refuses_what_the_checker_refuses(validator):
    rules = list(broken())
    assert len(rules) > 150
    accepted = [rule for rule, text in rules if validator.is_valid(yaml.load(text, Loader))]
    assert accepted == []


@pytest.mark.parametrize("path", sorted(DATA.glob("*.yaml")), ids=lambda path: path.name)
def test_the_schema_takes_what_the_checker_takes(validator, path: pathlib.Path):
    validator.validate(yaml.load(path.read_text(), Loader))
