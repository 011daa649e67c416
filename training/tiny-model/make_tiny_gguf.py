"""Write the trained tiny model as GGUF (Qwen3 architecture, gpt2/qwen2 tokenizer, embedded chat template).

    python make_tiny_gguf.py MODEL_DIR OUT.gguf [--type q8_0|f16|f32] [--name antiphon-tiny]
"""

import argparse, json, pathlib
import gguf, numpy as np
from safetensors.numpy import load_file

MAP = {
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.q_norm": "attn_q_norm",
    "self_attn.k_norm": "attn_k_norm",
    "post_attention_layernorm": "ffn_norm",
    "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up",
    "mlp.down_proj": "ffn_down",
}


def gguf_name(hf):
    if hf == "model.embed_tokens.weight":
        return "token_embd.weight"
    if hf == "model.norm.weight":
        return "output_norm.weight"
    _, _, i, rest = hf.split(".", 3)
    return f"blk.{i}.{MAP[rest.removesuffix('.weight')]}.weight"


def convert(src, out, qtype="q8_0", name="antiphon-tiny"):
    src = pathlib.Path(src)
    c = json.loads((src / "config.json").read_text())
    t = json.loads((src / "tokenizer.json").read_text())
    w = gguf.GGUFWriter(str(out), "qwen3")
    w.add_name(name)
    w.add_description("Tiny built-in test/demo model trained on synthetic chats; not a general assistant.")
    w.add_context_length(c["max_position_embeddings"])
    w.add_embedding_length(c["hidden_size"])
    w.add_block_count(c["num_hidden_layers"])
    w.add_feed_forward_length(c["intermediate_size"])
    w.add_head_count(c["num_attention_heads"])
    w.add_head_count_kv(c["num_key_value_heads"])
    w.add_key_length(c["head_dim"])
    w.add_value_length(c["head_dim"])
    w.add_rope_freq_base(c["rope_theta"])
    w.add_layer_norm_rms_eps(c["rms_norm_eps"])
    w.add_vocab_size(c["vocab_size"])
    w.add_file_type({"f32": 0, "f16": 1, "q8_0": 7}[qtype])
    kind = {**{x: gguf.TokenType.CONTROL for x in t["control"]}, **{x: gguf.TokenType.USER_DEFINED for x in t["user"]}}
    assert len(t["tokens"]) == c["vocab_size"]
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("qwen2")
    w.add_token_list(t["tokens"])
    w.add_token_types([kind.get(x, gguf.TokenType.NORMAL) for x in t["tokens"]])
    w.add_token_merges([f"{a} {b}" for a, b in t["merges"]])
    ids = {x: i for i, x in enumerate(t["tokens"])}
    w.add_eos_token_id(ids["<|im_end|>"])
    w.add_eot_token_id(ids["<|im_end|>"])
    w.add_pad_token_id(ids["<|endoftext|>"])
    w.add_add_bos_token(False)
    w.add_chat_template((src / "chat_template.jinja").read_text())
    Q = {
        "f32": gguf.GGMLQuantizationType.F32,
        "f16": gguf.GGMLQuantizationType.F16,
        "q8_0": gguf.GGMLQuantizationType.Q8_0,
    }[qtype]
    for k, v in sorted(load_file(str(src / "model.safetensors")).items()):
        v = v.astype(np.float32)
        q = Q if v.ndim == 2 else gguf.GGMLQuantizationType.F32
        w.add_tensor(gguf_name(k), gguf.quants.quantize(v, q), raw_dtype=q)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


if __name__ == "__main__":
    ap = argparse.ArgumentParser()
    ap.add_argument("model")
    ap.add_argument("out")
    ap.add_argument("--type", default="q8_0")
    ap.add_argument("--name", default="antiphon-tiny")
    a = ap.parse_args()
    convert(a.model, a.out, a.type, a.name)
