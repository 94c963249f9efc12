"""One block of an endless ACDiT stream in straightforward PyTorch: what `acdit-world bench` is compared with.

    python benches/pytorch_baseline.py --preset xl --resolution 256 --device cuda --json
    python benches/pytorch_baseline.py --hidden 384 --layers 6 --heads 6 --resolution 128 --steps 10 --compile

Written from the paper (arXiv 2412.07720) the way its published sampler works: guidance doubles the batch, and the cache of clean
keys and values with it; keys are concatenated at every step; each block takes `--steps` steps of DPM-Solver++(2M). The stream is in
its steady state, with a full window of clean blocks. Weights are random, which costs the same as trained ones. It is no strawman:
given the published weights and position tables, `denoise` and `clean` reproduce the published sampler's latents to 1e-6.

What is timed is one block of every session: `denoise_seconds`, the guided steps, and `context_seconds`, the clean forward that
prepares the next block (`recompute`: the whole window again; `windowed`: the new block alone). There is no VAE in it; `--vae` times
diffusers' decoder on the same frames, apart from the rest. Of `--blocks` blocks after a warm-up one, the median counts.
"""

import argparse
import json
import math
import resource
import statistics
import sys
import time

import torch
import torch.nn.functional as F
from torch import nn

PRESETS = {"b": (12, 768, 12), "l": (24, 1024, 16), "xl": (28, 1152, 18), "h": (32, 1280, 20)}  # layers, hidden, heads
LATENT_CHANNELS = 4
VAE_FACTOR = 8
LABELS = 101
TRAINING_FRAMES = 16


