"""The snippets of docs/acceleration.md run."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "acceleration.md"


def snippets() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


def test_the_snippets_run_one_after_the_other(capsys: pytest.CaptureFixture[str]) -> None:
    names: dict = {}
    for snippet in snippets():
        exec(compile(snippet, str(PAGE), "exec"), names)
    assert names["result"]["x"].shape == (1, 8)
    stage = names["stats"].stage("my model")
    assert 0 < stage.evaluations < stage.exact_evaluations == 30
    assert "my model" in capsys.readouterr().out
    assert names["halved"]["x"].isfinite().all()
    assert ((names["result"]["x"] - 2).abs() < 3).all()


def test_putting_a_policy_on_a_model_takes_ten_lines() -> None:
    code = [line for line in snippets()[0].splitlines() if line and "import" not in line]
    assert len(code) <= 10
