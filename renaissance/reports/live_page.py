"""The page of `serve`: an image and a text go in; match, filled masks, answers and a heat map come out, while one looks on.

    upload -> pixels; text -> `predictions` -> a table for each head
                           -> `heat_maps.explained` -> the heat map of a word

Neither side asks another host. The page loads what gradio has installed, and its browser is told to load nothing else
(Content-Security-Policy); the server fetches no address that a client names. What is uploaded or typed may be anything.
"""

from __future__ import annotations

import os
import re
import socket
from collections.abc import Iterator, Sequence
from html import escape
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from PIL import Image
from torch import Tensor

from renaissance.core.errors import UserError, printable, require
from renaissance.core.untrusted import read_bytes
from renaissance.data.images import decode
from renaissance.inference.heat_map import METHODS
from renaissance.inference.loaded import Loaded
from renaissance.inference.pictures import MOST_BYTES
from renaissance.inference.predictions import predictions

from .heat_maps import explained

WHOLE = "the whole text"
_LONGEST = 10_000  # characters of a text
_SWEEP, _KEPT = 600, 3600  # seconds between two looks for old uploads, and until they are old
_POLICY = (
    "default-src 'self' data: blob:; script-src 'self' 'unsafe-inline' 'unsafe-eval'; style-src 'self' 'unsafe-inline'; "
    "object-src 'none'; base-uri 'self'; form-action 'self'; frame-ancestors 'self'"
)
_ROUTES = (  # that the page asks for
    r"/|/(theme\.css|manifest\.json|favicon\.ico|config)|/(assets|static|svelte)/.+"
    r"|/gradio_api/(upload|upload_progress|cancel|reset|queue/join|queue/data|heartbeat/\w+|file={}/.+)"
)
_FONTS, _MONO = ("system-ui", "sans-serif"), ("ui-monospace", "monospace")  # of the reader's own system
_STYLE = """
.gradio-container {width: 100%; max-width: 68rem !important; margin: auto}
.about h1 {font-size: 1.5rem; font-weight: 600; margin: 0; overflow-wrap: anywhere}
.about p {margin: .3rem 0 0; overflow-wrap: anywhere}
.about p, .quiet {color: var(--body-text-color-subdued)}
.found {width: 100%; border-collapse: collapse; margin: 0 0 1.25rem; table-layout: fixed}
.found caption {text-align: left; font-weight: 600; padding-bottom: .35rem; overflow-wrap: anywhere}
.found th {width: 35%; text-align: left; font-weight: 400; padding: .15rem .75rem .15rem 0; overflow-wrap: anywhere}
.found td:last-child {width: 4rem; text-align: right; font-variant-numeric: tabular-nums}
.found i {display: block; height: .6rem; border-radius: .3rem; background: var(--color-accent); min-width: 1px}
.refused {margin: 0; padding: .5rem .75rem; border-left: .25rem solid var(--error-border-color); overflow-wrap: anywhere}
.quiet {margin: 0}
.found, .found :is(tbody, tr, th, td) {border: 0 !important; background: none}
#heat {padding-top: 2rem}
#heat .top-panel {top: -1.9rem}
"""


