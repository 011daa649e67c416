"""Evaluate a tiny chat GGUF through xllamacpp's OpenAI-compatible chat endpoint (greedy).

    python eval_tiny.py MODEL.gguf [--n 80] [--split test|train] [--quick] [--tok TOKENIZER_DIR] [--seed 777]

Prints exact-match accuracy per task on fresh prompts (test split: unseen words, names, cities and, for tool_unseen,
unseen tools), the verbatim answers to typical quick-start prompts (--quick: only those), and with
--tok checks that llama.cpp tokenizes like tokenizer.py.
"""

import argparse, concurrent.futures as cf, json, os, time, urllib.error, urllib.request

os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import xllamacpp as x
from datagen import Gen

TASKS = [
    "greet",
    "how",
    "thanks",
    "bye",
    "who",
    "unknown",
    "fixed",
    "echo",
    "arith",
    "count",
    "words",
    "extract",
    "summary",
    "json",
    "schema",
    "recall",
    "style",
    "persona",
    "tool_known",
    "tool_made",
    "tool_unseen",
    "tool_parallel",
    "tool_result",
    "tools_idle",
]


def fn(name, desc, **props):
    req = [k for k, v in props.items() if not v.pop("opt", False)]
    return {
        "type": "function",
        "function": {
            "name": name,
            "description": desc,
            "parameters": {"type": "object", "properties": props, "required": req, "additionalProperties": False},
        },
    }


WEATHER = fn(
    "get_weather",
    "Get the current weather in a given location",
    location={"type": "string", "description": "The city and state, e.g. San Francisco, CA"},
    unit={"type": "string", "enum": ["celsius", "fahrenheit"], "opt": True},
)
EMAIL = fn(
    "send_email",
    "Send an email to a given recipient with a subject and message.",
    to={"type": "string", "description": "The recipient email address."},
    subject={"type": "string", "description": "Email subject line."},
    body={"type": "string", "description": "Body of the email message."},
)
SEARCH = fn(
    "search_knowledge_base",
    "Query a knowledge base to retrieve relevant info on a topic.",
    query={"type": "string", "description": "The user question or search query."},
    options={
        "type": "object",
        "properties": {
            "num_results": {"type": "number"},
            "sort_by": {"type": ["string", "null"], "enum": ["relevance", "date", "popularity", None]},
        },
        "required": ["num_results", "sort_by"],
        "additionalProperties": False,
        "opt": True,
    },
)
HOROSCOPE = fn(
    "get_horoscope",
    "Get today's horoscope for an astrological sign.",
    sign={"type": "string", "description": "An astrological sign like Taurus or Aquarius"},
)
ADD = fn("add", "Add two numbers", a={"type": "integer"}, b={"type": "integer"})
U, A, S = (
    (lambda r: lambda s: {"role": r, "content": s})("user"),
    (lambda r: lambda s: {"role": r, "content": s})("assistant"),
    (lambda r: lambda s: {"role": r, "content": s})("system"),
)
D = lambda s: {"role": "developer", "content": s}


def called(name, args, out):
    return [
        {
            "role": "assistant",
            "content": None,
            "tool_calls": [{"id": "c1", "type": "function", "function": {"name": name, "arguments": json.dumps(args)}}],
        },
        {"role": "tool", "tool_call_id": "c1", "content": out},
    ]


