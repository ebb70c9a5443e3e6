"""Captions as bytes, there and back and cut between characters; their encoder against PyTorch's own blocks."""

from __future__ import annotations

import json
import math
import re

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from langevin import UserError
from langevin.nn import DiT, TextEncoder, decode_text, encode_text, encode_texts
from langevin.nn.text import words_of

TEXTS = ["a red circle", "", "\0 é", "ein grüner Kreis", "鳥が飛ぶ", "👩‍🚀 and 🜁", "e\u0301"]


@pytest.mark.parametrize("text", TEXTS)
def test_round_trip(text):
    data = list(text.encode())
    exact, wide = encode_text(text, len(data) + 1), encode_text(text, 64)
    assert exact.dtype == wide.dtype == torch.int64
    assert exact.tolist() == [*data, 256]
    assert wide.tolist() == [*data, 256, *[-1] * (63 - len(data))]
    assert decode_text(exact) == decode_text(wide) == text


@pytest.mark.parametrize("text", TEXTS)
def test_cut_between_characters(text):
    """The longest beginning of whole characters that leaves a place for the end, for every length there is."""
    for length in range(1, len(text.encode()) + 2):
        tokens = encode_text(text, length)
        fits = [text[:n] for n in range(len(text) + 1) if len(text[:n].encode()) < length]
        assert tokens.shape == (length,)
        assert decode_text(tokens) == fits[-1]


def test_batches():
    tokens = encode_texts([*TEXTS, None], 20)
    assert tokens.shape == (len(TEXTS) + 1, 20)
    assert tokens.dtype == torch.int64
    for row, text in zip(tokens, TEXTS):
        assert torch.equal(row, encode_text(text, 20))
    assert (tokens[-1] == -1).all()
    assert not torch.equal(tokens[1], tokens[-1])  # the empty caption and none
    assert encode_texts([], 5).shape == (0, 5)
    assert encode_texts(("one",), 1).tolist() == [[256]]


def awake(dtype=torch.float64, **options):
    torch.manual_seed(0)
    encoder = TextEncoder(**{"length": 24, "width": 16, "depth": 2, "heads": 4, "words": 0} | options)
    for name, p in encoder.named_parameters():
        if "norm" in name or name.endswith("bias"):
            p.data += 0.2 * torch.randn_like(p)
    return encoder.to(dtype)


def peer(encoder):
    """PyTorch's own pre-norm blocks with the same weights: in_proj is q, k, v one below the other, as here."""
    made = []
    for block in encoder.blocks:
        layer = nn.TransformerEncoderLayer(
            encoder.width,
            block.heads,
            4 * encoder.width,
            0.0,
            lambda x: F.gelu(x, approximate="tanh"),
            batch_first=True,
            norm_first=True,
        ).double()
        pairs = {"self_attn.in_proj_": block.qkv, "self_attn.out_proj.": block.out, "linear1.": block.inner}
        pairs |= {"linear2.": block.outer, "norm1.": block.norm1, "norm2.": block.norm2}
        layer.load_state_dict({k + n: getattr(m, n) for k, m in pairs.items() for n in ("weight", "bias")})
        made.append(layer)
    return made


def test_encoder_is_the_transformer_of_pytorch():
    encoder, tokens = awake(), encode_texts(TEXTS, 24)
    assert (tokens < 0).any(1).all()
    h = encoder.bytes[tokens % 257] + encoder.places
    for layer in peer(encoder):
        h = layer(h, src_key_padding_mask=tokens < 0)
    truth = F.layer_norm(h, (16,), encoder.norm.weight, encoder.norm.bias)
    features, present = encoder(tokens)
    assert torch.equal(present, tokens >= 0)
    # Rounding: some ten sums of sixteen products one after another, of numbers of the order of ten.
    assert torch.allclose(features[present], truth[present], rtol=0, atol=1e-13)
    assert (features[~present] == 0).all()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-13), (torch.float32, 1e-6)], ids=str)
def test_padding_changes_nothing(dtype, tolerance):
    """A masked key has the weight exp(−∞) = 0 exactly; only sums run in another order.

    Features are of the order of one (a norm comes last), so some ten roundings are 1e-6 in float32.
    """
    encoder = awake(dtype)
    for text in ("a red circle", "", "é"):
        used = len(text.encode()) + 1
        truth, _ = encoder(encode_text(text, used)[None])
        for length in range(used + 1, 25):
            features, present = encoder(encode_text(text, length)[None])
            assert present.sum() == used
            assert (features[:, :used] - truth).abs().max() <= tolerance
        batch, _ = encoder(encode_texts(["something else", text, None], 24))
        assert (batch[1, :used] - truth[0]).abs().max() <= tolerance


