"""Chat sample -> token ids, through the same chat_template.jinja and tokenizer that go into the GGUF."""

import json, pathlib
import jinja2
from tokenizer import Tok


class Renderer:
    """Chat -> tokens, with the same jinja template that goes into the GGUF."""

    def __init__(s, d):
        s.tok = Tok(d)
        env = jinja2.Environment(trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"])
        env.filters["tojson"] = lambda x, **k: json.dumps(x, ensure_ascii=False)
        s.t = env.from_string((pathlib.Path(d) / "chat_template.jinja").read_text())

    def prompt(s, smp):
        return s.t.render(
            messages=smp["messages"][:-1],
            tools=smp["tools"],
            add_generation_prompt=True,
            enable_thinking=smp["thinking"],
        )

    def encode(s, smp, prompt_w=0.1, rng=None):
        """-> (token ids, per-token loss weight); the last assistant turn has weight 1."""
        last = smp["messages"][-1]
        body = f"<think>\n{last['reasoning_content']}\n</think>\n\n" if smp["thinking"] else ""
        if last.get("tool_calls"):
            body += "\n".join(
                '<tool_call>\n{"name": "'
                + f["name"]
                + '", "arguments": '
                + json.dumps(f["arguments"], ensure_ascii=False)
                + "}\n</tool_call>"
                for f in (c["function"] for c in last["tool_calls"])
            )
        else:
            body += last["content"]
        a, b = s.tok.encode(s.prompt(smp), rng), s.tok.encode(body + "<|im_end|>", rng)
        return a + b, [prompt_w] * len(a) + [1.0] * len(b)
