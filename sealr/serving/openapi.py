"""The description of the server's calls: OpenAPI at /openapi.json, and a page at /docs that loads nothing else."""

from __future__ import annotations

import html
import json
from collections.abc import Sequence
from typing import Any

from sealr import __version__
from sealr.serving.limits import Limits
from sealr.serving.request import MAX_HISTORY, MAX_ID, MAX_TOP_K, MAX_WEIGHT

Schema = dict[str, Any]
ID: Schema = {"type": "string", "maxLength": MAX_ID}
IDS: Schema = {"type": "array", "items": ID}
STRINGS: Schema = {"type": "array", "items": {"type": "string"}}
EXAMPLE = {
    "dataframe_records": [
        {"user": "u0001"},
        {"history": [{"item": "D0001", "text": "Great, I use it daily."}, {"item": "D0004", "rating": 2}]},
    ],
    "params": {"top_k": 3},
}
STATUSES = {
    400: "A mistake in the call, or a call above a limit; the message says what to change.",
    408: "The body did not arrive in time.",
    413: "The body is too large.",
    415: "The body is not JSON.",
    500: "The model failed; the server's log has the details.",
    503: "No model is ready, or too many calls are waiting; try again after Retry-After seconds.",
    504: "No answer in time.",
}


def told(description: str, kind: Schema | str, **more: Any) -> Schema:
    return ({"type": kind} if isinstance(kind, str) else kind) | {"description": description} | more


FILTERS = {
    "include_items": told("Recommend only these items.", IDS),
    "exclude_items": told("Recommend none of these items.", IDS),
    "categories": told("Recommend only items of any of these categories.", STRINGS),
    "available_only": told("true: only items that are available now; false: also others.", "boolean"),
}
EVENT = {
    "item": told("Id of the item.", ID),
    "text": told("The user's review of it; the server labels its feeling.", "string"),
    "rating": told("Stars that the user gave.", "number", minimum=1, maximum=5),
    "sentiment": told("The feeling, where it is known; then the text is not read.", "integer", minimum=-2, maximum=2),
}
REQUEST = {
    "user": told("Id of a user. The model has the histories of the users it was trained on.", ID),
    "history": told(
        "What the user took, the oldest first; it follows the stored history.",
        "array",
        maxItems=MAX_HISTORY,
        items={"type": "object", "properties": EVENT, "required": ["item"], "additionalProperties": False},
    ),
} | FILTERS
PARAMS = {
    "top_k": told("Items in each answer.", "integer", minimum=1, maximum=MAX_TOP_K, default=10),
    "exclude_seen": told("Leave out items of the history. The model has the default.", "boolean"),
    "explain": told("Reasons by leaving out each item of the history in turn; slow.", "boolean", default=False),
    "satisfaction_weight": told(
        "0: what users will take; 1: as validation chose; more: what they will be glad of.",
        "number",
        minimum=0,
        maximum=MAX_WEIGHT,
        default=1,
    ),
} | FILTERS
ANSWER = {
    "user": told("As in the request, or null.", {"type": ["string", "null"]}),
    "items": told("Ids, the best first.", STRINGS),
    "titles": told("Their titles in the data, not escaped; the id where there is none.", STRINGS),
    "scores": told("Their scores, comparable within one answer.", {"type": "array", "items": {"type": "number"}}),
    "reasons": told("Why each is here, in words.", STRINGS),
    "warnings": told("What was ignored, and why, such as unknown ids.", STRINGS),
}


