from __future__ import annotations

import pytest

from fleet.cli.output import Column, bytes_text, count_text, figure, print_table


@pytest.mark.parametrize(
    ("count", "text"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (150 << 20, "150 MiB"), (3 << 40, "3072 GiB")]
)
def test_bytes(count: int, text: str) -> None:
    assert bytes_text(count) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "-"), (0.0, "0"), (12345.6, "12,346"), (12.34, "12.3"), (1.234, "1.23"), (0.1234, "0.123"), (0.00001234, "1.2e-05")],
)
def test_figures(value: float | None, text: str) -> None:
    assert figure(value) == text


def test_counts() -> None:
    assert (count_text(1, "device"), count_text(1200, "device")) == ("1 device", "1,200 devices")


def test_a_table_loses_nothing_at_80_columns(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    names = [f"gateway-in-the-second-hall-of-the-northern-plant-number-{number}[bold]" for number in range(200)]
    print_table(
        [Column("name"), Column("kind"), Column("J", True)], [[name, "a-profile-with-a-long-name-of-its-own", "123,456"] for name in names]
    )
    out = capsys.readouterr().out
    assert max(map(len, out.splitlines())) <= 80
    first_column = "".join(line[:40].split()[0] if line[:1] != " " else "" for line in out.splitlines()[1:3])
    assert first_column
    squeezed = "".join(out.split())
    assert squeezed.count("123,456") == 200
    assert "[bold]" in squeezed or "[bol" in squeezed