def test_what_stands_in_an_absent_place_is_not_read():
    """A hole in the middle is absent like any other: its embedding has no gradient, and its place neither."""
    encoder, tokens = awake(), encode_text("abcdef", 24)[None].clone()
    tokens[0, 2] = -1
    encoder(tokens)[0].square().sum().backward()
    used = {v for v in tokens[0].tolist() if v >= 0}
    # LayerNorm is of sum of squares constant but for its affine, so a gradient may be small; absent it is zero.
    assert set(encoder.bytes.grad.abs().sum(1).nonzero()[:, 0].tolist()) == used
    assert set(encoder.places.grad.abs().sum(1).nonzero()[:, 0].tolist()) == {0, 1, 3, 4, 5, 6}


WORDS = {
    "": [""],
    "a red cat": ["a", "red", "cat", ""],
    "  a   red ": ["a", "red", ""],
    "green letter Q, on 2": ["green", "letter", "Q,", "on", "2", ""],
    "héllo Жук": ["héllo", "Жук", ""],
    "红苹果 and 🍎": ["红", "苹", "果", "and", "🍎", ""],
}
"""Captions with what each of their features stands for, the end last."""


@pytest.mark.parametrize("caption", WORDS)
def test_words(caption):
    encoder = TextEncoder(length=30, width=8, depth=1)
    spans = encoder.spans(caption)
    assert [caption.encode()[span.start : span.stop].decode() for span in spans] == WORDS[caption]
    features, present = encoder(encode_texts([caption, None], 30))
    assert features.shape == (2, encoder.sizes(30), 8)
    assert present.tolist() == [[i < len(spans) for i in range(16)], [False] * 16]


def test_no_more_words_than_there_is_room_for():
    """Of any text; of bytes that are none, what is beyond is left out."""
    letters = torch.randint(0, 5, (4000, 8), generator=torch.Generator().manual_seed(0)).tolist()
    texts = ["".join(" aé苹🍎"[k] for k in row[: 1 + i % 8]) for i, row in enumerate(letters)]
    for text in texts:
        tokens = encode_text(text, len(text.encode()) + 1)
        assert words_of(tokens[None])[0].sum() <= len(tokens) // 2 + 1
    encoder = awake(words=1)
    assert len(encoder.spans("a b c d")) == encoder.sizes(8) == 5
    assert encoder(torch.full((1, 7), 255))[1].tolist() == [[True] * 4]


@pytest.mark.parametrize("words", [1, 2])
def test_words_by_hand(words):
    """The first blocks on each word by itself, with the space before it; the others on the first bytes of words."""
    encoder, caption = awake(depth=3, words=words), "a red 苹果, on blue"
    parts = [range(0, 1), range(1, 5), range(6, 9), range(9, 13), range(13, 16), range(16, 21), range(21, 22)]
    tokens = encode_text(caption, 24)
    h = encoder.bytes[tokens.clamp_min(0)] + encoder.places
    first = []
    for part in parts:
        own = torch.tensor(list(part))
        alone = h[own][None]
        for block in encoder.blocks[:words]:
            alone = block(alone, torch.ones(1, 1, 1, len(own), dtype=torch.bool))
        first.append(alone[0, int(tokens[own[0]] == 32)])
    found = torch.stack(first)[None]
    for block in encoder.blocks[words:]:
        found = block(found, torch.ones(1, 1, 1, len(first), dtype=torch.bool))
    features, present = encoder(tokens[None])
    assert (features[present] - encoder.norm(found)[0]).abs().max() < 1e-13


def test_padding_of_words_changes_nothing():
    encoder = awake(words=1)
    for text in ("a red circle", "", "é", "苹果"):
        used = len(text.encode()) + 1
        truth, there = encoder(encode_text(text, used)[None])
        for length in range(used + 1, 25):
            features, present = encoder(encode_text(text, length)[None])
            assert (features[present] - truth[there]).abs().max() <= 1e-13


def test_order_matters():
    """By the learned places alone: without them a permutation of the tokens permutes the features."""
    encoder = awake()
    tokens = encode_texts(["red on blue", "blue on red"], 12)
    order = [7, 8, 9, 10, 3, 4, 5, 6, 0, 1, 2, 11]
    assert torch.equal(tokens[0, order], tokens[1])
    one, other = encoder(tokens)[0]
    assert (one[order] - other).abs().amax(1).min() > 1e-2  # the end as well, which has moved nowhere
    encoder.places.data.zero_()
    one, other = encoder(tokens)[0]
    assert torch.allclose(one[order], other, rtol=0, atol=1e-13)


def test_every_token_reads_every_other():
    """In both directions, in one block: the last is moved by the first and the first by the last."""
    encoder = awake(depth=1)
    for place in (0, 10):
        tokens = encode_texts(["red on blue"] * 2, 12)
        tokens[1, place] = ord("x")
        features, _ = encoder(tokens)
        assert (features[1] - features[0]).abs().amax(1).min() > 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
