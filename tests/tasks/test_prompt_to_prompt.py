"""Prompt-to-prompt: identities to rounding, the edit against loops, the network against an implementation by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import langevin
from captioned import LENGTH, captioned, told
from langevin import Noise, UserError, samplers
from langevin.nn.dit import modulate, positions
from langevin.tasks import edit as tasks
from langevin.tasks.edit.alignment import align
from langevin.tasks.edit.attention import AttentionMaps, attention_edit
from langevin.tasks.edit.pairs import PairedDenoiser, blend_mask
from langevin.tasks.prepare import bound, steps_below

F64 = torch.float64
SOURCE, TARGET = "a red cat on blue", "a green cat"
ROUNDING = 1e-12
"""Six steps of a network with values of about 1 in float64, each of whose layers rounds at 1e-16 a few hundred times;
what was seen is 1e-15 to 1e-14."""

SETTINGS = {"n": 2, "steps": 6, "seed": 3}
NOTHING = {"replace_steps": 0.0, "self_steps": 0.0}
ALL = {"replace_steps": 1.0, "self_steps": 1.0}


def plain(model, caption, scale, sampler=None):
    """Ordinary sampling of one caption on the same noise."""
    return langevin.sample(bound(model, {"caption": told(caption)}, scale), sampler, **SETTINGS)


@pytest.mark.parametrize("kind", ["unet", "dit"])
@pytest.mark.parametrize("scale", [1.0, 3.0])
@pytest.mark.parametrize("sampler", [None, "ancestral", "dpmpp-2m", "heun"])
def test_identities(kind, scale, sampler):
    """Equal captions: the picture itself. τ = 0: the target's own sample. Both with any sampler, guided or not."""
    model, how = captioned(kind), {**SETTINGS, "guidance_scale": scale, "sampler": sampler}
    same = tasks.prompt_to_prompt(model, SOURCE, SOURCE, **how)
    assert (same.source - same.target).abs().max() < ROUNDING
    assert (same.source - plain(model, SOURCE, scale, sampler)).abs().max() < ROUNDING
    none = tasks.prompt_to_prompt(model, SOURCE, TARGET, **NOTHING, **how)
    assert (none.source - none.target).abs().max() > 0.01, "another caption is another picture"
    assert (none.target - plain(model, TARGET, scale, sampler)).abs().max() < ROUNDING
    some = tasks.prompt_to_prompt(model, SOURCE, TARGET, **ALL, **how)
    assert (some.source - same.source).abs().max() < ROUNDING, "the source is never changed"
    assert (some.target - none.target).abs().max() > 1e-4, "the target is"


def test_factors():
    """c = 1 changes nothing; c = 2 does, and of the target alone."""
    model = captioned()
    ours = lambda c: tasks.prompt_to_prompt(model, SOURCE, TARGET, reweight=c, guidance_scale=2.0, **SETTINGS)
    none, one, two = ours(None), ours({"green": 1}), ours({"green": 2})
    assert torch.equal(one.target, none.target)
    assert (two.target - none.target).abs().max() > 1e-4
    assert torch.equal(two.source, none.source)


def by_loops(source, target, matrix, factor, cross, own):
    """The formulas of ``AttentionEdit``, one row and one number at a time."""
    length = len(factor)
    u, a = source[:-length].tolist(), source[-length:].tolist()
    own_u, own_a = target[:-length].tolist(), target[-length:].tolist()
    new = [all(matrix[i][j] == 0 for i in range(length)) for j in range(length)]
    mapped = [sum(a[i] * matrix[i][j] for i in range(length)) for j in range(length)]
    if not own:
        u = [v * sum(u) / sum(own_u) for v in own_u]
    if cross:
        kept = 1 - sum(own_a[j] for j in range(length) if new[j])
        share = kept / (sum(u) + sum(mapped))
        words = [own_a[j] if new[j] else share * mapped[j] for j in range(length)]
        picture = [share * v for v in u]
    else:
        words, picture = own_a, [v * sum(own_u) / sum(u) for v in u]
    assert math.isclose(sum(words) + sum(picture), 1, rel_tol=1e-12)
    return torch.tensor([*picture, *(w * c for w, c in zip(words, factor))], dtype=F64)