QUICK = [  # (messages, tools, enable_thinking, extra)
    ([U("Hello!")], None, 0, {}),
    ([U("Say hello.")], None, 0, {}),
    ([U("Say hello in exactly 3 words.")], None, 0, {}),
    ([U("Say this is a test")], None, 0, {}),
    ([U("Say 'pong'")], None, 0, {}),
    ([S("You are a helpful assistant."), U("Who are you?")], None, 0, {}),
    ([U("Count from 1 to 5.")], None, 0, {}),
    ([U("Count to 10")], None, 0, {}),
    ([U("What is 2+2?")], None, 0, {}),
    ([U("What is 17 * 23?")], None, 0, {}),
    ([U("Write a one-sentence bedtime story about a unicorn.")], None, 0, {}),
    ([U("Tell me a three sentence bedtime story about a unicorn.")], None, 0, {}),
    ([U("Tell me a joke.")], None, 0, {}),
    ([U("Write a haiku about recursion.")], None, 0, {}),
    ([S("You are a pirate. Always respond in pirate speak."), U("Say hello.")], None, 0, {}),
    ([D("Talk like a pirate."), U("Are semicolons optional in JavaScript?")], None, 0, {}),
    ([D("Always answer in capital letters."), U("Say hello")], None, 0, {}),
    ([U("What is the capital of France?")], None, 0, {}),
    ([U("What is the capital of France?")], None, 1, {}),
    ([U("Explain quantum computing in simple terms.")], None, 0, {}),
    ([U("Reply with exactly: Straßenbahn 42!")], None, 0, {}),
    ([U("My name is Alice.")], None, 0, {}),
    ([U("My name is Alice."), A("Hello, Alice! How can I help you today?"), U("What is my name?")], None, 0, {}),
    (
        [
            U("My name is Alice."),
            A("Nice to meet you, Alice."),
            U("Tell me a joke."),
            A("Why was the computer cold? It left its windows open!"),
            U("What's my name?"),
        ],
        None,
        1,
        {},
    ),
    ([U("What is my name?")], None, 0, {}),
    ([U("Remember the number 42."), A("Okay."), U("What number did I ask you to remember?")], None, 0, {}),
    (
        [
            U("tell me a joke"),
            A("Why was the computer cold? It left its windows open!"),
            U("explain why this is funny."),
        ],
        None,
        0,
        {},
    ),
    ([U("What is the weather in Paris?")], [WEATHER], 0, {}),
    ([U("What's the weather like in San Francisco?")], [WEATHER], 0, {}),
    ([U("What's the weather like in San Francisco?")], [WEATHER], 1, {}),
    ([U("What is the weather like in Paris today?")], [WEATHER], 0, {}),
    ([U("What is the weather like in Boston in celsius?")], [WEATHER, EMAIL, SEARCH], 0, {}),
    ([U("What's the weather in Paris and London?")], [WEATHER], 0, {}),
    ([U("What's the weather like in Tokyo and San Francisco?")], [WEATHER, EMAIL], 0, {}),
    ([U("Send an email to bob@example.com about the party")], [WEATHER, EMAIL], 0, {}),
    ([U("What is my horoscope? I am an Aquarius.")], [HOROSCOPE], 0, {}),
    ([U("Can you find information about ChatGPT in the knowledge base?")], [SEARCH], 0, {}),
    ([U("Add 12 and 30")], [ADD, WEATHER], 0, {}),
    ([U("Hello!")], [WEATHER], 0, {}),
    ([U("Tell me a joke.")], [WEATHER, ADD], 0, {}),
    (
        [
            U("What is the weather in Paris?"),
            *called("get_weather", {"location": "Paris"}, '{"temperature": 22, "condition": "sunny"}'),
        ],
        [WEATHER],
        0,
        {},
    ),
    (
        [U("What is the weather in Paris?"), *called("get_weather", {"location": "Paris"}, "Sunny, 22 degrees")],
        [WEATHER],
        0,
        {},
    ),
    (
        [
            U("What is the weather in Paris?"),
            *called(
                "get_weather",
                {"location": "Paris"},
                '{"location": "Paris", "temperature": "15", "unit": "celsius", "forecast": ["sunny", "windy"]}',
            ),
        ],
        [WEATHER],
        0,
        {},
    ),
    ([U("Add 12 and 30"), *called("add", {"a": 12, "b": 30}, "42")], [ADD], 0, {}),
    (
        [
            U("What is my horoscope? I am an Aquarius."),
            *called(
                "get_horoscope",
                {"sign": "Aquarius"},
                '{"horoscope": "Aquarius: Next Tuesday you will befriend a baby otter."}',
            ),
        ],
        [HOROSCOPE],
        0,
        {},
    ),
    (
        [
            U("What is the weather in Paris?"),
            *called("get_weather", {"location": "Paris"}, '{"error": "service unavailable"}'),
        ],
        [WEATHER],
        0,
        {},
    ),
    (
        [S("Extract the event information."), U("Alice and Bob are going to a science fair on Friday.")],
        None,
        0,
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "e",
                    "strict": True,
                    "schema": {
                        "type": "object",
                        "properties": {
                            "name": {"type": "string"},
                            "date": {"type": "string"},
                            "participants": {"type": "array", "items": {"type": "string"}},
                        },
                        "required": ["name", "date", "participants"],
                        "additionalProperties": False,
                    },
                },
            }
        },
    ),
    (
        [U("Jane, 54 years old")],
        None,
        0,
        {
            "response_format": {
                "type": "json_schema",
                "json_schema": {
                    "name": "p",
                    "schema": {
                        "type": "object",
                        "properties": {"name": {"type": "string"}, "age": {"type": "integer"}},
                        "required": ["name", "age"],
                        "additionalProperties": False,
                    },
                },
            }
        },
    ),
    (
        [S("Reply in JSON."), U("The color is red and the size is 12.")],
        None,
        0,
        {"response_format": {"type": "json_object"}},
    ),
    ([U("What's the weather in Oslo?")], [WEATHER], 0, {"tool_choice": "required"}),
    ([U("Summarize: The cat sat on the mat. The dog was away. They met later.")], None, 0, {}),
    ([U("Reverse this list: red, green, blue")], None, 0, {}),
    ([U("Spell the word banana.")], None, 0, {}),
    ([U([{"type": "text", "text": "Say "}, {"type": "text", "text": "banana"}])], None, 0, {}),
]


