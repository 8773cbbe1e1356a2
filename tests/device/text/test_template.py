"""Chat templates: what models expect is there, what strangers could abuse is not."""

from __future__ import annotations

import gc
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from device.text import template as module
from device.text import template_process
from device.text.template import ChatTemplate
from protos.errors import InvalidInput
from tests.support.tokenizer_files import CHATML

MESSAGES = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi <b>\u00e9</b>"}]


def render(source: str, *, add_generation_prompt: bool = True, **special_tokens: str) -> str:
    template = ChatTemplate(source, special_tokens, lambda: datetime(2026, 11, 23, tzinfo=UTC))
    return template.render({"messages": MESSAGES}, add_generation_prompt=add_generation_prompt)


def test_chatml() -> None:
    turns = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi <b>é</b><|im_end|>\n"
    assert render(CHATML, add_generation_prompt=False) == turns
    assert render(CHATML) == turns + "<|im_start|>assistant\n"


def test_blocks_are_trimmed_as_templates_are_written_for() -> None:
    source = """[gMASK]<sop>{% for m in messages %}
    {% if true %}
<|{{ m.role }}|>
{{ m.content }}
    {% endif %}
{% endfor %}
<|assistant|>
"""
    assert render(source) == "[gMASK]<sop><|system|>\nBe brief.\n<|user|>\nHi <b>é</b>\n<|assistant|>"


def test_what_models_use() -> None:
    assert render("{{ bos_token }}{{ eos_token }}", bos_token="<s>", eos_token="</s>") == "<s></s>"
    assert render("{{ strftime_now('%d %b %Y') }}") == "23 Nov 2026"
    assert render("{{ messages[1] | tojson }}") == '{"role": "user", "content": "Hi <b>é</b>"}'
    assert render("{{ {'b': 1, 'a': 2} | tojson(indent=2) }}") == '{\n  "b": 1,\n  "a": 2\n}'
    assert render("{% for m in messages %}{% if loop.first %}{% continue %}{% endif %}{{ m.role }}{% break %}{% endfor %}") == "user"
    assert (
        render("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n * 3 % 4 }}{{ '-' * 3 }}")
        == "2---"
    )
    assert render("{{ ' x '.strip().upper() }}{{ 'a,b'.split(',')[-1] }}{{ '%s!' % 'y' }}") == "Xby!"


@pytest.mark.parametrize(
    ("source", "text"),
    [
        (
            "{% for m in messages %}{% generation %}{% set x = m.role %}{{ x }}{% endgeneration %},{% endfor %}{{ x is defined }}",
            "system,user,False",
        ),
        ("{%- generation -%} {{ messages[1].role }} {%- endgeneration -%}", "user"),
        ("{{ '%s has %05.1f' | format('it', 2.25) }}", "it has 002.2"),
        ("{{ '%-6s|' | format('ab') }}{{ '{:>4}|{n}'.format('ab', n=1) }}", "ab    |  ab|1"),
        ("{{ 'a\nb' | indent(2) }}{{ 'a\nb' | indent(width=1, first=true) }}", "a\n  b a\n b"),
        (
            "{{ 'x' | center(5) }}|{{ 'x'.ljust(3) }}|{{ 'x'.center(3) }}|{{ '7'.zfill(3) }}|{{ 'a\t'.expandtabs(2) }}",
            "  x  |x  | x |007|a ",
        ),
        ("{{ '-' * 12000 }}{{ '%1000d' % 7 }}{{ 2 ** 70 }}", "-" * 12000 + " " * 999 + "7" + str(2**70)),
        ("{{ tools is defined }}{{ tools is none }}{{ documents is none }}{{ builtin_tools is defined }}", "TrueTrueTrueFalse"),
        ("{{ dict(a=1) | tojson(separators=(',', ':')) }}{{ [1] | tojson(indent=20) }}", '{"a":1}[\n' + " " * 20 + "1\n]"),
    ],
)
def test_what_transformers_renders_is_rendered(source: str, text: str) -> None:
    """The values are those of its apply_chat_template, with tokenize=False."""
    assert render(source) == text


def test_what_the_template_says_no_to_is_one_line() -> None:
    with pytest.raises(InvalidInput) as caught:
        render("{{ raise_exception('roles must\nalternate') }}")
    assert caught.value.detail == "the model's chat template refuses these messages: roles must alternate"
    assert caught.value.advice


@pytest.mark.parametrize(
    "source", ["{{ messages[7].role.x }}", "{{ 1 / 0 }}", "{{ nothing.at.all }}", "{{ messages | nosuch }}", "{{ 'a' + 1 }}"]
)
def test_a_failing_template_is_an_input_error(source: str) -> None:
    with pytest.raises(InvalidInput, match="chat template"):
        render(source)


