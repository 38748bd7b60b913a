#!/usr/bin/env python3
"""Writes the golden files that the Rust tests compare with, from Hugging Face transformers.

    python3 -m venv V && V/bin/pip install transformers jinja2 blake3
    make models
    V/bin/python lib/llm/tests/golden/make_golden.py

Works offline, on the tokenizers in .models/tokenizers and the texts in corpus.json. Run it again
after a change of the corpus, and look at the difference before committing it.
"""

import json
import os
import pathlib
import re
import struct

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TRANSFORMERS_VERBOSITY"] = "error"

import blake3  # noqa: E402
import jinja2  # noqa: E402
import transformers  # noqa: E402
from transformers import PreTrainedTokenizerFast  # noqa: E402
from transformers.utils import chat_template_utils  # noqa: E402

HERE = pathlib.Path(__file__).resolve().parent
TOKENIZERS = HERE.parents[3] / ".models" / "tokenizers"

# Each tokenizer, and the templates to render with it: its own (None) or one of ours.
FAMILIES = {
    "qwen3": [None],
    "llama3_1": [None, "headers"],
    "gemma3": [None],
    "deepseek_v3": [None],
    "gptoss": ["harmony"],
}

# More ids than this are stored as length and hash.
MOST_IDS = 400

# The time that templates see: 2024-07-26 12:00 UTC.
NOW = 1721995200


class FrozenTime:
    """datetime for the templates' strftime_now."""

    @staticmethod
    def now():
        import datetime

        return datetime.datetime.fromtimestamp(NOW, datetime.timezone.utc)


def expand(text):
    """A corpus text: a string, or {"repeat": [...], "times": n}."""
    if isinstance(text, str):
        return text
    return "".join(part for _ in range(text["times"]) for part in text["repeat"])


def stored(ids):
    ids = list(ids)
    if len(ids) <= MOST_IDS:
        return ids
    packed = struct.pack(f"<{len(ids)}I", *ids)
    return {"len": len(ids), "blake3": blake3.blake3(packed).hexdigest()}


def load(name):
    folder = TOKENIZERS / name
    config = json.loads((folder / "tokenizer_config.json").read_text())
    special = {}
    for key, value in config.items():
        content = value.get("content") if isinstance(value, dict) else value
        if key.endswith("_token") and isinstance(content, str):
            special[key] = content
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        clean_up_tokenization_spaces=False,
        **special,
    )
    return tokenizer, config.get("chat_template"), special


def parsed_arguments(message):
    message = json.loads(json.dumps(message))
    for call in message.get("tool_calls") or []:
        if isinstance(call["function"]["arguments"], str):
            call["function"]["arguments"] = json.loads(call["function"]["arguments"])
    return message


def render(source, case, special):
    """What apply_chat_template does between its arguments and its string."""
    messages = case["messages"]
    if "developer" not in source:
        messages = [
            {**message, "role": "system" if message["role"] == "developer" else message["role"]}
            for message in messages
        ]
    if "arguments | tojson" in source and "arguments is string" not in source:
        # Clients send arguments as text; such a template would write them as a JSON string.
        messages = [parsed_arguments(message) for message in messages]
    rendered, _ = chat_template_utils.render_jinja_template(
        conversations=[messages],
        tools=case.get("tools"),
        chat_template=source,
        add_generation_prompt=case.get("add_generation_prompt", False),
        continue_final_message=case.get("continue_final_message", False),
        **{**special, **case.get("kwargs", {})},
    )
    return rendered[0]


def golden(name, templates, corpus):
    tokenizer, own_template, special = load(name)
    texts = []
    for text in corpus["texts"]:
        source = expand(text["text"])
        ids = tokenizer(source, add_special_tokens=False)["input_ids"]
        entry = {"name": text["name"], "ids": stored(ids)}
        decoded = tokenizer.decode(ids, skip_special_tokens=False)
        if decoded != source:
            entry["decoded"] = decoded
        texts.append(entry)
    with_special = tokenizer("Hello world", add_special_tokens=True)["input_ids"]
    renders = []
    for template in templates:
        source = own_template
        if template is not None:
            source = (HERE / "templates" / f"{template}.jinja").read_text()
        for case in corpus["conversations"]:
            entry = {"case": case["name"], "template": template}
            try:
                entry["text"] = render(source, case, special)
            except jinja2.exceptions.UndefinedError:
                continue
            except jinja2.exceptions.TemplateError as error:
                entry["raises"] = str(error)
            except (TypeError, ValueError, KeyError):
                # Python's own errors: what to do there is each implementation's business.
                continue
            if "'type': 'text'" in entry.get("text", ""):
                # The template printed the list of parts; ours gets the parts' text instead.
                continue
            if "text" in entry:
                ids = tokenizer(entry["text"], add_special_tokens=False)["input_ids"]
                entry["ids"] = stored(ids)
                if len(entry["text"]) > 20_000:
                    text = entry.pop("text").encode()
                    entry["long_text"] = {"len": len(text), "blake3": blake3.blake3(text).hexdigest()}
            renders.append(entry)
    return {
        "transformers": transformers.__version__,
        "with_special": with_special,
        "texts": texts,
        "renders": renders,
    }


def main():
    chat_template_utils.datetime = FrozenTime
    corpus = json.loads((HERE / "corpus.json").read_text())
    for case in corpus["conversations"]:
        for message in case["messages"]:
            if isinstance(message.get("content"), dict) and "repeat" in message["content"]:
                message["content"] = expand(message["content"])
    for name, templates in FAMILIES.items():
        text = json.dumps(golden(name, templates, corpus), ensure_ascii=False, indent=1)
        # One list of numbers a line.
        text = re.sub(r"\[[\d,\s]+\]", lambda ids: re.sub(r"\s+", "", ids.group()), text)
        (HERE / f"{name}.json").write_text(text + "\n")
        print(name, len(text))


if __name__ == "__main__":
    main()