class Chat:
    """llama.cpp's HTTP interface to the model."""

    def __init__(self, path, threads):
        p = x.CommonParams()
        p.model.path = path
        p.n_ctx = 16384
        p.n_parallel = 8
        p.kv_unified = True
        p.cpuparams.n_threads = threads
        p.port = 0
        p.verbosity = 0
        self.server = x.Server(p)

    def post(self, path, body):
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(self.server.listening_address + path, json.dumps(body).encode(), headers)
        try:
            with urllib.request.urlopen(request, timeout=300) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            return json.load(error)

    def say(self, msgs, tools, think, extra=None):
        body = {"messages": msgs, "temperature": 0, "max_tokens": 300}
        body["chat_template_kwargs"] = {"enable_thinking": bool(think)}
        if tools:
            body |= {"tools": tools, "parallel_tool_calls": True}
        return self.post("/v1/chat/completions", body | (extra or {}))


def check_tokenizer(chat, folder, n=500):
    """Whether llama.cpp renders the template and tokenizes as training did."""
    from render import Renderer

    r, g, bad = Renderer(folder), Gen(5, "test"), 0
    for _ in range(n):
        smp = g.sample()
        t = r.prompt(smp)
        b = {"messages": smp["messages"][:-1], "chat_template_kwargs": {"enable_thinking": smp["thinking"]}}
        if smp["tools"]:
            b["tools"] = smp["tools"]
        q = chat.post("/apply-template", b)["prompt"]
        ids = chat.post("/tokenize", {"content": q, "parse_special": True})["tokens"]
        if q != t or ids != r.tok.encode(t):
            bad += 1
            if bad < 4:
                print("MISMATCH", repr(t), repr(q))
    print(f"template+tokenizer mismatches: {bad}/{n}")


def graded(chat, smp):
    """(everything exact, reasoning exact, tool names exact, the message)"""
    r = chat.say(smp["messages"][:-1], smp["tools"], smp["thinking"])
    if "choices" not in r:
        return False, False, False, r
    m, e = r["choices"][0]["message"], smp["expect"]
    calls = [k["function"] for k in m.get("tool_calls") or []]
    think = (m.get("reasoning_content") or "").strip() == smp["messages"][-1].get("reasoning_content", "")
    try:
        got = [{"name": k["name"], "arguments": json.loads(k["arguments"])} for k in calls]
    except ValueError:
        got = []
    if not isinstance(e, list):
        return not calls and (m.get("content") or "").strip() == str(e).strip(), think, False, m
    return got == e, think, [k["name"] for k in got] == [k["name"] for k in e], m


def grade(chat, a):
    t0, g, total = time.time(), Gen(a.seed, a.split), 0
    with cf.ThreadPoolExecutor(8) as ex:
        for t in a.tasks:
            smps = [g.sample(t) for _ in range(a.n)]
            res = list(ex.map(lambda smp: graded(chat, smp), smps))
            exact, think, names = (sum(r[i] for r in res) / a.n for i in range(3))
            total += exact
            line = f"{t:13s} exact {exact:6.1%}  think-exact {think:6.1%}"
            if t.startswith("tool_") and t != "tool_result":
                line += f"  fn-name {names:6.1%}"
            print(line, flush=True)
            for r, q in [(r, q) for r, q in zip(res, smps) if not r[0]][: a.bad]:
                said = {k: v for k, v in r[3].items() if k != "role"}
                print("     ", str((q["messages"][-2]["content"], q["expect"], said))[:420], flush=True)
    print(f"mean {total / len(a.tasks):.1%}  {time.time() - t0:.1f}s")


def quick(chat):
    for m, tools, think, extra in QUICK:
        r = chat.say(m, tools, think, extra)
        if "choices" not in r:
            print("ERROR", m[-1]["content"], r)
            continue
        o = r["choices"][0]["message"]
        asked = f"[{m[0]['role']}: {m[0]['content']}] " if m[0]["role"] in ("system", "developer") else ""
        asked += str(m[-1]["content"]) + (f"  {{{len(tools)} tools}}" if tools else "")
        asked += f"  {{{'json' if 'response_format' in extra else 'required'}}}" if extra else ""
        said = f"<think {o['reasoning_content']}> " if o.get("reasoning_content") else ""
        said += (o.get("content") or "").replace("\n", "\\n")
        said += " ".join(f"{k['function']['name']}({k['function']['arguments']})" for k in o.get("tool_calls") or [])
        print(f"{asked}\n    -> {said}", flush=True)


def main():
    ap = argparse.ArgumentParser()
    ap.add_argument("model")
    ap.add_argument("--n", type=int, default=80, help="prompts a task")
    ap.add_argument("--split", default="test")
    ap.add_argument("--quick", action="store_true")
    ap.add_argument("--tok")
    ap.add_argument("--seed", type=int, default=777)
    ap.add_argument("--threads", type=int, default=1)
    ap.add_argument("--tasks", nargs="*", default=TASKS)
    ap.add_argument("--bad", type=int, default=1, help="wrong answers shown a task")
    a = ap.parse_args()
    chat = Chat(a.model, a.threads)
    if a.tok:
        check_tokenizer(chat, a.tok)
    if not a.quick:
        grade(chat, a)
    quick(chat)


if __name__ == "__main__":
    main()
