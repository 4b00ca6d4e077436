"""A report as one HTML page that needs no other file."""

from __future__ import annotations

import base64
import html
import os
import secrets
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gradhess.curvature import _figure

if TYPE_CHECKING:
    from gradhess.curvature._report import CurvatureReport

PAGE: Final = """<!doctype html>
<html lang="en">
<meta charset="utf-8">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; color: #22262b; max-width: 70em; margin: 2em auto; padding: 0 1em; }}
img {{ width: 100%; height: auto; }}
table {{ border-collapse: collapse; }}
td {{ padding: 0.2em 1.2em 0.2em 0; border-bottom: 1px solid #e5e7eb; }}
td:nth-child(2) {{ text-align: right; font-variant-numeric: tabular-nums; }}
td:nth-child(3), footer {{ color: #6b7280; }}
</style>
<h1>Gradient noise against curvature</h1>
<p>{title}</p>
<img alt="C along the eigenvectors of H over its eigenvalues, with the fit; spectra; commutator"
src="data:image/png;base64,{image}">
<table>
{rows}
</table>
<footer><p>C is the covariance of mini-batch gradients, H the mean per-sample Hessian, M the mean of its square, over
the same samples. Made by gradhess.</p></footer>
</html>
"""


def write(report: CurvatureReport, path: Path) -> None:
    """Write the page, or leave what was there: the file appears in one step."""
    rows = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in report.rows()
    )
    image = base64.b64encode(_figure.png(report)).decode("ascii")
    page = PAGE.format(title=html.escape(report.title()), image=image, rows=rows)
    temporary = path.with_name(f".{path.stem}.{secrets.token_hex(8)}{path.suffix}")
    try:
        temporary.write_text(page, encoding="utf-8")
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