def test_absent_captions(dtype):
    """Finite, zero and without a gradient, beside captions that are there; not what the empty caption is.

    In bfloat16 attention is written out on a CPU, where a softmax over nothing is not a number.
    """
    encoder = awake(dtype)
    features, present = encoder(encode_texts([None, "", "a"], 8))
    assert present.sum(1).tolist() == [0, 1, 2]
    assert (features[0] == 0).all()
    assert features.isfinite().all()
    assert features[1, 0].abs().max() > 0.1
    encoder(encode_texts([None, None], 8))[0].sum().backward()
    assert all((p.grad == 0).all() for p in encoder.parameters() if p.grad is not None)
    assert encoder(torch.zeros(0, 8, dtype=torch.int64))[0].shape == (0, 8, 16)


def test_a_network_reads_the_features():
    """As its docstring says: an absent token is one of not-a-numbers, and no caption is a missing key."""
    encoder = awake(torch.float32)
    torch.manual_seed(1)
    network = DiT(1, patch=2, width=16, depth=1, heads=2, conditions={"sequence": 16})
    for p in network.parameters():
        p.data += 0.1 * torch.randn_like(p)
    x, t = torch.randn(2, 1, 4, 4), torch.zeros(2)
    features, present = encoder(encode_texts(["a red circle", None], 24))
    sequence = features.masked_fill(~present[..., None], math.nan)
    network.check_condition({"sequence": sequence}, 2)
    out, without = network(x, t, {"sequence": sequence}), network(x, t)
    assert torch.allclose(out[1], without[1], rtol=0, atol=1e-6)
    assert (out[0] - without[0]).abs().max() > 1e-3
    out.sum().backward()
    assert all(p.grad.isfinite().all() for p in encoder.parameters())
    assert encoder.bytes.grad[ord("r")].abs().sum() > 0


def test_every_parameter_learns():
    encoder = awake()
    encoder(torch.arange(257).reshape(-1, 1).repeat(1, 24))[0].pow(3).sum().backward()
    assert [n for n, p in encoder.named_parameters() if p.grad is None or not p.grad.abs().sum() > 0] == []


def test_initial_sizes():
    """Bytes and places alike, of norm one; the 2·depth branches together of the size of one.

    A standard deviation of n numbers is known to 1/√(2n): below one per cent for the smallest, four times that here.
    """
    torch.manual_seed(0)
    encoder = TextEncoder(length=128, width=64, depth=8, heads=2)
    assert encoder.bytes.shape == (257, 64)
    assert encoder.places.shape == (128, 64)
    for p in (encoder.bytes, encoder.places):
        assert abs(p.std() * 8 - 1) < 0.04
    for block in encoder.blocks:
        for layer in (block.out, block.outer):
            plain = nn.Linear(layer.in_features, layer.out_features)  # uniform, so its largest are at a sharp edge
            assert abs(layer.weight.abs().max() / plain.weight.abs().max() * 4 - 1) < 0.04
            assert (layer.bias == 0).all()


def test_frozen():
    """Without gradients and in evaluation mode, also when the network around it is set to train."""
    frozen, free = TextEncoder(width=8, depth=1, frozen=True), TextEncoder(width=8, depth=1)
    assert not any(p.requires_grad for p in frozen.parameters())
    assert all(p.requires_grad for p in free.parameters())
    around = nn.ModuleList([frozen, free])
    assert not frozen.training
    around.train()
    assert free.training
    assert not any(module.training for module in frozen.modules())
    around.eval()
    assert not free.training
    assert not frozen(encode_texts(["a"], 4))[0].requires_grad


def test_config_is_json_and_makes_the_same_encoder():
    encoder, tokens = awake(), encode_texts(TEXTS, 24)
    config = json.loads(json.dumps(encoder.config))
    assert config == {"name": "text", "length": 24, "width": 16, "depth": 2, "heads": 4, "words": 0, "frozen": False}
    del config["name"]
    again = TextEncoder(**config).double()
    again.load_state_dict(encoder.state_dict())
    assert torch.equal(again(tokens)[0], encoder(tokens)[0])
    assert "M parameters, length=24" in repr(encoder)


def test_types_of_tokens_and_features():
    encoder, tokens = awake(torch.float32), encode_texts(TEXTS, 24)
    assert encoder(tokens)[0].dtype == torch.float32
    assert torch.equal(encoder(tokens.short())[0], encoder(tokens)[0])  # as they are best stored
    with torch.autocast("cpu", torch.bfloat16):
        assert encoder(tokens)[0].isfinite().all()
    meta = TextEncoder(width=8, depth=1).to("meta")
    assert meta(torch.empty(3, 5, dtype=torch.int64, device="meta"))[0].shape == (3, 3, 8)


