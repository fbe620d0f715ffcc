"""The page that `skald trace --html` writes: a text with its copied spans, and where they stand. Nothing is loaded."""

from __future__ import annotations

from html import escape

from launch.inference.tracing import Trace, TracedSpan

STYLE = """
:root { color-scheme: light dark; --text: #1d1d1f; --page: #ffffff; --faint: #6b6b70; --line: #dddde2;
  --s1: #fdf3c4; --s2: #fbe08a; --s3: #f8c27c; --s4: #f3a17a; --s5: #ec7f78; }
@media (prefers-color-scheme: dark) { :root { --text: #e8e8ea; --page: #18181b; --faint: #a0a0a8; --line: #3a3a40;
  --s1: #3d3820; --s2: #574a1c; --s3: #6a431d; --s4: #75351f; --s5: #82282a; } }
body { margin: 2rem auto; max-width: 46rem; padding: 0 1rem; font: 1rem/1.6 Georgia, serif; color: var(--text);
  background: var(--page); }
h1 { font-size: 1.3rem; } h2 { font-size: 1.05rem; margin-top: 2rem; }
.text { white-space: pre-wrap; overflow-wrap: anywhere; }
mark { color: var(--text); border-radius: 2px; }
.s1 { background: var(--s1); } .s2 { background: var(--s2); } .s3 { background: var(--s3); }
.s4 { background: var(--s4); } .s5 { background: var(--s5); }
sup a, ol a { color: var(--faint); text-decoration: none; } sup { font-size: 0.7em; line-height: 0; }
.faint, th { color: var(--faint); font-weight: normal; } li { margin: 0.6rem 0; overflow-wrap: anywhere; }
.table { overflow-x: auto; } table { border-collapse: collapse; font: 0.85rem/1.5 system-ui, sans-serif; }
th, td { padding: 0.2rem 0.6rem; text-align: right; border-bottom: 1px solid var(--line); }
th, td { white-space: nowrap; } th:first-child { text-align: left; }
@media print { body { margin: 0; max-width: none; } mark { print-color-adjust: exact; } }
"""
SHADES = (4.0, 3.0, 2.0, 1.5, 1.0)  # times the least length: from these on s5, s4, …


def html_page(traced: Trace, run: str, name: str) -> str:
    """A trace as one page, whose text is escaped. `run`, `name`: of what was traced, for the title."""
    title = f"{escape(name)} in the training text of {escape(run)}"
    notes = "\n".join(note(number, span) for number, span in enumerate(traced.spans, 1))
    where = f"<h2>Where the spans stand</h2>\n<ol>\n{notes}\n</ol>" if traced.spans else ""
    return f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>{STYLE}</style>
</head>
<body>
<h1>{title}</h1>
<p class="faint">Marked: spans of {traced.least} tokens and more that stand in the training text, by their tokens, from:
{legend(traced)}</p>
<div class="text">{marked_text(traced)}</div>
{where}
<h2>How new the text is</h2>
{table(traced)}
</body>
</html>
"""


def shade(tokens: int, least: int) -> str:
    """The class of a span of so many tokens."""
    return f"s{len(SHADES) - next(index for index, times in enumerate(SHADES) if tokens >= times * least)}"


def legend(traced: Trace) -> str:
    """The least length of each shade."""
    steps = [round(times * traced.least) for times in reversed(SHADES)]
    return " ".join(f'<mark class="s{number}">&nbsp;{step}&nbsp;</mark>' for number, step in enumerate(steps, 1))


def marked_text(traced: Trace) -> str:
    """The text with its spans marked by length, and a link to its note behind each."""
    shown = []
    for segment in traced.segments:
        text = escape(segment.text)
        if segment.length:
            tokens = f"{segment.length} tokens"
            text = f'<mark class="{shade(segment.length, traced.least)}" title="{tokens}">{text}</mark>'
        if segment.ends is not None:
            text += f'<sup id="span-{segment.ends}"><a href="#note-{segment.ends}">{segment.ends}</a></sup>'
        shown.append(text)
    return "".join(shown)


def note(number: int, span: TracedSpan) -> str:
    """An item of the list of spans: the place, and the words around it."""
    others = f", and {span.count - 1:,} other place{'s' * (span.count > 2)}" if span.count > 1 else ""
    place = f"{span.tokens} tokens: {span.title}, token {span.offset:,} of {span.document_tokens:,}{others}"
    passage = f"… {escape(span.before)}<b>{escape(span.text)}</b>{escape(span.after)} …"
    return f'<li id="note-{number}"><a href="#span-{number}">{escape(place)}</a><br>{passage}</li>'


def table(traced: Trace) -> str:
    """The shares of new n-grams, the longest spans and the marked share, beside those of human text."""
    own, human = traced.novelty, traced.human
    head = "".join(f"<th>{n}</th>" for n in range(1, len(own.new_ngrams) + 1))
    rows = [
        f"<tr><th>{title}</th>" + "".join(f"<td>{'–' if x is None else f'{x:.1%}'}</td>" for x in shares) + "</tr>"
        for title, shares in (("this text", own.new_ngrams), ("held-out human text", human.new_ngrams))
    ]
    longest = sorted(human.longest)
    lengths = f"of {traced.human_length:,} tokens (median; this text has {own.tokens:,})"
    untraced = f"\n<p>{escape(traced.untraced)}.</p>" if traced.untraced else ""
    return f"""<div class="table"><table>
<tr><th>n-grams that are new, n =</th>{head}</tr>
{"".join(rows)}
</table></div>
<p>The longest copied span has {own.longest[0]} tokens, and {traced.marked:.1%} of the tokens are marked. In
{human.texts} held-out human texts, {lengths}, the longest has {longest[len(longest) // 2]} (median) and {longest[-1]}
(most), and {traced.human_marked:.1%} would be marked.</p>{untraced}"""