@pytest.mark.parametrize(
    "source",
    [
        "{% if %}",
        "{{",
        "{% for m in messages %}",
        "{% nosuch %}",
        "{% for m in messages %}" * 25 + "{% endfor %}" * 25,
        "{% if x %}" * 120 + "{% endif %}" * 120,
        "{{ " + "9" * 5000 + " }}",
        "{{" + "(" * 300 + "1" + ")" * 300 + "}}",
    ],
    ids=["if", "open", "for", "tag", "loops", "branches", "number", "brackets"],
)
def test_a_template_that_is_none(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = ChatTemplate(source, {}, lambda: datetime.now(UTC))
    for _ in range(2):
        with pytest.raises(InvalidInput, match="is no template") as caught:
            template.render({"messages": MESSAGES}, add_generation_prompt=True)
        assert caught.value.advice
        monkeypatch.setattr(template_process, "_start", lambda: pytest.fail("it is known to be none"))


@pytest.mark.parametrize(
    "source",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }}",
        "{{ messages.append(1) }}",
        "{{ messages[0].update(role='x') }}",
        "{{ cycler.__init__.__globals__.os.system('true') }}",
        "{% include '/etc/passwd' %}",
        "{{ 'x' * 1000000000 }}",
        "{{ 1000000000 * 'x' }}",
        "{{ [0] * 1000000000 }}",
        "{{ '%999999999d' % 1 }}",
        "{{ '%*d' % (999999999, 1) }}",
        "{{ 'x'.ljust(1000000000) }}",
        "{{ '{:1000000000}'.format(1) }}",
        "{{ 'x' | center(1000000000) }}",
        "{{ 'x' | indent(1000000000, true) }}",
        "{% for a in range(1000000000) %}{% endfor %}",
    ],
)
def test_the_sandbox_holds(source: str) -> None:
    with pytest.raises(InvalidInput):
        render(source)


def test_the_output_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MAX_CHARACTERS", 1000)
    assert len(render("{% for a in range(1000) %}x{% endfor %}")) == 1000
    with pytest.raises(InvalidInput, match="longer than 1000 characters"):
        render("{% for a in range(1001) %}x{% endfor %}")


@pytest.mark.parametrize(
    "source",
    [
        "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}{% endfor %}",
        "{% macro f(n) %}{% if n %}{{ f(n - 1) }}{{ f(n - 1) }}{% endif %}{% endmacro %}{{ f(60) }}",
        "{% set n = namespace(x='xxxxxxxx') %}{% for a in range(40) %}{% set n.x = n.x ~ n.x %}{% endfor %}{{ n.x | length }}",
        "{{ 10 ** (10 ** 10) }}",
        "{% set n = namespace(x=[1]) %}{% for a in range(60) %}{% set n.x = [n.x, n.x] %}{% endfor %}{{ n.x }}",
        "{{ ('a' * 9999) | replace('a', 'b' * 9999) | replace('b', 'c' * 9999) }}",
    ],
)
def test_what_burns_time_or_memory_is_stopped(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(template_process, "SECONDS", 1.0)
    template = ChatTemplate(source + "{{ messages[0].content }}", {}, lambda: datetime.now(UTC))
    for _ in range(2):  # and again, by a process of its own
        with pytest.raises(InvalidInput, match=r"took too much time or memory|MemoryError") as caught:
            template.render({"messages": MESSAGES}, add_generation_prompt=True)
        assert caught.value.advice


def test_a_process_ends_with_its_template() -> None:
    template = ChatTemplate(CHATML, {}, lambda: datetime.now(UTC))
    template.render({"messages": MESSAGES}, add_generation_prompt=True)
    assert template._process._child is not None
    process = template._process._child.process
    assert process.poll() is None
    del template
    gc.collect()
    assert process.poll() is not None


def test_many_threads_share_a_template() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {}, lambda: datetime.now(UTC))
    with ThreadPoolExecutor(4) as pool:
        texts = [str(number) * 100_000 for number in range(8)]
        found = pool.map(lambda text: template.render({"messages": [{"role": "user", "content": text}]}, add_generation_prompt=True), texts)
        assert list(found) == texts


def test_half_a_surrogate_pair_goes_through_and_is_the_tokenizers_to_refuse() -> None:
    template = ChatTemplate("{{ messages[0].content }}", {}, lambda: datetime.now(UTC))
    assert template.render({"messages": [{"role": "user", "content": "\ud800"}]}, add_generation_prompt=True) == "\ud800"


def test_the_callers_messages_are_not_touched() -> None:
    message = {"role": "user", "content": "x"}
    ChatTemplate(CHATML, {}, lambda: datetime.now(UTC)).render({"messages": [message]}, add_generation_prompt=True)
    assert message == {"role": "user", "content": "x"}