class Attention(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(hidden, 3 * hidden)
        self.q_norm = nn.RMSNorm(hidden // heads, eps=1e-6)
        self.k_norm = nn.RMSNorm(hidden // heads, eps=1e-6)
        self.proj = nn.Linear(hidden, hidden)

    def forward(self, x, rope, past, mask):
        """x (N, L, D), past a pair of (N, H, P, d) or None; also returns the keys and values of x, (N, H, L, d) each."""
        n, l, d = x.shape
        q, k, v = self.qkv(x).view(n, l, 3, self.heads, d // self.heads).permute(2, 0, 3, 1, 4)
        q, k = rotate(self.q_norm(q), rope), rotate(self.k_norm(k), rope)
        keys, values = (k, v) if past is None else (torch.cat([past[0], k], 2), torch.cat([past[1], v], 2))
        out = F.scaled_dot_product_attention(q, keys, values, attn_mask=mask)
        return self.proj(out.transpose(1, 2).reshape(n, l, d)), (k, v)


class Block(nn.Module):
    def __init__(self, hidden, heads):
        super().__init__()
        self.norm1 = nn.RMSNorm(hidden, eps=1e-6)
        self.attn = Attention(hidden, heads)
        self.norm2 = nn.RMSNorm(hidden, eps=1e-6)
        self.mlp = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.GELU(approximate="tanh"), nn.Linear(4 * hidden, hidden))
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 6 * hidden))

    def forward(self, x, condition, rope, past, mask):
        """Noised tokens come with a condition (N, D); clean tokens with None: neither modulated nor gated."""
        if condition is None:
            out, kv = self.attn(self.norm1(x), rope, past, mask)
            x = x + out
            return x + self.mlp(self.norm2(x)), kv
        modulation = self.adaLN_modulation(condition).unsqueeze(1).chunk(6, dim=-1)
        shift_msa, scale_msa, gate_msa, shift_mlp, scale_mlp, gate_mlp = modulation
        out, kv = self.attn(self.norm1(x) * (1 + scale_msa) + shift_msa, rope, past, mask)
        x = x + gate_msa * out
        return x + gate_mlp * self.mlp(self.norm2(x) * (1 + scale_mlp) + shift_mlp), kv


class Acdit(nn.Module):
    def __init__(self, layers, hidden, heads, token_width):
        super().__init__()
        self.x_embedder = nn.Linear(token_width, hidden, bias=False)
        self.t_embedder = nn.Sequential(nn.Linear(256, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.y_embedder = nn.Embedding(LABELS + 1, hidden)
        self.blocks = nn.ModuleList(Block(hidden, heads) for _ in range(layers))
        self.norm = nn.RMSNorm(hidden, eps=1e-6)
        self.adaLN_modulation = nn.Sequential(nn.SiLU(), nn.Linear(hidden, 2 * hidden))
        self.linear = nn.Linear(hidden, token_width)

    def clean(self, tokens, rope, past, mask):
        """Keys and values of clean tokens (N, L, C), one pair per layer. What the last layer makes of them is not needed."""
        x, cache = self.x_embedder(tokens), []
        for i, block in enumerate(self.blocks):
            x, kv = block(x, None, rope, past[i] if past else None, mask)
            cache.append(kv)
        return cache

    def forward(self, tokens, t, labels, rope, past):
        """The noise in tokens (N, L, C) at timestep t (N,), seen from the clean past."""
        x = self.x_embedder(tokens)
        condition = self.t_embedder(sinusoid(t).to(x.dtype)) + self.y_embedder(labels)
        for block, kv in zip(self.blocks, past):
            x, _ = block(x, condition, rope, kv, None)
        shift, scale = self.adaLN_modulation(condition).unsqueeze(1).chunk(2, dim=-1)
        return self.linear(self.norm(x) * (1 + scale) + shift)


def sinusoid(t):
    """Timesteps (N,) to (N, 256), cosines first."""
    frequencies = torch.exp(torch.arange(128, device=t.device) * (-math.log(10000) / 128))
    angles = t.float()[:, None] * frequencies
    return torch.cat([angles.cos(), angles.sin()], -1)


def rotate(x, rope):
    cos, sin = rope
    first, second = x.chunk(2, dim=-1)
    return x * cos + torch.cat([-second, first], -1) * sin


def rope_table(frames, side, head, first_frame, dtype):
    """Cosines and sines (L, d) of `frames` frames of side² tokens: a share of the head for each axis (eq. 4 of the paper)."""
    pairs = head // 2
    shares = [pairs * 2 // 8, pairs * 3 // 8]
    shares.append(pairs - sum(shares))
    axes = torch.meshgrid(torch.arange(first_frame, first_frame + frames), torch.arange(side), torch.arange(side), indexing="ij")
    angles = []
    for positions, share, length in zip(axes, shares, (TRAINING_FRAMES, side, side)):
        base = 100 * math.ceil(8 * length / (100 * math.pi))
        angles.append(positions.flatten()[:, None] * base ** (-torch.arange(share) / share))
    angles = torch.cat(angles * 2, -1)
    return angles.cos().to(dtype), angles.sin().to(dtype)


def dpm_solver(steps):
    """Timesteps of DPM-Solver++(2M), and (α, σ) at each and at the end."""
    kept = torch.cumprod(1 - torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64), 0)
    timesteps = torch.linspace(0, 999, steps + 1, dtype=torch.float64).round().long().flip(0)[:-1]
    return timesteps.tolist(), [(kept[t].sqrt().item(), (1 - kept[t]).sqrt().item()) for t in timesteps] + [(1.0, 0.0)]


def denoise(network, noise, labels, rope, past, steps, guidance):
    """Guided sampling of one block from noise (S, L, C); past holds both branches, (2·S, H, P, d)."""
    timesteps, levels = dpm_solver(steps)
    x, previous, last_h = noise, None, None
    both = torch.cat([labels, torch.full_like(labels, LABELS)])
    for i, t in enumerate(timesteps):
        (alpha, sigma), (alpha_to, sigma_to) = levels[i], levels[i + 1]
        batch = torch.cat([x, x]).to(network.linear.weight.dtype)
        times = torch.full((len(batch),), t, device=x.device)
        cond, null = network(batch, times, both, rope, past).float().chunk(2)
        clean = (x - sigma * (null + guidance * (cond - null))) / alpha
        decay = (sigma_to / alpha_to) / (sigma / alpha)  # e^-h, h the step in log-SNR; 0 at the last, which is of first order
        estimate = clean
        if decay > 0:
            h = -math.log(decay)
            if previous is not None:
                estimate = clean + (clean - previous) * (h / (2 * last_h))
            previous, last_h = clean, h
        x = (sigma_to / sigma) * x + alpha_to * (1 - decay) * estimate
    return x


class Stream:
    """A batch of endless streams with a full window."""

    def __init__(self, args, network, dtype):
        self.args, self.network = args, network
        self.side = args.resolution // VAE_FACTOR // args.patch
        self.tokens = args.frames_per_block * self.side**2
        self.width = args.patch**2 * LATENT_CHANNELS
        self.dtype, self.device = dtype, args.device
        head = args.hidden // args.heads
        self.rope = lambda first, blocks: tuple(
            table.to(self.device)
            for table in rope_table(blocks * args.frames_per_block, self.side, head, first * args.frames_per_block, dtype)
        )
        self.window_rope, self.block_rope = self.rope(0, args.window), self.rope(args.window, 1)
        block = torch.arange(args.window, device=self.device).repeat_interleave(self.tokens)
        self.mask = block[:, None] >= block[None, :]
        self.latents = [self.noise() for _ in range(args.window)]
        self.labels = torch.zeros(args.sessions, dtype=torch.long, device=self.device)
        self.recompute()

    def noise(self):
        return torch.randn(self.args.sessions, self.tokens, self.width, device=self.device)

    def recompute(self):
        window = torch.cat(self.latents, 1).to(self.dtype)
        self.cache = self.network.clean(torch.cat([window, window]), self.window_rope, None, self.mask)

    def generate(self):
        args = self.args
        return denoise(self.network, self.noise(), self.labels, self.block_rope, self.cache, args.steps, args.guidance)

    def commit(self, latents):
        """Appends the new block, then drops the oldest. Positions do not advance: a rotation costs the same at each."""
        self.latents = self.latents[1:] + [latents]
        if self.args.window_mode == "recompute":
            return self.recompute()
        block = latents.to(self.dtype)
        new = self.network.clean(torch.cat([block, block]), self.block_rope, self.cache, None)
        self.cache = [
            (torch.cat([k, k_new], 2)[:, :, self.tokens :], torch.cat([v, v_new], 2)[:, :, self.tokens :])
            for (k, v), (k_new, v_new) in zip(self.cache, new)
        ]


def forward_flops(args, tokens, keys):
    """Matrix products of the layers over `tokens` tokens of one stream and branch, each attending `keys` keys."""
    return 24 * args.hidden**2 * args.layers * tokens + 4 * tokens * keys * args.hidden * args.layers


def block_flops(args, tokens):
    """What this program computes for one block of one session; a causal mask is counted as what it leaves, not as the square."""
    denoising = 2 * args.steps * forward_flops(args, tokens, (args.window + 1) * tokens)
    if args.window_mode == "windowed":
        return denoising + 2 * forward_flops(args, tokens, (args.window + 1) * tokens)
    return denoising + 2 * sum(forward_flops(args, tokens, (i + 1) * tokens) for i in range(args.window))


def matmul_flops_per_second(device, dtype):
    """The best rate of a square matrix product here: the ceiling that the share is a share of."""
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return 2 * size**3 / min(seconds(device, lambda: a @ b)[0] for _ in range(20))


def seconds(device, work):
    synchronize(device)
    start = time.perf_counter()
    result = work()
    synchronize(device)
    return time.perf_counter() - start, result


def synchronize(device):
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def peak_memory_bytes(device):
    """On CUDA what tensors held at most; on a CPU the process's largest resident size, Python and PyTorch included."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def vae_decode_seconds(args, dtype):
    try:
        from diffusers import AutoencoderKL
    except ImportError:
        sys.exit("--vae needs diffusers: pip install diffusers")
    blocks = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": LATENT_CHANNELS}
    kinds = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    vae = AutoencoderKL(**blocks, **kinds).to(args.device, dtype).eval()
    side = args.resolution // VAE_FACTOR
    frames = torch.randn(args.sessions * args.frames_per_block, LATENT_CHANNELS, side, side, device=args.device, dtype=dtype)
    return min(seconds(args.device, lambda: vae.decode(frames).sample)[0] for _ in range(1 + args.blocks))


def resolve(args):
    """Fills in what `auto` and the preset stand for."""
    layers, hidden, heads = PRESETS[args.preset]
    args.layers, args.hidden, args.heads = args.layers or layers, args.hidden or hidden, args.heads or heads
    if args.hidden % (2 * args.heads) or args.resolution % (VAE_FACTOR * args.patch):
        sys.exit("--hidden must be a multiple of twice --heads, --resolution of 8 times --patch")
    if args.device == "auto":
        args.device = "cuda" if torch.cuda.is_available() else "cpu"
    args.device = torch.device(args.device)
    if args.dtype == "auto":
        fast = args.device.type == "cuda" or torch.cpu._is_avx512_bf16_supported()
        args.dtype = "bf16" if fast else "f32"
    if args.window_mode == "auto":
        args.window_mode = "recompute"
    return {"bf16": torch.bfloat16, "f32": torch.float32}[args.dtype]


@torch.inference_mode()
def run(args):
    dtype = resolve(args)
    torch.manual_seed(0)
    ceiling = matmul_flops_per_second(args.device, dtype)
    network = Acdit(args.layers, args.hidden, args.heads, args.patch**2 * LATENT_CHANNELS).to(args.device, dtype).eval()
    if args.compile:
        network.forward, network.clean = torch.compile(network.forward), torch.compile(network.clean)
    stream = Stream(args, network, dtype)
    stream.commit(stream.generate())

    if args.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(args.device)
    denoising, context = [], []
    for _ in range(args.blocks):
        spent, latents = seconds(args.device, stream.generate)
        denoising.append(spent)
        context.append(seconds(args.device, lambda: stream.commit(latents))[0])

    whole = statistics.median(a + b for a, b in zip(denoising, context))
    flops = block_flops(args, stream.tokens)
    result = {
        "program": "pytorch " + torch.__version__ + (" compiled" if args.compile else " eager"),
        "device": torch.cuda.get_device_name(args.device) if args.device.type == "cuda" else "cpu",
        "dtype": args.dtype,
        "seconds_per_block": whole,
        "denoise_seconds": statistics.median(denoising),
        "context_seconds": statistics.median(context),
        "frames_per_second": args.sessions * args.frames_per_block / whole,
        "peak_memory_bytes": peak_memory_bytes(args.device),
        "flops_per_block": flops,
        "matmul_flops_per_second": ceiling,
        "share_of_ceiling": args.sessions * flops / whole / ceiling,
    }
    if args.vae:
        result["vae_decode_seconds"] = vae_decode_seconds(args, dtype)
    return result


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", choices=PRESETS, default="b")
    for size in ("hidden", "layers", "heads"):
        parser.add_argument("--" + size, type=int, help="instead of the preset's")
    parser.add_argument("--patch", type=int, default=2)
    parser.add_argument("--resolution", type=int, default=256, help="pixels")
    parser.add_argument("--frames-per-block", type=int, default=4)
    parser.add_argument("--steps", type=int, default=25)
    parser.add_argument("--window", type=int, default=3, help="clean blocks that a block sees")
    parser.add_argument("--window-mode", choices=["auto", "recompute", "windowed"], default="auto", help="auto is recompute")
    parser.add_argument("--guidance", type=float, default=2.5)
    parser.add_argument("--sessions", type=int, default=1, help="streams in one batch")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda or cuda:N")
    parser.add_argument("--dtype", choices=["auto", "f32", "bf16"], default="auto")
    parser.add_argument("--compile", action="store_true", help="torch.compile the network")
    parser.add_argument("--blocks", type=int, default=3, help="blocks timed after the warm-up")
    parser.add_argument("--vae", action="store_true", help="also time diffusers' AutoencoderKL decoding the frames")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    return parser.parse_args()


def show(result, as_json):
    if as_json:
        return print(json.dumps(result))
    for name, value in result.items():
        print(f"{name:24}", f"{value:.4g}" if isinstance(value, float) else value)


if __name__ == "__main__":
    args = parse()
    show(run(args), args.json)