def schema(limits: Limits) -> Schema:
    """The OpenAPI document. limits: of one call."""
    records = told("The requests. An unknown field is refused.", "array", minItems=1, maxItems=limits.records)
    records["items"] = {"$ref": "#/components/schemas/Request"}
    body = closed({"dataframe_records": records, "params": {"$ref": "#/components/schemas/Params"}})
    body["required"] = ["dataframe_records"]
    answers = {"predictions": {"type": "array", "items": {"$ref": "#/components/schemas/Answer"}}}
    headers = {"X-Model-Version": header("The version that answered."), "X-Request-ID": header("The call's id.")}
    answered = content({"type": "object", "properties": answers})
    good = told("One answer for each request, in their order.", {"content": answered})
    error = closed({"error_code": {"type": "string"}, "message": told("One sentence.", "string")})
    call = {
        "summary": "Recommend items",
        "description": f"At most {limits.records} requests, {limits.items} history items, {limits.texts} texts and "
        f"{limits.answers} recommended items in one call. MLflow's other forms (dataframe_split, instances, inputs) "
        "are read, too.",
        "parameters": [{"in": "header", "name": "X-Request-ID", "schema": {"type": "string"}}],
        "requestBody": {"required": True, "content": content(body, EXAMPLE)},
        "responses": {"200": good | {"headers": headers}}
        | {str(s): {"description": d, "content": content(error)} for s, d in STATUSES.items()},
    }
    read = {"/ready": "200 once a model has answered a warm-up request, else 503 with the reason.",
            "/health": "200: the process is alive; this says nothing about the model.",
            "/ping": "As /health.",
            "/version": "The version of MLflow.",
            "/metrics": "Figures for Prometheus."}  # fmt: skip
    gets = {
        path: {"get": {"summary": text, "responses": {"200": {"description": text}}}} for path, text in read.items()
    }
    parts = {"Request": closed(REQUEST), "Params": closed(PARAMS), "Answer": closed(ANSWER)}
    return {
        "openapi": "3.1.0",
        "info": {"title": "SEALR", "version": __version__, "description": "Recommendations from read reviews."},
        "paths": {"/invocations": {"post": call}} | gets,
        "components": {"schemas": parts},
    }


def closed(properties: Schema) -> Schema:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def content(kind: Schema, example: Any = None) -> Schema:
    return {"application/json": {"schema": kind} | ({} if example is None else {"example": example})}


def header(description: str) -> Schema:
    return {"description": description, "schema": {"type": "string"}}


STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1b1f24;
background:#fff}table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}td,th{text-align:left;padding:.3rem
.6rem;border-bottom:1px solid #d8dee4;vertical-align:top}pre{background:#f3f5f7;padding:.8rem;white-space:pre-wrap}
code{font-size:.9em}@media(prefers-color-scheme:dark){body{color:#e6e9ec;background:#15181c}pre{background:#22272e}
td,th{border-color:#3a4149}a{color:#7ab7ff}}"""


def page(document: Schema) -> str:
    """The document for people: HTML without scripts, fonts or pictures from anywhere."""
    call, parts = document["paths"]["/invocations"]["post"], document["components"]["schemas"]
    about = call["requestBody"]["content"]["application/json"]
    event = parts["Request"]["properties"]["history"]["items"]["properties"]
    curl = f"curl -s localhost:5001/invocations -H 'Content-Type: application/json' -d '{json.dumps(about['example'])}'"
    sections = [
        ("A request", fields(parts["Request"]["properties"])),
        ("An event of a history", fields(event)),
        ("Parameters of a call", fields(parts["Params"]["properties"])),
        ("An answer", fields(parts["Answer"]["properties"])),
        ("Statuses", table(("status", "meaning"), [(s, r["description"]) for s, r in call["responses"].items()])),
        ("Other addresses", table(("address", "meaning"),
            [(p, found["get"]["summary"]) for p, found in document["paths"].items() if "get" in found])),
    ]  # fmt: skip
    body = "".join(f"<h2>{title}</h2>{text}" for title, text in sections)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>SEALR: calls</title>'
        f'<meta name="viewport" content="width=device-width"><style>{STYLE}</style></head><body><h1>SEALR</h1>'
        f"<p><code>POST /invocations</code>. {html.escape(call['description'])} Machines read the same at "
        f'<a href="openapi.json">openapi.json</a>.</p><pre>{html.escape(curl)}</pre>{body}</body></html>'
    )


def fields(properties: Schema) -> str:
    rows = []
    for name, kind in properties.items():
        form = kind["type"] if isinstance(kind["type"], str) else " or ".join(kind["type"])
        form = f"list of {kind['items']['type']}s" if form == "array" else form
        if "minimum" in kind:
            form += f", {kind['minimum']:g} to {kind['maximum']:g}"
        form += f", {json.dumps(kind['default'])} by default" if "default" in kind else ""
        rows.append((name, form, kind["description"]))
    return table(("name", "value", "meaning"), rows)


def table(head: tuple[str, ...], rows: Sequence[tuple[str, ...]]) -> str:
    lines = [
        f"<td><code>{html.escape(r[0])}</code></td>" + "".join(f"<td>{html.escape(c)}</td>" for c in r[1:])
        for r in rows
    ]
    names = "".join(f"<th>{name}</th>" for name in head)
    return f"<table><tr>{names}</tr>" + "".join(f"<tr>{line}</tr>" for line in lines) + "</table>"