class LivePage:
    """What the page of one model shows.

    Args:
        model: that is asked. top: how many answers, and how many words for each mask.
    """

    def __init__(self, model: Loaded, top: int):
        self.model, self.top = model, top

    def about(self) -> str:
        """HTML: the checkpoint, what it is made of, and what it has heads for."""
        model = self.model.settings.model
        towers = [each.name for each in (model.text_encoder, model.image_encoder, model.encoder) if each is not None]
        says = {"match": self.model.matching, "masked words": self.model.filling, "answers": self.model.answering}
        named = ", ".join(name for name, head in says.items() if head is not None) or "nothing of one image and text"
        heads = ", ".join(self.model.heads) or "none"
        lines = (f"{model.model_type} of {' and '.join(towers)}", f"heads: {heads}; they say: {named}")
        title = f"<h1>{_safe(Path(self.model.path).name)}</h1>"
        return f'<div class="about">{title}{"".join(f"<p>{_safe(line)}</p>" for line in lines)}</div>'

    def words(self, text: str) -> list[str]:
        """What a heat map may be asked of: what is asked first where nobody chooses, then each word of the text."""
        masked = self.model.filling is not None and self.model.masks(text) > 0
        words = [*dict.fromkeys(re.findall(r"\[MASK\]|\w+(?:['’-]\w+)*", text))]
        first = "[MASK]" if masked else WHOLE  # `explain` takes the first mask where no word is given
        return [first, *(word for word in words if word != first)]

    def predictions(self, image: Tensor | None, text: str) -> str:
        """HTML: a table for each head that says something, or why none does."""
        try:
            found = predictions(self.model, image, text, self.top)
        except UserError as error:
            return refusal(error)
        tables = []
        if found.match is not None:
            filled = "" if found.completed is None else f' "{found.completed}"'
            tables.append(_table(f"The text{filled} belongs to the image", [("match", found.match)]))
        tables += [_table(f"Mask {number}", words) for number, words in enumerate(found.masks, 1)]
        tables += [_table("Answers", found.answers)] if found.answers else []
        return "".join(tables)

    def heat_map(self, image: Tensor | None, text: str, word: str, method: str) -> tuple[Image.Image | None, str]:
        """The picture of a heat map, or none, and as HTML why there is none or why it is empty.

        Args:
            word: of the text, or one of the names that `words` gives. method: as for `Loaded.explain`.
        """
        if image is None:
            return None, '<p class="quiet">A heat map needs an image.</p>'
        try:
            picture, heat = explained(self.model, image, text, None if word in ("", WHOLE) else word, method)
        except UserError as error:
            return None, refusal(error)
        return picture, f'<p class="quiet">{_safe(heat.title)}</p>' if heat.is_empty else ""

    def asked(self, upload: Any, text: Any, method: Any) -> Iterator[tuple]:
        """An event: shows the predictions, and then the heat map of the first word.

        Yields:
            Of gradio's updates those of the predictions, the part of heat maps, the words, the picture, and why there is none.
        """
        import gradio as gr

        try:
            image, text = uploaded(upload), typed(text)
        except UserError as error:
            yield refusal(error), gr.update(visible=False), gr.skip(), gr.skip(), gr.skip()
            return
        words, shown = self.words(text), gr.update(visible=image is not None)
        choice = gr.update(choices=words, value=words[0])
        yield self.predictions(image, text), shown, choice, gr.update(visible=False), ""
        if image is not None:
            yield gr.skip(), gr.skip(), gr.skip(), *self.drawn(upload, text, words[0], method)

    def drawn(self, upload: Any, text: Any, word: Any, method: Any) -> tuple:
        """An event: the picture of another word or method, and why there is none."""
        import gradio as gr

        try:
            picture, why = self.heat_map(uploaded(upload), typed(text), typed(word), str(method))
        except UserError as error:
            picture, why = None, refusal(error)
        return gr.update(value=picture, visible=picture is not None), why

    def blocks(self) -> Any:
        """The page, as `gradio.Blocks`."""
        import gradio as gr

        kinds = {"a caption": self.model.matching, "a text with [MASK] in the place of words": self.model.filling,
                 "a question or sentence to be answered": self.model.answering}  # fmt: skip
        asks = ", or ".join(name for name, head in kinds.items() if head is not None)
        # preprocess=False: gradio would open an upload before its size is known. One at a time: a model takes all cores.
        how = {"preprocess": False, "api_visibility": "private", "concurrency_limit": 1, "concurrency_id": "model"}
        title = f"{printable(Path(self.model.path).name)} - Renaissance"
        with gr.Blocks(title=title, analytics_enabled=False, delete_cache=(_SWEEP, _KEPT)) as page:
            gr.HTML(self.about())
            with gr.Row():
                with gr.Column():
                    image = gr.Image(label="Image", sources=["upload", "clipboard"], height=320, buttons=[])
                    text = gr.Textbox(label="Text", placeholder=asks, max_length=_LONGEST, elem_id="text")
                    ask = gr.Button("Ask", variant="primary", elem_id="ask")
                with gr.Column():
                    found = gr.HTML('<p class="quiet">What the model says stands here.</p>', elem_id="found")
            with gr.Column(visible=False) as maps:
                with gr.Row():
                    some = "a word of the text, or some that follow each other"
                    word = gr.Dropdown(
                        [WHOLE], value=WHOLE, label="Heat map of", info=some, allow_custom_value=True, elem_id="word"
                    )
                    method = gr.Dropdown(
                        [*METHODS], value=METHODS[0], label="Method", info="how it is found", elem_id="method"
                    )
                buttons = ["download", "fullscreen"]
                heat = gr.Image(label="Heat map", format="png", interactive=False, buttons=buttons, elem_id="heat")
                why = gr.HTML(elem_id="why")
            gr.on([ask.click, text.submit], self.asked, [image, text, method], [found, maps, word, heat, why], **how)
            gr.on([word.input, method.input], self.drawn, [image, text, word, method], [heat, why], **how)
        return page.queue(api_open=False)


