"""An HTML document that needs no network: its style and its script are in it, and its policy lets nothing else run or load."""

from __future__ import annotations

from html import escape

from autoslim.report.resource import policy_source


def render_document(*, title: str, style: str, body: str, script: str = "", images: bool = False) -> str:
    """`title` is plain text, `body` markup; with `images` the document may have pictures as data URIs."""
    policy = ["default-src 'none'", f"style-src {policy_source(style)}"]
    # Only these blocks are allowed: not even markup that slipped in could bring its own, or load anything.
    policy += [f"script-src {policy_source(script)}"] if script else []
    policy += ["img-src data:"] if images else []
    run = f"<script>{script}</script>\n" if script else ""
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{"; ".join([*policy, "base-uri 'none'", "form-action 'none'"])}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
{run}</body>
</html>
"""
