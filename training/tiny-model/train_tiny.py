"""Train the tiny Qwen3-architecture chat model from scratch on the synthetic chats of datagen.py (CPU or CUDA).

    python train_tiny.py TOKENIZER_DIR OUT_DIR [--tokens 22e6] [--minutes 999] [--compile]

Writes OUT_DIR/{config.json, model.safetensors, tokenizer.json, chat_template.jinja}, also every --save minutes.
Muon for the hidden matrices, AdamW for embeddings and norms, bf16 autocast, warm-up / constant / linear decay;
the loss counts the answer fully and the prompt with weight 0.1.  The schedule ends at --tokens or --minutes,
whichever comes first.
"""

import argparse, json, math, multiprocessing as mp, os, pathlib, shutil, time

# No spinning at barriers: much faster when other jobs share the cores.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
import torch, torch.nn as nn, torch.nn.functional as F
from datagen import Gen
from render import Renderer
from tokenizer import Tok


class RMSNorm(nn.Module):
    def __init__(self, d, eps=1e-6):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(d))
        self.eps = eps

    def forward(self, x):
        return F.rms_norm(x, (x.shape[-1],), self.weight.to(x.dtype), self.eps)


class Attn(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.h, s.kv, s.d = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
        L = lambda i, o: nn.Linear(i, o, bias=False)
        s.q_proj, s.k_proj, s.v_proj = (
            L(c["hidden_size"], s.h * s.d),
            L(c["hidden_size"], s.kv * s.d),
            L(c["hidden_size"], s.kv * s.d),
        )
        s.o_proj = L(s.h * s.d, c["hidden_size"])
        s.q_norm, s.k_norm = RMSNorm(s.d), RMSNorm(s.d)

    def forward(s, x, cos, sin):
        B, T, _ = x.shape
        q = s.q_norm(s.q_proj(x).view(B, T, s.h, s.d)).transpose(1, 2)
        k = s.k_norm(s.k_proj(x).view(B, T, s.kv, s.d)).transpose(1, 2)
        v = s.v_proj(x).view(B, T, s.kv, s.d).transpose(1, 2)

        def rot(t):
            a, b = t.chunk(2, -1)  # NEOX-style rope, as HF Qwen3
            return t * cos + torch.cat((-b, a), -1) * sin

        q, k = rot(q), rot(k)
        with torch.autocast(x.device.type, enabled=False):  # the CPU attention kernel is twice as fast in float32
            f = torch.float32 if x.device.type == "cpu" else x.dtype
            o = F.scaled_dot_product_attention(q.to(f), k.to(f), v.to(f), is_causal=True).to(x.dtype)
        return s.o_proj(o.transpose(1, 2).reshape(B, T, -1))


class MLP(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.gate_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        s.up_proj = nn.Linear(c["hidden_size"], c["intermediate_size"], bias=False)
        s.down_proj = nn.Linear(c["intermediate_size"], c["hidden_size"], bias=False)

    def forward(s, x):
        return s.down_proj(F.silu(s.gate_proj(x)) * s.up_proj(x))


class Block(nn.Module):
    def __init__(s, c):
        super().__init__()
        s.input_layernorm, s.post_attention_layernorm = RMSNorm(c["hidden_size"]), RMSNorm(c["hidden_size"])
        s.self_attn, s.mlp = Attn(c), MLP(c)

    def forward(s, x, cos, sin):
        x = x + s.self_attn(s.input_layernorm(x), cos, sin)
        return x + s.mlp(s.post_attention_layernorm(x))


class Tiny(nn.Module):
    """State-dict compatible with transformers' Qwen3ForCausalLM (tied embeddings)."""

    def __init__(s, c):
        super().__init__()
        s.c = c
        s.model = nn.Module()
        s.model.embed_tokens = nn.Embedding(c["vocab_size"], c["hidden_size"])
        s.model.layers = nn.ModuleList(Block(c) for _ in range(c["num_hidden_layers"]))
        s.model.norm = RMSNorm(c["hidden_size"])
        nn.init.normal_(s.model.embed_tokens.weight, std=0.02)
        for n, p in s.named_parameters():
            if p.dim() == 2 and "embed" not in n:
                nn.init.normal_(
                    p,
                    std=1 / math.sqrt(p.shape[1]) * (0.3 if n.endswith(("o_proj.weight", "down_proj.weight")) else 0.8),
                )
        inv = c["rope_theta"] ** (-torch.arange(0, c["head_dim"], 2).float() / c["head_dim"])
        f = torch.outer(torch.arange(c["max_position_embeddings"]).float(), inv)
        f = torch.cat((f, f), -1)
        s.register_buffer("cos", f.cos(), persistent=False)
        s.register_buffer("sin", f.sin(), persistent=False)

    def forward(s, ids, targets=None, weights=None):
        x = s.model.embed_tokens(ids)
        T = ids.shape[1]
        dt = torch.bfloat16 if torch.is_autocast_enabled(ids.device.type) else x.dtype
        x = x.to(dt)
        cos, sin = s.cos[:T].to(dt), s.sin[:T].to(dt)
        for b in s.model.layers:
            x = b(x, cos, sin)
        logits = F.linear(s.model.norm(x), s.model.embed_tokens.weight)
        if targets is None:
            return logits
        l = F.cross_entropy(logits.float().flatten(0, 1), targets.flatten(), reduction="none")
        return (l * weights.flatten()).sum() / weights.sum()


class Muon:
    """Momentum + Newton-Schulz orthogonalisation, all matrices of one shape in one batch (few, large CPU kernels)."""

    def __init__(s, params, lr, momentum=0.95, wd=0.01):
        s.param_groups = [{"lr": lr}]
        s.mu, s.wd, s.sets = momentum, wd, {}
        for p in params:
            s.sets.setdefault(tuple(sorted(p.shape)), []).append(p)
        s.buf = {k: torch.zeros(len(v), *k, device=v[0].device) for k, v in s.sets.items()}

    @torch.no_grad()
    def step(s):
        lr = s.param_groups[0]["lr"]
        for k, ps in s.sets.items():
            flip = [p.shape[0] > p.shape[1] for p in ps]
            g = torch.stack([p.grad.T if f else p.grad for p, f in zip(ps, flip)])
            b = s.buf[k].lerp_(g, 1 - s.mu)
            x = g.lerp_(b, s.mu).bfloat16()
            x = x / (x.norm(dim=(1, 2), keepdim=True) + 1e-7)
            for _ in range(5):
                y = x @ x.mT
                x = torch.baddbmm(x, torch.baddbmm(y, y, y, beta=-4.775, alpha=2.0315), x, beta=3.4445)
            for p, f, u in zip(ps, flip, x.float()):
                p.mul_(1 - lr * s.wd).add_(u.T if f else u, alpha=-lr * math.sqrt(max(1, p.shape[0] / p.shape[1])))

    def zero_grad(s, set_to_none=True):
        for ps in s.sets.values():
            for p in ps:
                p.grad = None


SIZES = [
    *range(32, 129, 16),
    *range(160, 257, 32),
    *range(320, 1025, 64),
]  # few distinct shapes: the CPU kernels are cached per shape


def batches(tokdir, budget, seed, q, maxlen, n=0):
    """Data process: puts (ids, weights) arrays; every batch holds budget // T sequences padded to T + 1 tokens."""
    import numpy as np

    rend, g, bins = Renderer(tokdir), Gen(seed), {T: [] for T in SIZES}
    while True:
        e = rend.encode(g.sample(), rng=g.r)
        n += 1
        if len(e[0]) > min(maxlen, 96 + n // 12):  # short sequences first
            continue
        T = next(t for t in SIZES if len(e[0]) <= t + 1)
        bins[T].append(e)
        if len(bins[T]) == budget // T:
            ids = np.zeros((budget // T, T + 1), np.int64)
            w = np.zeros((budget // T, T + 1), np.float32)
            for j, (i, x) in enumerate(bins[T]):
                ids[j, : len(i)] = i
                w[j, : len(x)] = x
            q.put((ids, w))
            bins[T] = []


def save(m, c, tokdir, out):
    from safetensors.torch import save_file

    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    save_file(
        {k: v.detach().float().cpu().contiguous() for k, v in m.state_dict().items()},
        str(out / "model.tmp"),
        metadata={"format": "pt"},
    )
    (out / "model.tmp").rename(out / "model.safetensors")
    (out / "config.json").write_text(json.dumps(c, indent=1))
    for f in ("tokenizer.json", "chat_template.jinja"):
        shutil.copy(pathlib.Path(tokdir) / f, out / f)


def arguments():
    ap = argparse.ArgumentParser()
    ap.add_argument("tokdir")
    ap.add_argument("out")
    ap.add_argument("--tokens", type=float, default=22e6)
    ap.add_argument("--minutes", type=float, default=999)
    ap.add_argument("--budget", type=int, default=6144, help="tokens in a batch")
    ap.add_argument("--maxlen", type=int, default=640)
    ap.add_argument("--dim", type=int, default=192)
    ap.add_argument("--layers", type=int, default=6)
    ap.add_argument("--heads", type=int, default=6)
    ap.add_argument("--ffn", type=int, default=512)
    ap.add_argument("--lr", type=float, default=3e-3)
    ap.add_argument("--muon-lr", type=float, default=0.02)
    ap.add_argument("--seed", type=int, default=1)
    ap.add_argument("--compile", action="store_true")
    ap.add_argument("--threads", type=int, default=2)
    ap.add_argument("--save", type=float, default=3, help="minutes between saves")
    ap.add_argument("--decay", type=float, default=0.5, help="share of the schedule with falling learning rate")
    ap.add_argument("--init", help="continue from this folder's weights")
    return ap.parse_args()


def shape(a, vocab):
    """config.json, in the words of transformers."""
    return dict(
        architectures=["Qwen3ForCausalLM"],
        model_type="qwen3",
        vocab_size=len(vocab),
        hidden_size=a.dim,
        num_hidden_layers=a.layers,
        num_attention_heads=a.heads,
        num_key_value_heads=a.heads,
        head_dim=a.dim // a.heads,
        intermediate_size=a.ffn,
        max_position_embeddings=8192,
        rope_theta=10000.0,
        rms_norm_eps=1e-6,
        tie_word_embeddings=True,
        hidden_act="silu",
        attention_bias=False,
        attention_dropout=0.0,
        torch_dtype="float32",
        bos_token_id=None,
        eos_token_id=vocab.id["<|im_end|>"],
        pad_token_id=vocab.id["<|endoftext|>"],
    )


def optimizers(m, a):
    hidden = [p for k, p in m.named_parameters() if p.dim() == 2 and "embed" not in k]
    other = [p for k, p in m.named_parameters() if p.dim() != 2 or "embed" in k]
    adam = torch.optim.AdamW(other, lr=a.lr, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    return [Muon(hidden, a.muon_lr), adam]


def rate(step, done, decay):
    """Warm-up over 40 steps, constant, then linear to (nearly) nothing over the last `decay` of the schedule."""
    return min(1, (step + 1) / 40) * (1 if done < 1 - decay else max(0.01, (1 - done) / decay))


def feeder(a):
    """The data process and its queue."""
    spawn = mp.get_context("spawn")
    q = spawn.Queue(64)
    told = (a.tokdir, a.budget, a.seed, q, a.maxlen, 10**6 if a.init else 0)
    process = spawn.Process(target=batches, args=told, daemon=True)
    process.start()
    return process, q


def train(a, m, c, dev):
    opts = optimizers(m, a)
    groups = [g for o in opts for g in o.param_groups]
    base = [g["lr"] for g in groups]
    fwd = torch.compile(m, dynamic=True) if a.compile else m
    process, q = feeder(a)
    t0 = saved = time.time()
    ema, step, toks, done = None, 0, 0, 0
    while done < 1:
        k = rate(step, done, a.decay)
        for lr, g in zip(base, groups):
            g["lr"] = lr * k
        ids, w = (torch.from_numpy(x).to(dev) for x in q.get())
        with torch.autocast(dev, torch.bfloat16):
            loss = fwd(ids[:, :-1], ids[:, 1:], w[:, 1:])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(m.parameters(), 1.0)
        for o in opts:
            o.step()
            o.zero_grad(set_to_none=True)
        step, toks, now = step + 1, toks + ids.numel(), loss.item()
        ema = now if ema is None else 0.97 * ema + 0.03 * now
        wall = time.time() - t0
        done = max(wall / (a.minutes * 60), toks / a.tokens)
        if step % 25 == 0 or step < 4:
            speed = f"tok {toks / 1e6:.2f}M {toks / wall:.0f}/s"
            print(f"step {step} {wall:.0f}s loss {now:.3f} ema {ema:.4f} {speed} lr {k:.2f}", flush=True)
        if time.time() - saved > a.save * 60:
            save(m, c, a.tokdir, a.out)
            saved = time.time()
    save(m, c, a.tokdir, a.out)
    process.terminate()
    print(f"done step {step} tokens {toks / 1e6:.2f}M ema {ema:.4f} wall {wall:.0f}s cpu {time.process_time():.0f}s")


def main():
    a = arguments()
    torch.set_num_threads(a.threads)
    torch.manual_seed(a.seed)
    dev = "cuda" if torch.cuda.is_available() else "cpu"
    vocab = Tok(a.tokdir)
    c = shape(a, vocab)
    m = Tiny(c).to(dev)
    if a.init:
        from safetensors.torch import load_file

        m.load_state_dict(load_file(str(pathlib.Path(a.init) / "model.safetensors")))
    print(f"params {sum(p.numel() for p in m.parameters()) / 1e6:.2f}M vocab {len(vocab)} dev {dev}", flush=True)
    train(a, m, c, dev)


if __name__ == "__main__":
    main()