def serve(page: LivePage, listening: socket.socket, folder: str) -> None:
    """Shows a page until a signal ends it.

    Args:
        page: what is shown.
        listening: the socket that it is shown at.
        folder: as for `application`; the caller removes it.
    """
    app = application(page, is_loopback(listening.getsockname()[0]), folder)
    import uvicorn

    # The second is for heartbeats, which pages that are still open hold for ever.
    config = uvicorn.Config(app, log_level="error", access_log=False, ws="none", timeout_graceful_shutdown=1)
    uvicorn.Server(config).run(sockets=[listening])


def application(page: LivePage, only_here: bool, folder: str) -> Any:
    """The ASGI application of a page.

    Args:
        page: what is shown.
        only_here: it answers in the names of `is_loopback` alone, as another name that leads here is of a page elsewhere.
        folder: of uploads and heat maps; those of more than an hour are deleted.
    """
    for name in [each for each in os.environ if each.startswith("GRADIO_")]:
        del os.environ[name]  # sharing, folders that are shown, another front: none of it
    os.environ |= {"GRADIO_ANALYTICS_ENABLED": "False", "GRADIO_TEMP_DIR": folder}
    import gradio as gr
    from fastapi import FastAPI
    from gradio import processing_utils

    async def refused(url: str, *_: Any, **__: Any) -> str:
        raise ValueError("addresses are not fetched; upload the image itself")

    processing_utils.async_ssrf_protected_download = refused  # else a client names a host, and the server asks it
    blocks = page.blocks()
    theme = gr.themes.Default(primary_hue="blue", font=_FONTS, font_mono=_MONO)
    theme.set(
        body_text_color_subdued="*neutral_600", body_text_color_subdued_dark="*neutral_300"
    )  # to be read with ease
    app = gr.mount_gradio_app(
        FastAPI(openapi_url=None), blocks, "/", footer_links=[], run_history=False, show_error=False, max_file_size=MOST_BYTES,
        ssr_mode=False, mcp_server=False, enable_monitoring=False, pwa=False, theme=theme, css=_STYLE,
    )  # fmt: skip
    blocks.has_launched = True  # else gradio takes files of this machine that a client names (`_check_allowed`)
    return _guarded(app, folder, only_here)


def is_loopback(host: str) -> bool:
    """Whether an address, or the name localhost, can be of this machine alone."""
    try:
        address = ip_address(host)
    except ValueError:
        return host.lower() == "localhost"
    return (getattr(address, "ipv4_mapped", None) or address).is_loopback


def uploaded(upload: Any) -> Tensor | None:
    """The pixels (3, H, W) uint8 of an upload as gradio describes it; None without one.

    Raises:
        UserError: it is no image, or too large.
    """
    if not isinstance(upload, dict) or not upload.get("path"):
        return None
    name = printable(Path(str(upload.get("orig_name") or "the upload")).name)
    return decode(read_bytes(upload["path"], name, most=MOST_BYTES), name)


def typed(text: Any) -> str:
    """A text that was typed. Raises UserError where it is too long."""
    text = str(text or "")
    require(len(text) <= _LONGEST, f"The text has {len(text):,} characters; at most {_LONGEST:,} are read.")
    return text


def refusal(error: UserError) -> str:
    """HTML of a sentence."""
    return f'<p class="refused" role="alert">{_safe(str(error))}</p>'


def _table(caption: str, rows: Sequence[tuple[str, float]]) -> str:
    """HTML: names with their probabilities as bars and numbers."""
    lines = (
        f'<tr><th scope="row">{_safe(name)}</th><td><i style="width: {100 * share:.1f}%"></i></td><td>{share:.3f}</td></tr>'
        for name, share in rows
    )
    return f'<table class="found"><caption>{_safe(caption)}</caption><tbody>{"".join(lines)}</tbody></table>'


def _safe(text: str) -> str:
    return escape(printable(text))


def _guarded(app: Any, folder: str, only_here: bool) -> Any:
    """An ASGI application that has the routes of the page alone, and tells browsers to load nothing from elsewhere.

    gradio has more: one fetches whatever address it is given, others look into a Hub account or edit the program.
    """
    from starlette.responses import PlainTextResponse

    routes = re.compile(_ROUTES.format(re.escape(folder)))

    async def guarded(scope: Any, receive: Any, send: Any) -> None:
        async def sending(message: Any) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], (b"content-security-policy", _POLICY.encode())]
            await send(message)

        answering = app
        if scope["type"] == "http":
            host = re.sub(r":\d*$", "", dict(scope["headers"]).get(b"host", b"").decode("latin-1"))
            if only_here and not is_loopback(host[1:-1] if host.startswith("[") else host):
                answering = PlainTextResponse("Invalid host header", 400)
            elif not routes.fullmatch(scope["path"]):
                answering = PlainTextResponse("not found", 404)
        await answering(scope, receive, sending)

    return guarded
