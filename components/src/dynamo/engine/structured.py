"""Structured output as requests carry it, before an engine's own form of it. Pure."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

#: Forms of which a request has at most one.
FORMS = ("json_object", "json", "regex", "choice", "grammar", "structural_tag")

#: A rule of a Lark grammar (`start: ...`); those of GBNF and EBNF are written `root ::= ...`.
_LARK_RULE = re.compile(r"^\s*\??[A-Za-z_]\w*\s*:(?!:=)", re.MULTILINE)


@dataclass(frozen=True)
class Structured:
    """What the whole text of an answer must match.

    `form` is one of FORMS; `value` is the schema as JSON text, the expression, the texts, the
    grammar, or True. `whitespace` is a regular expression of the white space between JSON tokens:
    an empty one is none at all, `None` leaves it to the engine.
    """

    form: str
    value: Any
    whitespace: str | None = None

    @classmethod
    def read(cls, guided: Mapping[str, Any] | None) -> "Structured | None":
        """Of `sampling_options.guided_decoding`, ours or the published form of it."""
        if not guided:
            return None
        given = [(form, guided[form]) for form in FORMS if guided.get(form)]
        if not given:
            return None
        if len(given) > 1:
            names = " and ".join(form for form, _ in given)
            raise ValueError(f"guided_decoding has {names}; an answer has one form")
        form, value = given[0]
        if form in ("json", "structural_tag") and not isinstance(value, str):
            value = json.dumps(value)
        return cls(form, value, guided.get("whitespace_pattern"))

    def is_lark(self) -> bool:
        """Whether it is a grammar in Lark's form."""
        return self.form == "grammar" and bool(_LARK_RULE.search(self.value))

    def choice_as_regex(self) -> str:
        """The texts to choose from as a regular expression, for engines that know no choices."""
        return "|".join(f"({re.escape(text)})" for text in self.value)

    def refuse_whitespace(self, engine: str, flag: str) -> None:
        """For engines that take a pattern of white space for all requests only, by a flag.

        Raises:
            ValueError: this request has one of its own.
        """
        if self.whitespace is not None:
            raise ValueError(
                f"{engine} takes no whitespace_pattern with a request; "
                f"leave it out, or start the worker with {flag}"
            )
