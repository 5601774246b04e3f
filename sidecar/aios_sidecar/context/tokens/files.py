"""Tokenizers that a user gives: a directory per model with `tokenizer.json` and the chat template (extra `tokenizers`).

The template is `chat_template.jinja`, or the field `chat_template` of `tokenizer_config.json`, as models are published with. Templates are
programs: they run in Jinja's sandbox.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from aios_sidecar.context.tokens.errors import UnknownTokenizer
from aios_sidecar.context.tokens.models import DECLARED, Overheads, TokenCounter

_PROBE: Final = "x"


class _Vocabulary:
    def __init__(self, path: Path) -> None:
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise UnknownTokenizer(f"{path} needs the package tokenizers, which is not installed (extra tokenizers)") from None
        try:
            self._tokenizer = Tokenizer.from_file(str(path))
        except Exception as problem:  # noqa: BLE001  the library raises plain Exception for every fault of the file
            raise UnknownTokenizer(f"{path} must be a tokenizer.json: {problem}") from None
        self._tokenizer.no_truncation()
        self._tokenizer.no_padding()

    def count(self, text: str) -> int:
        return len(self._tokenizer.encode(text, add_special_tokens=False).ids)


class ChatTemplate:
    """Renders a request as the model sees it, and counts that."""

    def __init__(self, source: str, vocabulary: _Vocabulary, special: Mapping[str, str], where: Path) -> None:
        try:
            from jinja2 import TemplateError
            from jinja2.sandbox import ImmutableSandboxedEnvironment
        except ImportError:
            raise UnknownTokenizer(f"{where} needs the package jinja2, which is not installed (extra tokenizers)") from None

        def refuse(message: str) -> None:
            raise TemplateError(message)

        environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        environment.filters["tojson"] = lambda value, indent=None: json.dumps(value, ensure_ascii=False, indent=indent)
        environment.globals["raise_exception"] = refuse
        try:
            self._template = environment.from_string(source)
        except TemplateError as problem:
            raise UnknownTokenizer(f"the chat template in {where} must be Jinja: {problem}") from None
        self._error = TemplateError
        self._vocabulary = vocabulary
        self._special = special
        self._where = where

    def count_messages(self, messages: Sequence[Mapping[str, Any]]) -> int:
        """Tokens of the whole request, the beginning of the answer included. Raises UnknownTokenizer when the template refuses it."""
        try:
            text = self._template.render(messages=list(messages), add_generation_prompt=True, **self._special)
        except (self._error, TypeError, ValueError) as problem:
            raise UnknownTokenizer(f"the chat template in {self._where} refuses these messages: {problem}") from None
        return self._vocabulary.count(text)


def load(directory: Path) -> TokenCounter:
    """The counter of the model in `directory`. Raises UnknownTokenizer, which names the file and what must be true of it."""
    vocabulary = _Vocabulary(_existing(directory / "tokenizer.json"))
    settings = _settings(directory / "tokenizer_config.json")
    source = settings.get("chat_template")
    separate = directory / "chat_template.jinja"
    if separate.is_file():
        source = separate.read_text(encoding="utf-8")
    if not isinstance(source, str):
        return TokenCounter(f"files:{directory.name}", DECLARED, table=vocabulary)
    special = {name: _text(settings.get(name)) for name in ("bos_token", "eos_token", "unk_token", "pad_token")}
    template = ChatTemplate(source, vocabulary, special, directory)
    return TokenCounter(f"files:{directory.name}", _measured(template, vocabulary), table=vocabulary, template=template)


def load_all(root: Path) -> dict[str, TokenCounter]:
    """One counter per directory below `root` with a `tokenizer.json`; the directory is named as the model, with `--` for a slash."""
    if not root.is_dir():
        return {}
    found = (each for each in sorted(root.iterdir()) if (each / "tokenizer.json").is_file())
    return {each.name.replace("--", "/"): load(each) for each in found}


def _measured(template: ChatTemplate, vocabulary: _Vocabulary) -> Overheads:
    """What the template adds, measured: the most that one more message of either side takes, and what is left for the request."""
    turns = [{"role": role, "content": _PROBE} for role in ("user", "assistant", "user", "assistant", "user")]
    counts = [template.count_messages(turns[:length]) for length in (1, 3, 5)]
    text = vocabulary.count(_PROBE)
    per_turn = max(counts[1] - counts[0], counts[2] - counts[1])
    message = max(1, per_turn - 2 * text)
    return Overheads(request=max(DECLARED.request, counts[0]), message=message, name=DECLARED.name, call=DECLARED.call)


def _existing(path: Path) -> Path:
    if not path.is_file():
        raise UnknownTokenizer(f"{path} must exist")
    return path


def _settings(path: Path) -> Mapping[str, Any]:
    if not path.is_file():
        return {}
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError) as problem:
        raise UnknownTokenizer(f"{path} must be JSON: {problem}") from None
    if not isinstance(parsed, dict):
        raise UnknownTokenizer(f"{path} must be a JSON object")
    return parsed


def _text(token: object) -> str:
    if isinstance(token, dict):
        token = token.get("content")
    return token if isinstance(token, str) else ""