@pytest.mark.parametrize(
    ("ask", "says"),
    [
        (lambda: encode_text(b"a", 4), "text must be text, got b'a'"),
        (lambda: encode_text(None, 4), "text must be text, got None"),
        (lambda: encode_text("a\ud800", 4), r"text holds '\ud800', half of a character, at place 1"),
        (lambda: encode_text("a", 0), "length must be an integer from 1 to 16384, got 0"),
        (lambda: encode_text("a", 4.0), "length must be an integer from 1 to 16384, got 4.0"),
        (lambda: encode_texts("ab", 4), "texts must be a list of texts, got one text; write ['ab']"),
        (lambda: encode_texts(3, 4), "texts must be a list of texts, got 3"),
        (lambda: encode_texts(["a", 3], 4), "texts[1] must be text, got 3"),
        (lambda: encode_texts([], 0), "length must be an integer from 1"),
        (lambda: decode_text([97, 256]), "tokens must be integers of shape (L,)"),
        (
            lambda: decode_text(torch.zeros(2, 3, dtype=torch.int64)),
            "tokens must be integers of shape (L,), got (2, 3)",
        ),
        (lambda: decode_text(torch.zeros(3)), "tokens must be integers of shape (L,), got (3,) torch.float32"),
        (lambda: decode_text(torch.tensor([-1, -1])), "tokens are all -1, which is no caption"),
        (lambda: decode_text(torch.tensor([97, 98])), "tokens must be bytes (0 to 255), then 256"),
        (lambda: decode_text(torch.tensor([97, 256, 98])), "tokens must be bytes"),
        (lambda: decode_text(torch.tensor([97, 256, 256])), "tokens must be bytes"),
        (lambda: decode_text(torch.tensor([97, -1, 256])), "tokens must be bytes"),
        (lambda: decode_text(torch.tensor([257, 256])), "tokens must be bytes"),
        (lambda: decode_text(torch.tensor([97, 0xE9, 256])), "tokens are no UTF-8: unexpected end of data at place 1"),
        (lambda: TextEncoder(length=0), "length must be an integer from 1 to 16384, got 0"),
        (lambda: TextEncoder(width=10, heads=4), "heads must divide width = 10, got 4"),
        (lambda: TextEncoder(width=0), "width must be an integer from 1 to 16384, got 0"),
        (lambda: TextEncoder(depth=True), "depth must be an integer from 1 to 256, got True"),
        (lambda: TextEncoder(heads=0), "heads must be an integer from 1 to 256, got 0"),
        (lambda: TextEncoder(depth=2, words=3), "words must be an integer from 0 to 2, got 3"),
        (lambda: TextEncoder(words=-1), "words must be an integer from 0 to 4, got -1"),
        (lambda: TextEncoder(frozen="no"), "frozen must be true or false, got 'no'"),
    ],
)
def test_refusals(ask, says):
    with pytest.raises(UserError, match=re.escape(says)):
        ask()


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ([[97, 256]], "tokens must be integers of shape (B, L), L from 1 to 4"),
        (torch.zeros(4, dtype=torch.int64), "tokens must be integers of shape (B, L), L from 1 to 4, got (4,)"),
        (torch.zeros(1, 5, dtype=torch.int64), "L from 1 to 4, got (1, 5) torch.int64"),
        (torch.zeros(1, 0, dtype=torch.int64), "L from 1 to 4, got (1, 0) torch.int64"),
        (torch.zeros(1, 4), "tokens must be integers of shape (B, L), L from 1 to 4, got (1, 4) torch.float32"),
        (torch.zeros(1, 4, dtype=torch.bool), "got (1, 4) torch.bool"),
        (torch.tensor([[0, 257]]), "tokens must lie from -1 to 256, got 0 to 257"),
        (torch.tensor([[-2, 0]]), "tokens must lie from -1 to 256, got -2 to 0"),
    ],
)
def test_bad_tokens(tokens, says):
    with pytest.raises(UserError, match=re.escape(says)):
        TextEncoder(length=4, width=8, depth=1)(tokens)


def test_the_vector_of_a_caption_is_the_sum_over_the_root_of_its_words():
    """By hand: of n words, Σ h / √n goes through the last layer."""
    from langevin.nn.conditioning import _sum_or

    tokens, out = torch.randn(1, 5, 3), nn.Linear(3, 3)
    present = torch.tensor([[True, True, False, True, True]])
    truth = out((tokens[0, 0] + tokens[0, 1] + tokens[0, 3] + tokens[0, 4]) / 2)
    assert torch.allclose(_sum_or((tokens, present), out, torch.zeros(3))[0], truth, rtol=0, atol=1e-6)
