"""Near-character tokenizer for the tiny built-in model.

    python tokenizer.py OUT_DIR        # writes OUT_DIR/tokenizer.json (small custom layout) and chat_template.jinja

Vocabulary (< 512 tokens): 256 bytes, ~110 short letter merges learnt from words.txt with flat word frequency (so that
every token stays frequent and any word splits the same way wherever it stands), and hand-picked pieces of the chat
template / JSON that are matched as a whole.  In the GGUF this is an ordinary "gpt2" BPE with the "qwen2" pre-tokenizer
plus USER_DEFINED tokens; encode() below reproduces llama.cpp's algorithm (longest special token first over the
whole text, then pre-tokenize, then merges by rank).  make_tiny_gguf.py writes it; eval_tiny.py --tok counts differences (about 5 % of prompts, from overlapping pieces of one length: see encode).
"""

import collections, functools, json, pathlib, shutil, sys
import regex

HERE = pathlib.Path(__file__).parent
SPLIT = regex.compile(
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CONTROL = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|im_start|>user\n",
    "<|im_start|>assistant\n",
    "<|im_start|>system\n",
]
USER = [
    "<think>",
    "</think>",
    "<tool_call>",
    "</tool_call>",
    "<tool_response>",
    "</tool_response>",
    "<tools>",
    "</tools>",
    '{"name": "',
    '", "arguments": {',
    '": "',
    '", "',
    '": ',
    ', "',
    '{"',
    '"}',
    '"}}',
    '": ["',
    '"]',
    '": {"',
    '": [',
    "}}",
    "{}",
    "[]",
    ": string",
    ": integer",
    ": number",
    ": boolean",
    " the ",
    " is ",
    " and ",
    " of ",
    " to ",
    " in ",
    " a ",
    " for ",
    "What is ",
    "What's ",
    "The user ",
    "Please ",
    "please ",
    "You are ",
    "Answer ",
    " with ",
    "I am ",
    "My ",
    " my ",
    "your ",
    "The ",
    " city",
    " name",
    " number",
    " weather",
    " tool",
    "Sorry, ",
    "): ",
    "get_",
    "Here is the result: ",
    "The tool says: ",
    "temperature",
    "tiny built-in test model",
    " cannot answer that. For real answers, start the server with --model.",
    "Hello",
    " help you today?",
    "true",
    "false",
]


def byte_table():
    bs = list(range(33, 127)) + list(range(161, 173)) + list(range(174, 256))
    cs = bs[:]
    n = 0
    for b in range(256):
        if b not in bs:
            bs.append(b)
            cs.append(256 + n)
            n += 1
    return dict(zip(bs, map(chr, cs)))


B2U = byte_table()


def learn(words, n):
    """Plain BPE on lower-case letters, every word counted once."""
    ws, merges = [list(w) for w in words], []
    for _ in range(n):
        c = collections.Counter()
        for w in ws:
            c.update(zip(w, w[1:]))
        a, b = max(c.items(), key=lambda kv: (kv[1], kv[0]))[0]
        merges.append((a, b))
        for i, w in enumerate(ws):
            if a + b in "".join(w):
                o, j = [], 0
                while j < len(w):
                    if j + 1 < len(w) and w[j] == a and w[j + 1] == b:
                        o.append(a + b)
                        j += 2
                    else:
                        o.append(w[j])
                        j += 1
                ws[i] = o
    return merges


class Tok:
    def __init__(self, path):
        d = json.loads((pathlib.Path(path) / "tokenizer.json").read_text())
        self.tokens, self.merges = d["tokens"], [tuple(m) for m in d["merges"]]
        self.control, self.user = d["control"], d["user"]
        self.id = {t: i for i, t in enumerate(self.tokens)}
        self.rank = {m: i for i, m in enumerate(self.merges)}
        self.special = sorted(self.control + self.user, key=lambda t: -len(t))
        self.word = functools.lru_cache(100_000)(self._word)

    def __len__(self):
        return len(self.tokens)

    def _word(self, w):
        p = [B2U[b] for b in w.encode()]
        while len(p) > 1:
            r, i = min((self.rank.get((p[i], p[i + 1]), 1 << 30), i) for i in range(len(p) - 1))
            if r == 1 << 30:
                break
            p[i : i + 2] = [p[i] + p[i + 1]]
        return [self.id[x] for x in p]

    def encode(self, text, rng=None):
        """rng: break ties between special tokens of one length at random (llama.cpp's std::sort leaves their order open,
        so training covers all of them)."""
        frags = [text]
        for t in sorted(self.special, key=lambda t: (-len(t), rng.random())) if rng else self.special:
            if t in text:
                out = []
                for f in frags:
                    if isinstance(f, int) or t not in f:
                        out.append(f)
                        continue
                    parts = f.split(t)
                    for k, q in enumerate(parts):
                        if k:
                            out.append(self.id[t])
                        if q:
                            out.append(q)
                frags = out
        ids = []
        for f in frags:
            if isinstance(f, int):
                ids.append(f)
            else:
                for w in SPLIT.findall(f):
                    ids += self.word(w)
        return ids

    def decode(self, ids):
        u2b, out = {v: k for k, v in B2U.items()}, b""
        sp = set(self.special)
        for i in ids:
            t = self.tokens[i]
            out += t.encode() if t in sp else bytes(u2b[c] for c in t)
        return out.decode(errors="replace")


def build(out, n_merges=112):
    words = (HERE / "words.txt").read_text().split()
    merges = learn(words, n_merges)
    base = [B2U[b] for b in range(256)]
    tokens = base + [a + b for a, b in merges] + CONTROL + USER
    assert len(set(tokens)) == len(tokens), [t for t, c in collections.Counter(tokens).items() if c > 1]
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    (out / "tokenizer.json").write_text(
        json.dumps({"tokens": tokens, "merges": merges, "control": CONTROL, "user": USER}, indent=0)
    )
    shutil.copy(HERE / "chat_template.jinja", out / "chat_template.jinja")


if __name__ == "__main__":
    build(sys.argv[1])
    t = Tok(sys.argv[1])
    e = t.encode(
        '<|im_start|>user\nWhat is the weather in Zurich? 12+34<|im_end|>\n<tool_call>\n{"name": "get_weather", "arguments": {"location": "Zürich", "days": 3}}'
    )
    print(len(t), [t.decode([i]) for i in e])
