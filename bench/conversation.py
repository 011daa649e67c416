"""What a turn costs at the end of a long conversation: `previous_response_id` over and over, one turn at a time.

`warm`: the turn before it was the last one. `cold`: a fork from an earlier response, whose context is no longer in
memory, so that its history is read from the database and made ready anew.
"""

import http.client

import msgspec

from bench import proctree
from bench.loadrun import Figures
from bench.measures import ConversationMeasure
from bench.service import BenchError
from bench.targets import Target

TEXT = "The quick brown fox jumps over the lazy dog, and then it does so again. " * 3
"""What a user says in a turn, some 200 characters; the answer is as long."""
ANSWER_S = 30


class _Answer(msgspec.Struct):
    id: str
    status: str


def measure_conversation(measure: ConversationMeasure, target: Target) -> Figures:
    connection = http.client.HTTPConnection("127.0.0.1", target.service.port, timeout=ANSWER_S)
    figures: Figures = {}
    try:
        for depth, chains in measure.depths.items():
            ends = [_grown(connection, measure.model, None, depth - 1) for _ in range(chains)]
            turns = measure.turns // chains
            before_us = proctree.cpu_us(target.service.pid)
            for end in ends:
                _grown(connection, measure.model, end, turns)
            used_us = proctree.cpu_us(target.service.pid) - before_us
            figures[f"cpu_us_at_{depth}"] = used_us / (turns * chains)
            before_us = proctree.cpu_us(target.service.pid)
            for _ in range(measure.turns):
                _grown(connection, measure.model, ends[0], 1)
            used_us = proctree.cpu_us(target.service.pid) - before_us
            figures[f"cold_us_at_{depth}"] = used_us / measure.turns
    finally:
        connection.close()
    first, last = min(measure.depths), max(measure.depths)
    return figures | {"long_to_short": figures[f"cpu_us_at_{last}"] / figures[f"cpu_us_at_{first}"]}


def _grown(connection: http.client.HTTPConnection, model: str, response_id: str | None, turns: int) -> str | None:
    """The id of the last response, after so many more turns."""
    for _ in range(turns):
        asked = {"model": model, "input": TEXT, "previous_response_id": response_id}
        headers = {"content-type": "application/json"}
        connection.request("POST", "/v1/responses", msgspec.json.encode(asked), headers)
        answer = connection.getresponse()
        body = answer.read()
        if answer.status != 200:
            raise BenchError(f"a turn was answered with {answer.status}: {body[:200]!r}")
        response = msgspec.json.decode(body, type=_Answer)
        if response.status != "completed":
            raise BenchError(f"a turn ended as {response.status}")
        response_id = response.id
    return response_id
