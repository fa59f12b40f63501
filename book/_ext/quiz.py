"""The directive ``{quiz} quizzes/ch04.yml``: questions with radio buttons that answer at once, and without a server.

Each question is a fieldset; the explanation of the chosen answer appears in a live region below it. Where scripts are
off, a folded list of the answers takes its place. ``public/quiz.js`` is loaded on pages with a quiz only.
"""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import Any

from docutils import nodes
from quiz_file import Question, QuizError, read_quiz
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SCRIPT = "../quiz.js"  # relative to _static; book/public is copied to the root of the site


class markup(nodes.General, nodes.Element):
    """One HTML element: ``tag`` and ``html`` (its attributes) around its children. Other builders see the children."""


def element(tag: str, /, *children: nodes.Node, **attributes: str) -> markup:
    """An HTML element; a trailing or inner underscore in an attribute's name stands for a hyphen, class_ for class."""
    html = {name.rstrip("_").replace("_", "-"): value for name, value in attributes.items()}
    return markup("", *children, tag=tag, html=html)


class QuizDirective(SphinxDirective):
    """``{quiz} PATH``, the path relative to the page."""

    required_arguments = 1
    final_argument_whitespace = True

    def run(self) -> list[nodes.Node]:
        relative, absolute = self.env.relfn2path(self.arguments[0])
        self.env.note_dependency(relative)
        try:
            quiz = read_quiz(Path(absolute))
        except QuizError as error:
            raise self.error(str(error)) from error
        serial = self.env.new_serialno("rlc-quiz")
        fieldsets = [self._question(q, f"quiz{serial}-{n}") for n, q in enumerate(quiz.questions, 1)]
        return [element("form", *fieldsets, class_="rlc-quiz", aria_label=quiz.title)]

    def _question(self, question: Question, name: str) -> markup:
        choices, reasons, answers = [], [], []
        for n, choice in enumerate(question.choices):
            verdict = "Right." if choice.correct else "Not quite."
            button = element("input", type="radio", name=name, id=f"{name}-{n}", value=str(n))
            label = element("label", *self._inline(choice.text), for_=f"{name}-{n}")
            choices.append(element("div", button, label, class_="rlc-choice"))
            reasons.append(
                element(
                    "p",
                    nodes.strong("", verdict),
                    nodes.Text(" "),
                    *self._inline(choice.explanation),
                    class_="rlc-right" if choice.correct else "rlc-wrong",
                    hidden="",
                )
            )
            answers.append(element("li", *self._inline(f"**{choice.text}** {verdict} {choice.explanation}")))
        summary = element("summary", nodes.Text("Answers"))
        return element(
            "fieldset",
            element("legend", *self._inline(question.question)),
            *choices,
            element("div", *reasons, class_="rlc-feedback", role="status"),
            element("noscript", element("details", summary, element("ul", *answers))),
        )

    def _inline(self, text: str) -> list[nodes.Node]:
        """Markdown to nodes without the paragraph around them, which a label or a legend may not hold."""
        parsed: list[nodes.Node] = []
        for node in self.parse_text_to_nodes(text):
            if not isinstance(node, nodes.paragraph):
                raise self.error(f"A quiz text has to be one paragraph, this is a {type(node).__name__}: {text!r}")
            parsed += [nodes.Text(" "), *node.children] if parsed else node.children
        return parsed


def visit_html(writer: Any, node: markup) -> None:
    """Open the tag."""
    attributes = "".join(f' {name}="{escape(value)}"' for name, value in node["html"].items())
    writer.body.append(f"<{node['tag']}{attributes}>")


def depart_html(writer: Any, node: markup) -> None:
    """Close the tag; an input has no end."""
    if node["tag"] != "input":
        writer.body.append(f"</{node['tag']}>\n")


def _pass(writer: Any, node: markup) -> None:
    """Builders other than HTML print the children alone."""


def load_script(app: Sphinx, page: str, template: str, context: dict[str, Any], doctree: nodes.document | None) -> None:
    """Add the script to pages that have a quiz."""
    if doctree is not None and next(iter(doctree.findall(markup)), None) is not None:
        app.add_js_file(SCRIPT, loading_method="defer")


def setup(app: Sphinx) -> dict[str, bool]:
    """Called by Sphinx."""
    quiet = (_pass, _pass)
    app.add_node(markup, html=(visit_html, depart_html), latex=quiet, text=quiet, man=quiet, texinfo=quiet)
    app.add_directive("quiz", QuizDirective)
    app.connect("html-page-context", load_script)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
