"""The check of the numbers in the docs: it finds what is wrong."""

import check_numbers
import keras
import pytest

pytestmark = pytest.mark.skipif(keras.backend.backend() != "torch", reason="alike on all backends")

PAGE = """# Numbers 9.9

<!-- numbers: python -c "print('kd 81.234 +- 0.5, 1200 images, 4')" -->
SD-KD gains 81.23 of 5 seeds, `3.3` and {claim}.

<!-- numbers:
python -c "print('kd 81.234 +- 0.5, 1200 images, 4')" -->
| kd | {cell} | 1,200 |
|---|---|---|

Nobody knows where 7.5 comes from.

```
7.25
```

<!-- numbers: as the paper prints them -->
The paper has 75.6.
"""


@pytest.mark.parametrize(
    ("claim", "cell", "missing"),
    [
        ("-0.5", "81.2", []),
        ("0.6", "81.2", ["0.6"]),
        ("6 %", "81.2", ["6"]),
        ("81.235", "81.2", ["81.235"]),
        ("0.5", "5", ["5"]),
        ("0.5", "81.3", ["81.3"]),
    ],
)
def test_numbers_must_be_printed(tmp_path, claim, cell, missing):
    page = tmp_path / "page.md"
    page.write_text(PAGE.format(claim=claim, cell=cell))
    mistakes, unmarked = check_numbers.check(page, {})
    assert [x.split("not printed: ")[1] for x in mistakes] == missing
    assert unmarked == ["page.md: Nobody knows where 7.5 comes from."]


def test_command_that_fails_is_told(tmp_path):
    page = tmp_path / "page.md"
    page.write_text("<!-- numbers: python -c 'raise ValueError(3)' -->\nIt gives 3.5.\n")
    with pytest.raises(RuntimeError, match="ValueError: 3"):
        check_numbers.check(page, {})
