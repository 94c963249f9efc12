"""A step of ACDiT training in straightforward PyTorch: what `acdit-world bench train` is compared with.

    python benches/pytorch_train.py --hidden 384 --layers 6 --heads 6 --resolution 128 --batch 4 --json

Written from the paper (arXiv 2412.07720): clean and noised blocks stand in one sequence of twice the clip's length, and one dense boolean
mask, the skip-causal one, says who sees whom; `scaled_dot_product_attention` does the rest. Weights are f32, autocast makes products
bf16, the optimizer is torch.optim.AdamW (fused), the weights' average one foreach call, gradients are clipped. Timed is what
`acdit-world bench train` times: noise, forward, backward, clipping, AdamW, average. Of --steps steps after one that warms up, the
median counts.
"""

import argparse
import statistics

import torch
import torch.nn.functional as F
from torch import nn

from pytorch_baseline import LABELS, LATENT_CHANNELS, VAE_FACTOR, Acdit, peak_memory_bytes, rope_table, rotate, seconds, show, sinusoid


def attend(attention, x, rope, mask):
    n, l, d = x.shape
    q, k, v = attention.qkv(x).view(n, l, 3, attention.heads, d // attention.heads).permute(2, 0, 3, 1, 4)
    q, k = rotate(attention.q_norm(q), rope).to(v.dtype), rotate(attention.k_norm(k), rope).to(v.dtype)
    out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)
    return attention.proj(out.transpose(1, 2).reshape(n, l, d))


def modulate(x, shift, scale):
    """x (N, T, B, D) by a shift and a scale for each block, (N, T, 1, D)."""
    return x * (1 + scale) + shift


def layer(block, clean, noised, condition, rope, mask):
    """clean and noised (N, T, B, D), condition (N, T, D)."""
    n, t, b, d = clean.shape
    modulation = block.adaLN_modulation(condition).unsqueeze(2).chunk(6, dim=-1)
    shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation
    both = torch.cat([block.norm1(clean), modulate(block.norm1(noised), shift_msa, scale_msa)], 1)
    clean_out, noised_out = attend(block.attn, both.view(n, 2 * t * b, d), rope, mask).view(n, 2 * t, b, d).chunk(2, dim=1)
    clean, noised = clean + clean_out, noised + gate_msa * noised_out
    both = torch.cat([block.norm2(clean), modulate(block.norm2(noised), shift_mlp, scale_mlp)], 1)
    clean_out, noised_out = block.mlp(both).chunk(2, dim=1)
    return clean + clean_out, noised + gate_mlp * noised_out


def forward(network, clean, noised, timesteps, labels, rope, mask):
    """clean and noised tokens (N, T, B, C), timesteps and labels (N, T): predictions (N, T, B, C)."""
    n, t = timesteps.shape
    condition = network.t_embedder(sinusoid(timesteps.flatten())).view(n, t, -1) + network.y_embedder(labels)
    clean, noised = network.x_embedder(clean), network.x_embedder(noised)
    for block in network.blocks:
        clean, noised = layer(block, clean, noised, condition, rope, mask)
    shift, scale = network.adaLN_modulation(condition).unsqueeze(2).chunk(2, dim=-1)
    return network.linear(modulate(network.norm(noised), shift, scale)).float()


def skip_causal_mask(blocks, tokens, window):
    """(2·T·B, 2·T·B): clean blocks see clean ones up to themselves, noised ones the clean ones before them and themselves."""
    i = torch.arange(blocks)
    behind = i[:, None] - i[None, :]
    near = behind <= (window or blocks)
    clean, noised = (behind >= 0) & near, (behind > 0) & near
    mask = torch.cat([torch.cat([clean, torch.zeros_like(clean)], 1), torch.cat([noised, behind == 0], 1)])
    return mask.repeat_interleave(tokens, 0).repeat_interleave(tokens, 1)


def run(args):
    device = torch.device("cuda" if args.device == "auto" and torch.cuda.is_available() else args.device.replace("auto", "cpu"))
    bf16 = {"bf16": True, "f32": False, "auto": device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()}[args.dtype]
    if args.threads:
        torch.set_num_threads(args.threads)
    torch.manual_seed(0)
    side = args.resolution // VAE_FACTOR // args.patch
    tokens, width = args.frames_per_block * side**2, args.patch**2 * LATENT_CHANNELS
    network = Acdit(args.layers, args.hidden, args.heads, width).to(device)
    average = [p.detach().clone() for p in network.parameters()]
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-4, betas=(0.9, 0.95), weight_decay=0.0, fused=True)
    rope = tuple(
        torch.cat([table, table]).to(device)
        for table in rope_table(args.blocks * args.frames_per_block, side, args.hidden // args.heads, 0, torch.float32)
    )
    mask = skip_causal_mask(args.blocks, tokens, args.window).to(device)
    step_forward = torch.compile(forward) if args.compile else forward

    shape = (args.batch, args.blocks, tokens, width)
    latents = torch.randn(shape, device=device)
    known = torch.randint(LABELS, shape[:2], device=device)
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, device=device), 0)

    def step():
        timesteps = torch.randint(1000, shape[:2], device=device)
        alpha, sigma = kept[timesteps].sqrt()[..., None, None], (1 - kept[timesteps]).sqrt()[..., None, None]
        noise = torch.randn_like(latents)
        labels = known.masked_fill(torch.rand(shape[:2], device=device) < 0.1, LABELS)
        with torch.autocast(device.type, torch.bfloat16, enabled=bf16):
            prediction = step_forward(network, latents, alpha * latents + sigma * noise, timesteps, labels, rope, mask)
        loss = (prediction - (alpha * noise - sigma * latents)).square().mean()
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(network.parameters(), 1.0)
        optimizer.step()
        torch._foreach_lerp_(average, list(network.parameters()), 1e-4)
        return loss.item()

    step()
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
    timed = [seconds(device, step) for _ in range(args.steps)]
    spent = statistics.median(time for time, _ in timed)
    return {
        "program": "pytorch " + torch.__version__ + (" compiled" if args.compile else " eager"),
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "dtype": "bf16" if bf16 else "f32",
        "seconds_per_step": spent,
        "samples_per_second": args.batch / spent,
        "peak_memory_bytes": peak_memory_bytes(device),
        "loss": timed[-1][1],
    }


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name, default in {"hidden": 384, "layers": 6, "heads": 6, "patch": 2, "resolution": 128, "batch": 4, "blocks": 4}.items():
        parser.add_argument("--" + name, type=int, default=default)
    parser.add_argument("--frames-per-block", type=int, default=4)
    parser.add_argument("--window", type=int, default=0, help="blocks that a block sees beside itself; 0 for all before it")
    parser.add_argument("--steps", type=int, default=5, help="steps timed after the warm-up")
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--dtype", choices=["auto", "f32", "bf16"], default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile the forward pass")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


if __name__ == "__main__":
    args = parse()
    show(run(args), args.json)