@pytest.mark.parametrize(("cross", "own"), [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("target", ["a blue cat", "a huge blue cat", "cat", "a red cat"])
def test_the_edit_by_loops(cross, own, target):
    """Words swapped, added, left out, weighted; pairs of two kinds in one batch; rows without a caption untouched."""
    others = align("a red cat", target), align("one two", "one three two")
    length = max(max(one.matrix.shape) for one in others)
    edit = attention_edit(others, None, length)
    edit = replace(edit, factors=torch.rand(edit.factors.shape, generator=torch.Generator().manual_seed(2), dtype=F64))
    g = torch.Generator().manual_seed(1)
    scores = torch.randn(8, 2, 3, 5 + length, generator=g, dtype=F64)
    for i in range(4):  # what is behind a caption's end is not there
        pair = others[i // 2]
        scores[4 + i, ..., 5 + len(getattr(pair, ("source", "target")[i % 2]).encode()) + 1 :] = -math.inf
    scores[:4, ..., 5:] = -math.inf  # the unconditional side of guidance
    weights = scores.softmax(-1)
    found = edit(weights, torch.arange(8) >= 4, cross, own)
    assert torch.equal(found[:4], weights[:4])
    for pair, one in enumerate(others):
        old, new = weights[4 + 2 * pair], weights[5 + 2 * pair]
        assert torch.equal(found[4 + 2 * pair], old)
        matrix = edit.matrix[pair].tolist()
        for head in range(2):
            for row in range(3):
                truth = by_loops(old[head, row], new[head, row], matrix, edit.factors[pair].tolist(), cross, own)
                assert (found[5 + 2 * pair][head, row] - truth).abs().max() < 1e-14, one


def test_layers_in_which_the_picture_reads_itself():
    """The target's rows are the source's if that is asked for, in pairs that are told captions."""
    edit = attention_edit([align("a", "b")], None, 2)
    weights = torch.randn(4, 2, 3, 3, generator=torch.Generator().manual_seed(0), dtype=F64).softmax(-1)
    told_ = torch.tensor([False, False, True, True])
    assert edit.of_picture(weights, told_, False) is weights
    assert torch.equal(edit.of_picture(weights, told_, True), weights[[0, 1, 2, 2]])


def test_all_replaced_is_the_row_of_the_source():
    """Where every word is aligned: A* = A M and U* = U, as in the paper."""
    pair = align("a red cat", "a green cat")
    edit = attention_edit([pair], None, 12)
    scores = torch.randn(2, 1, 4, 17, generator=torch.Generator().manual_seed(0), dtype=F64)
    scores[0, ..., 15:] = -math.inf
    weights = scores.softmax(-1)
    found = edit(weights, torch.tensor([True, True]), True, True)[1]
    assert (found[..., :5] - weights[0, ..., :5]).abs().max() < 1e-15
    assert (found[..., 5:17] - weights[0, ..., 5:15] @ pair.matrix).abs().max() < 1e-15


def by_hand(network, x, time, tokens, matrix, scale):
    """DiT on a source and a target under guidance, written out; the target's layers take the source's weights."""
    heads = network.blocks[0].attention.heads

    def weights(layer, y, context):
        q, k, _ = layer.qkv(y).chunk(3, -1)
        keys = k if context is None else torch.cat([k, layer.kv(context).chunk(2, -1)[0]], 1)
        cut = lambda z: z.reshape(1, -1, heads, z.shape[-1] // heads).transpose(1, 2)
        return torch.softmax(cut(q) @ cut(keys).transpose(2, 3) / math.sqrt(q.shape[-1] // heads), -1)

    def summed(layer, y, context, weight):
        v = layer.qkv(y).chunk(3, -1)[2]
        values = v if context is None else torch.cat([v, layer.kv(context).chunk(2, -1)[1]], 1)
        out = weight @ values.reshape(1, -1, heads, values.shape[-1] // heads).transpose(1, 2)
        return layer.out(out.transpose(1, 2).flatten(2))

    def through(start, caption, taken):
        """The output, and the weights of each layer; ``taken`` are those of another caption."""
        embedding, context = network.conditioning(time, {} if caption is None else {"caption": caption})
        h, kept = network.stem(start).flatten(2).transpose(1, 2), []
        h = h + positions(4, 4, network.width, h)
        told_ = None if context is None else context[0][:, context[1][0]]
        for number, block in enumerate(network.blocks):
            one, shift, gate, two, shift2, gate2 = block.affine(embedding).chunk(6, 1)
            y = modulate(h, one, shift)
            weight = weights(block.attention, y, told_)
            if taken is not None:
                source = taken[number]
                weight = torch.cat([source[..., :16], source[..., 16:] @ matrix], -1)
            kept.append(weight)
            h = h + gate[:, None] * summed(block.attention, y, told_, weight)
            h = h + gate2[:, None] * block.mlp(modulate(h, two, shift2))
        h = network.head(modulate(h, *network.affine(embedding).chunk(2, 1)))
        return F.pixel_shuffle(h.transpose(1, 2).unflatten(2, (4, 4)), 2), kept

    old, kept = through(x[:1], tokens[0], None)
    new, _ = through(x[1:], tokens[1], kept)
    bare = [through(each, None, None)[0] for each in (x[:1], x[1:])]
    return torch.cat([u + scale * (c - u) for u, c in zip(bare, (old, new))])


@pytest.mark.parametrize("words", [0, 1])
def test_the_network_by_hand(words):
    """One guided evaluation with everything replaced, against an implementation that shares no line of attention."""
    model, scale, t = captioned(words=words), 2.5, 0.4
    text = model.network.conditioning.text
    pair = align("a red cat", "a green cat", text.spans)
    assert pair.matrix.shape == ((4, 4) if words else (10, 12))
    tokens = told(pair.source, pair.target)
    base = bound(model, {"caption": tokens[:, :12]}, scale)
    paired = PairedDenoiser(base, attention_edit([pair], None, text.sizes(12)), 0.0, 0.0)
    x = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(5), dtype=F64)
    with torch.no_grad():
        found = paired(x, t).mean
        now = model._at(t)
        inside, time = model._prepare(x, now)
        raw = by_hand(model.network, inside, time[:1], (tokens[:1, :10], tokens[1:, :12]), pair.matrix, scale)
        truth = model._belief(raw, x, now).mean
    assert (found - truth).abs().max() < 1e-12
    with torch.no_grad():
        assert (found - base(x, t).mean).abs().max() > 1e-3


@pytest.mark.parametrize(("share", "replaced"), [(0.0, 0), (0.5, 3), (0.6, 4), (1.0, 6)])
def test_shares_of_the_steps(share, replaced, monkeypatch):
    """Steps are counted from the noise; each of the two kinds of attention by its own share."""
    asked = []
    edit = tasks.prompt_to_prompt.__globals__["AttentionEdit"]
    plainly = edit.__call__
    monkeypatch.setattr(
        edit,
        "__call__",
        lambda self, w, told, cross, own: asked.append((cross, own)) or plainly(self, w, told, cross, own),
    )
    tasks.prompt_to_prompt(captioned(), "a b", "a c", replace_steps=share, self_steps=0.5, steps=6, sampler="ddim")
    steps = asked[::2]  # two layers
    assert [cross for cross, _ in steps] == [True] * replaced + [False] * (6 - replaced)
    assert [own for _, own in steps] == [True] * 3 + [False] * 3


def test_batches_lists_and_noise():
    """Pictures depend on (seed, i) alone; a list of captions gives each pair what it would get by itself."""
    model, how = captioned(), {"steps": 4, "sampler": "ddim", "guidance_scale": 2.0, "blend": "changed", "maps": True}
    whole = tasks.prompt_to_prompt(model, SOURCE, TARGET, n=3, seed=7, **how)
    parts = tasks.prompt_to_prompt(model, SOURCE, TARGET, n=3, seed=7, batch=2, **how)
    assert (whole.target - parts.target).abs().max() < ROUNDING
    assert (whole.maps - parts.maps).abs().max() < 1e-6  # kept in float32
    assert torch.equal(whole.mask, parts.mask)
    pairs = [(SOURCE, TARGET), ("one", "one two"), (SOURCE, "a green cat on blue")]
    olds, news = zip(*pairs)
    seen = []
    lists = tasks.prompt_to_prompt(
        model, olds, list(news), seed=7, batch=2, progress=lambda *at: seen.append(at), **how
    )
    assert seen[-1] == (24, 24)  # steps of three sources and three targets
    for i, pair in enumerate(pairs):
        alone = tasks.prompt_to_prompt(model, *pair, noise=Noise(7, torch.tensor([i])), **how)
        assert (lists.source[i] - alone.source[0]).abs().max() < ROUNDING
        assert (lists.target[i] - alone.target[0]).abs().max() < ROUNDING
    assert (lists.target[0] - whole.target[0]).abs().max() < ROUNDING


def test_each_picture_has_conditions_of_its_own():
    """One for all pictures, or one each: pair i is what it is alone under its own, in whatever batch."""
    model, how = captioned(label=5), {"steps": 3, "sampler": "ddim", "guidance_scale": 2.0, "seed": 7}
    draw = lambda n, label, **more: tasks.prompt_to_prompt(model, SOURCE, TARGET, n=n, label=label, **how, **more)
    labels = torch.tensor([1, 4, 2])
    for made in (draw(3, labels), draw(3, labels, batch=2)):
        for i, label in enumerate(labels.tolist()):
            of_all = draw(3, label)
            assert (made.source[i] - of_all.source[i]).abs().max() < ROUNDING
            assert (made.target[i] - of_all.target[i]).abs().max() < ROUNDING
    assert (draw(3, 1).source[1] - draw(3, 4).source[1]).abs().max() > 1e-3
    for count in (2, 6):
        with pytest.raises(UserError, match=f"label must be one for all pictures or 3, one each; got {count}"):
            draw(3, torch.zeros(count, dtype=torch.long))


def test_blend_keeps_the_rest():
    """Outside of the mask the target is the source, bit for bit; the mask is where the maps say."""
    model = captioned("unet")
    made = tasks.prompt_to_prompt(
        model, SOURCE, "a green cat on blue", blend="green", threshold=0.9, maps=True, **SETTINGS
    )
    free = made.mask.expand_as(made.source)
    assert 0 < free.double().mean() < 1
    assert torch.equal(made.source[~free], made.target[~free])
    assert (made.source[free] != made.target[free]).all()
    pair = made.alignments[0]
    tokens = torch.zeros(2, 1, made.maps.shape[1], dtype=torch.bool)
    for side, places in zip(tokens, pair.of(["green"])):
        side[0, places] = True
    assert torch.equal(blend_mask(made.maps, *tokens, 0.9, (8, 8)), made.mask)


def test_maps_are_means_of_the_weights():
    """Over heads, steps and layers, of rows that are told; a layer of half the size is enlarged."""
    maps = AttentionMaps(2, (4, 8))
    fine, coarse = (torch.rand(2, 3, n, n + 2, dtype=F64, generator=torch.Generator().manual_seed(n)) for n in (32, 8))
    told_ = torch.tensor([False, False, True, True])
    blank = lambda w: torch.cat([torch.cat([w[..., :-2], 0 * w[..., -2:]], -1), w])
    maps.add("a", blank(fine), told_)
    maps.add("a", blank(3 * fine), told_)
    maps.add("b", blank(coarse), told_)
    of = lambda w, h, across: w[..., -2:].mean(1).transpose(1, 2).unflatten(2, (h, across)).float()
    large = F.interpolate(of(coarse, 2, 4), (4, 8), mode="bilinear", align_corners=False)
    assert (maps.mean() - (2 * of(fine, 4, 8) + large) / 2).abs().max() < 1e-6
    with pytest.raises(UserError, match="no layer was asked"):
        AttentionMaps(2, (4, 8)).mean()


def test_attention_to_words():
    made = tasks.prompt_to_prompt(captioned(), SOURCE, TARGET, maps=True, **SETTINGS)
    found = made.attention("green")
    assert (found - made.maps[1::2, 1]).abs().max() < 1e-6
    assert (made.attention("cat", "source") - made.maps[0::2, 2]).abs().max() < 1e-6
    with pytest.raises(UserError, match="no target caption has the word 'blue'; there are a, cat, green"):
        made.attention("blue")
    with pytest.raises(UserError, match="side must be"):
        made.attention("cat", "both")
    with pytest.raises(UserError, match="ask for them with maps=True"):
        replace(made, maps=None).attention("cat")


def test_a_picture_by_inversion():
    """With its own caption it comes back; a changed word changes it; outside of the blend it stays bit for bit."""
    model = captioned("unet")
    image = plain(model, SOURCE, 1.0).clamp(-1, 1)
    how = {"method": "prompt-to-prompt", "source": {"caption": told(SOURCE)}, "strength": 20.0, "steps": 8}
    options = {"fixed_point": 40}
    back = langevin.edit(model, image, caption=told(SOURCE), options=options, **how)
    assert (back - image).abs().max() < 1e-8  # fixed points are found to 1e-10 a step
    other = langevin.edit(model, image, caption=told("a green cat on blue"), options=options, **how)
    assert (other - image).abs().max() > 0.01
    # With no attention replaced it is what the target's caption makes of the encoded picture.
    none = langevin.edit(model, image, caption=told(TARGET), options={**options, **NOTHING}, **how)
    grid = steps_below(model, samplers.DDIM(), 20.0, 8)
    path = samplers.encoded(
        model.given(caption=told(SOURCE)), image, sampler=samplers.DDIM(), grid=grid, fixed_point=40
    )
    with torch.no_grad():
        *_, last = samplers.trajectory(
            model.given(caption=told(TARGET)), samplers.DDIM(), grid=grid, start=path[-1].x, noise=Noise(0, 2)
        )
    assert (none - last.x.clamp(-1, 1)).abs().max() < ROUNDING
    options |= {"blend": "green", "threshold": 0.9}
    kept = langevin.edit(model, image, caption=told("a green cat on blue"), options=options, **how)
    same = kept == image
    assert 0 < same.double().mean() < 1
    both = langevin.edit(model, image, caption=told("a green cat on blue", TARGET), options={"fixed_point": 40}, **how)
    assert (both[0] - other[0]).abs().max() < 1e-8


def test_pairs_stay_together():
    model = captioned()
    text = model.network.conditioning.text
    pair = align("a b", "a c", text.spans)
    base = model.given(caption=told("a b", "a c").repeat(2, 1))
    paired = PairedDenoiser(base, attention_edit([pair], None, text.sizes(LENGTH)), 0.0, 0.0)
    assert len(paired.rows(slice(0, 2)).condition["caption"]) == 2
    for rows in (slice(0, 1), slice(1, 3), torch.tensor([0, 2])):
        with pytest.raises(UserError, match="pairs must stay together"):
            paired.rows(rows)
    with pytest.raises(UserError, match="an even number of rows, got 3"):
        paired(torch.zeros(3, 3, 8, 8), 0.5)
    with pytest.raises(UserError, match="one time for all pairs"):
        paired(torch.zeros(2, 3, 8, 8), torch.tensor([0.5, 0.4]))
    # each pair keeps the alignment that is its own
    two = attention_edit([pair, align("a b", "b", text.spans)], None, text.sizes(LENGTH))
    x = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0), dtype=F64)
    base = model.given(caption=told("a b", "a c", "a b", "b"))
    both = PairedDenoiser(base, two, 0.0, 0.0)
    for rows in (slice(0, 2), slice(2, 4), torch.tensor([2, 3])):
        with torch.no_grad():
            assert (both.rows(rows)(x[rows], 0.5).mean - both(x, 0.5).mean[rows]).abs().max() < 1e-13
    # samplers with a memory and noise of their own take pairs like any other states
    noise = Noise(0, torch.tensor([4, 4, 9, 9]))
    x = langevin.sample(paired, samplers.Ancestral(), steps=3, noise=noise)
    assert x.shape == (4, 3, 8, 8)


LONG = "x" * LENGTH


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": LONG}, "source must have at most 39 bytes, which this model takes, got 40"),
        ({"target": "é" * 20}, "target must have at most 39 bytes"),
        ({"target": ["a", "b"], "source": ["a", "b", "c"]}, "as many each, got 3 and 2"),
        ({"target": ["a", "b"], "n": 3}, "n must be left out for 2 pairs"),
        ({"target": []}, "target must be a caption or a list"),
        ({"source": 3}, "source must be a caption or a list of captions, got 3"),
        ({"reweight": {"gren": 2}}, r"word of the caption 'a green cat' 'gren'. Did you mean 'green'\?"),
        ({"blend": "cow"}, "'a red cat' and 'a green cat' 'cow'"),
        ({"blend": []}, "blend must be a word"),
        ({"replace_steps": 1.2}, r"replace_steps must lie in \[0, 1\]"),
        ({"self_steps": "0.2"}, "self_steps must be a finite number"),
        ({"threshold": 1}, r"threshold must lie in \(0, 1\)"),
        ({"n": 0}, "n must be an integer of at least 1"),
        ({"noise": Noise(0, 3), "n": 2}, "noise is for 3 samples, but there are 2"),
        ({"caption": told("a")}, "caption must be left out"),
    ],
)
def test_bad_requests(settings, message):
    source, target = settings.pop("source", "a red cat"), settings.pop("target", "a green cat")
    with pytest.raises(UserError, match=message):
        tasks.prompt_to_prompt(captioned(), source, target, steps=2, **settings)


def test_models_that_have_no_captions():
    world = langevin.worlds.ring(4, 1.0, 0.2).denoiser(langevin.processes.VP())
    with pytest.raises(UserError, match="must be told captions, whose words are changed"):
        tasks.prompt_to_prompt(world, "a", "b")
    with pytest.raises(UserError, match="model must be a denoiser, got 'runs/glyphs'; load the model first"):
        tasks.prompt_to_prompt("runs/glyphs", "a", "b")
    model = captioned()
    image = torch.zeros(3, 8, 8)
    how = {"method": "prompt-to-prompt", "strength": 5.0, "steps": 6}
    with pytest.raises(UserError, match="needs two captions"):
        langevin.edit(model, image, caption=told("a"), **how)
    both = {"caption": told("a"), "source": {"caption": told("b")}}
    with pytest.raises(UserError, match="mask is not taken"):
        langevin.edit(model, image, mask=torch.ones(8, 8), **both, **how)
    with pytest.raises(UserError, match="must have the model's size"):
        langevin.edit(model, torch.zeros(3, 8, 12), **both, **how)
