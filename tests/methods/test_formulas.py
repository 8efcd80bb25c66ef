"""Every method's loss and gradient against its paper's formula, written out densely in float64 from
the same samples. The samples are another policy's, so that ratios leave 1, some leave the clip."""

import math
from itertools import product

import pytest
import torch
from tiny import (
    END,
    MAX_TOKENS,
    build_double,
    build_problems,
    build_rollout,
    build_tokenizer,
    chunks_of,
    collected,
    dense_logprobs,
    gradient,
    method_of,
)

from baselines.chord import CHORDConfig, mu_at
from baselines.dapo import overlong_penalty
from baselines.opsd import OPSD
from sgpo.core.losses import group_centered, with_advantages
from sgpo.core.types import Role

PROBLEMS = build_problems(6)
ENTROPY = 0.05  # an entropy bonus large enough to show in a gradient


def is_demo(t):
    return t.role is Role.DEMO


def by_problem(trajectories):
    keys = dict.fromkeys(t.problem_id for t in trajectories)
    return [[t for t in trajectories if t.problem_id == key] for key in keys]


def tokens(trajectories):
    return sum(len(t.completion_ids) for t in trajectories)


def off_policy(model, trajectories, shift=0.4):
    """The samples among ``trajectories`` as those of a policy that differs from ``model``."""
    with torch.no_grad():
        for i, t in enumerate(trajectories):
            if t.role is Role.AUTONOMOUS:
                noise = torch.linspace(-shift, shift, len(t.completion_ids), dtype=torch.float64)
                old = dense_logprobs(model, t.prompt_ids, t.completion_ids) + noise * (-1) ** i
                trajectories[i] = t.with_(old_logprobs=old)
    return trajectories


def scored(model, t):
    """Log-probabilities, entropies and ratios of the tokens of a trajectory."""
    logprobs, entropy = dense_logprobs(model, t.prompt_ids, t.completion_ids, entropy=True)
    old = logprobs.detach() if t.old_logprobs is None else t.old_logprobs
    return logprobs, entropy, (logprobs - old).exp()


def clipped(ratio, advantage, low=0.2, high=0.28):
    return torch.minimum(ratio * advantage, ratio.clamp(1 - low, 1 + high) * advantage)


def standardized(values):
    mean = sum(values) / len(values)
    spread = math.sqrt(sum((v - mean) ** 2 for v in values) / (len(values) - 1))
    return [(v - mean) / (spread + 1e-6) if spread else 0.0 for v in values]


def centred(values):
    return [v - sum(values) / len(values) for v in values]


def valued(trajectories, advantages):
    """(trajectory, advantage within its group of equal problems) each."""
    for group in by_problem(trajectories):
        yield from zip(group, advantages([t.reward for t in group]), strict=True)


def logits(model, prompt, completion):
    whole = model(torch.tensor([[*prompt, *completion]])).logits[0, len(prompt) - 1 : -1]
    return whole.log_softmax(-1)


def kl(p, q):
    return (p.exp() * (p - q)).sum(-1)


def jensen_shannon(p, q, beta=0.5):
    middle = (beta * p.exp() + (1 - beta) * q.exp()).log()
    return beta * kl(p, middle) + (1 - beta) * kl(q, middle)


DIVERGENCES = {"forward": kl, "reverse": lambda p, q: kl(q, p), "jensen_shannon": jensen_shannon}

# --- the references: (method, model, trajectories) -> loss ---------------------------------------


def sft(method, model, trajectories):
    assert all(t.completion_ids[-1] == END for t in trajectories)  # the stop token is learned
    return -torch.cat([scored(model, t)[0] for t in trajectories]).mean()


def grpo(method, model, trajectories):
    rows = [clipped(scored(model, t)[2], a).mean() for t, a in valued(trajectories, standardized)]
    return -torch.stack(rows).mean()


def dr_grpo(method, model, trajectories):
    rows = [
        clipped(scored(model, t)[2], a, 0.2, 0.2).sum() for t, a in valued(trajectories, centred)
    ]
    return -sum(rows) / (len(rows) * MAX_TOKENS)


def dapo(method, model, trajectories):
    total = 0.0
    for group in by_problem(trajectories):
        assert len({t.reward for t in group}) == 2
        over = [max(0, len(t.completion_ids) - 4) / 4 for t in group]  # L_max 8, L_cache 4
        shaped = [2 * t.reward - 1 - extra for t, extra in zip(group, over, strict=True)]
        for t, a in zip(group, standardized(shaped), strict=True):
            total = total - clipped(scored(model, t)[2], a).sum()
    return total / tokens(trajectories)


def entropy_bonus(model, trajectories, everywhere):
    averaged = [t for t in trajectories if everywhere or not is_demo(t)]
    return ENTROPY * sum(scored(model, t)[1].sum() for t in averaged) / tokens(averaged)


def luffy(method, model, trajectories):
    authors, total = method.config.scaling == "authors", 0.0
    for t, advantage in valued(trajectories, centred):
        logprobs, _, ratio = scored(model, t)
        weight = logprobs.exp() / (logprobs.exp() + 0.1) if is_demo(t) else ratio
        total = total - (weight * advantage).sum() / (MAX_TOKENS * len(PROBLEMS))
    total = total - entropy_bonus(model, trajectories, authors)
    return total * (64 / 8 if authors else 1)


def hpt(method, model, trajectories):
    authors, total = method.config.scaling == "authors", 0.0
    demos = [t for t in trajectories if is_demo(t)]
    assert 0 < len(demos) < len(PROBLEMS)
    for t, advantage in valued(trajectories, centred):
        logprobs, _, ratio = scored(model, t)
        if is_demo(t):
            mean = logprobs.sum() / tokens(demos) if authors else logprobs.mean() / len(PROBLEMS)
            total = total - 0.3 * mean
        else:
            total = total - (ratio * advantage).sum() / (MAX_TOKENS * len(PROBLEMS))
    total = total - entropy_bonus(model, trajectories, authors)
    return total * (64 / 8 if authors else 1)


def srft(method, model, trajectories):
    config, total = method.config, 0.0
    published = config.self_signal == "reward"
    samples = sum(not is_demo(t) for t in trajectories)
    for t, advantage in valued(trajectories, standardized):
        logprobs, entropy, ratio = scored(model, t)
        fixed = entropy.detach().mean() if published else entropy.detach()
        if is_demo(t):
            assert advantage >= 0  # pi_b = 1: the ratio is the probability itself, at most 1
            nll = -(0.5 * (config.sft_entropy_sign * fixed).exp() * logprobs).mean()
            expert = torch.minimum(logprobs.exp(), logprobs.exp().clamp(0.8, 1.28)) * advantage
            total = total + (nll - expert.mean()) / len(PROBLEMS)
        else:
            if published:
                advantage = 1.0 if t.reward else -1.0
            weight = 0.1 * fixed.exp() if advantage > 0 else 1.0
            total = total - clipped(ratio, weight * advantage).mean() / samples
    return total - entropy_bonus(model, trajectories, published)


def chord(method, model, trajectories):
    mu, phi = mu_at(0.0, method.config), method.config.phi
    assert mu == pytest.approx(0.6)
    demos = [t for t in trajectories if is_demo(t)]
    own = [t for t in trajectories if not is_demo(t)]
    total = (1 - mu) * grpo(method, model, own)
    for t in demos:
        logprobs = scored(model, t)[0]
        p = logprobs.detach().exp()
        total = total - mu * ((p * (1 - p) if phi else 1.0) * logprobs).sum() / tokens(demos)
    return total


def relift(method, model, trajectories):
    rows = [scored(model, t) for t in trajectories]
    return -sum((r[0] + 0.2 * r[1]).sum() for r in rows) / tokens(trajectories)


def distilled(method, model, trajectories):
    """OPSD and OPD: the teacher reads a second prompt, or is another model."""
    divergence, total = DIVERGENCES[method.config.direction], 0.0
    other = method.teacher.model if method.teacher else model
    questions = {p.id: p for p in PROBLEMS}
    for t in trajectories:
        taught = t.prompt_ids
        if isinstance(method, OPSD):
            problem = questions[t.problem_id]
            shown = problem.expert if method.config.context == "solution" else problem.strategy
            words = f"<|user|> {shown} {problem.question} <|end|> <|assistant|>"
            taught = build_tokenizer().convert_tokens_to_ids(words.split())
        with torch.no_grad():
            teacher = logits(other, taught, t.completion_ids)
        student = logits(model, t.prompt_ids, t.completion_ids)
        total = total + divergence(teacher, student).sum()
    return total / tokens(trajectories)


def sdpo(method, model, trajectories):
    """JSD over the student's 3 likeliest tokens and a tail, from a teacher with other weights."""

    def top(side, chosen):
        kept = side.gather(-1, chosen)
        return torch.cat([kept, (1 - kept.exp().sum(-1, keepdim=True)).log()], -1)

    total = 0.0
    for t in trajectories:
        student = logits(model, t.prompt_ids, t.completion_ids)
        with torch.no_grad():
            taught = logits(method.teacher.model, t.second_prompt_ids, t.completion_ids)
        chosen = student.detach().topk(3, -1).indices
        divergence = jensen_shannon(top(taught, chosen), top(student, chosen), 0.3)
        total = total + (scored(model, t)[2].detach().clamp(max=1.1) * divergence).sum()
    return total / tokens(trajectories)


def sgpo(method, model, trajectories):
    """Eq. 7 by the shortest code, from the raw samples of both groups."""
    config = method.config
    rollout = build_rollout(model)
    rollout.begin_step(1)  # equal step and seed: the samples that the method saw
    own = [t for t in trajectories if t.role is Role.AUTONOMOUS]
    total = grpo(method, model, own) * len(PROBLEMS) if config.autonomous_term else 0.0
    choices = 0
    for helped, group in zip(
        rollout.groups(PROBLEMS, 4, guided=True), by_problem(own), strict=True
    ):
        correct = [t for t in helped if t.reward == 1]
        choices += len(correct) > 1
        if not correct:
            continue
        if config.select_target:
            rows = [scored(model, t)[0] for t in correct]
            normal = config.length_normalized_selection
            likely = [(r.mean() if normal else r.sum()).item() for r in rows]
            correct = [correct[likely.index(max(likely))]]
        p, q = sum(t.reward for t in helped) / 4, sum(t.reward for t in group) / 4
        alpha = {
            "adaptive": min(max(0.5 * (p - q + 0.1) / (q + 0.1), 0.0), 0.8),
            "fixed": 1.0,
            "group_advantage": min(standardized([*(t.reward for t in group), 1.0])[-1], 0.8),
        }[config.alpha_mode]
        total = total + alpha * sum(distillation(model, t, config) for t in correct) / len(correct)
    assert choices, "selection needs a choice"
    return total / len(PROBLEMS)


def distillation(model, t, config):
    """Eq. 5 of one completion, or the negative log-likelihood in its place."""
    student = logits(model, t.prompt_ids, t.completion_ids)
    guided = logits(model, t.second_prompt_ids, t.completion_ids).detach()
    divergence = DIVERGENCES[config.direction](guided, student)
    kept = divergence.detach() <= config.kl_threshold
    if config.distillation == "kl":
        return (divergence * kept).sum() / len(kept)
    nll = -scored(model, t)[0]
    return (nll if config.distillation == "nll" else nll * kept).sum() / len(kept)


# --- the methods --------------------------------------------------------------------------------

SGPO_VARIANTS = {
    "paper": {},
    "no_clipping": {"kl_threshold": math.inf},
    "no_selection": {"select_target": False},
    "mean_selection": {"length_normalized_selection": True},
    "fixed_weight": {"alpha_mode": "fixed"},
    "group_advantage": {"alpha_mode": "group_advantage"},
    "reverse": {"direction": "reverse"},
    "nll": {"distillation": "nll"},
    "nll_masked": {"distillation": "nll_masked"},
    "distillation_only": {"autonomous_term": False},
}
FIVE = {"num_samples": 5}
SIZED = {"max_tokens": MAX_TOKENS, "entropy_coefficient": ENTROPY}
AUTHORS = {"scaling": "authors", "entropy_over": "response"}
GATED = {**SIZED, "num_samples": 6, "gate": 2, "sft_coefficient": 0.3}
MIXED = {**FIVE, "mu_peak": 0.6, "rise": 0.0, "fall": 1.0}
SRFT = {**FIVE, "entropy_coefficient": ENTROPY}
PUBLISHED = {"entropy_level": "sequence", "self_signal": "reward", "entropy_over": "response"}
CASES = {  # "METHOD-variant": reference, settings
    "sft": (sft, {}),
    "grpo": (grpo, FIVE),
    "dr_grpo": (dr_grpo, FIVE),
    "dapo": (dapo, {**FIVE, "cache_share": 0.5}),
    "luffy": (luffy, FIVE | SIZED),
    "luffy-authors": (luffy, FIVE | SIZED | AUTHORS),
    "hpt": (hpt, GATED),
    "hpt-authors": (hpt, GATED | AUTHORS),
    "chord-phi": (chord, MIXED),
    "chord-mu": (chord, MIXED | {"phi": False}),
    "sdpo": (sdpo, {"num_samples": 6, "beta": 0.3, "top_k": 3, "max_ratio": 1.1}),
    "srft": (srft, SRFT),
    "srft-rising": (srft, SRFT | {"sft_entropy_sign": 1}),
    "srft-published": (srft, SRFT | PUBLISHED),
}
for direction, context in product(DIVERGENCES, ("solution", "strategy")):
    settings = FIVE | {"direction": direction, "context": context}
    CASES[f"opsd-{direction}-{context}"] = (distilled, settings)
for key, changes in SGPO_VARIANTS.items():
    CASES[f"sgpo-{key}"] = (sgpo, {"num_autonomous": 4, "num_guided": 4} | changes)


def made(name):
    return method_of(name.partition("-")[0], **CASES[name][1])


def agree(reference, method, model, trajectories):
    """Loss and gradient of ``method``, the head in chunks of a few tokens, equal those of the dense
    ``reference``."""
    with chunks_of(7):
        loss, grad = gradient(method, model, [trajectories], method.totals(trajectories))
    model.zero_grad()
    expected = reference(method, model, trajectories)
    expected.backward()
    dense = torch.cat([p.grad.flatten() for p in model.parameters()])
    assert loss == pytest.approx(expected.item(), rel=1e-5, abs=2e-6)
    torch.testing.assert_close(grad, dense.to(grad), rtol=1e-4, atol=2e-6)
    assert dense.abs().max() > 1e-4


def prepared(method, problems=PROBLEMS):
    """A float64 model with the off-policy trajectories of a step, the teacher moved away."""
    trajectories, model = collected(method, model=build_double(), problems=problems)
    if getattr(method, "teacher", None):
        with torch.no_grad():
            for parameter in method.teacher.model.parameters():
                parameter.mul_(1.05)
    return model, off_policy(model, trajectories)


@pytest.mark.parametrize("name", CASES)
def test_loss_and_gradient_by_the_formula(name):
    method = made(name)
    agree(CASES[name][0], method, *prepared(method))


def test_luffy_without_a_demonstration_is_its_rl_part():
    method = made("luffy")
    model, trajectories = prepared(method)
    own = by_problem([t for t in trajectories if not is_demo(t)])
    agree(luffy, method, model, with_advantages(own, group_centered))


def test_relift_fine_tunes_by_the_formula():
    method = method_of("relift", entropy_coefficient=0.2)
    model = build_double()
    agree(relift, method, model, build_rollout(model).demonstrations(PROBLEMS))


@pytest.mark.parametrize("direction", DIVERGENCES)
def test_distillation_from_another_model_by_the_formula(tmp_path, direction):
    build_double(seed=5).save_pretrained(tmp_path)
    build_tokenizer().save_pretrained(tmp_path)
    method = method_of("opd", teacher=str(tmp_path), num_samples=4, direction=direction)
    agree(distilled, method, *prepared(method))


def test_variants_of_sgpo_differ_from_each_other():
    """Guards the formulas: a variant that changed nothing would agree for free."""
    gradients = []
    for name in SGPO_VARIANTS:
        method = made(f"sgpo-{name}")
        trajectories, model = collected(method, problems=PROBLEMS)
        gradients.append(gradient(method, model, [trajectories], method.totals(trajectories))[1])
    for i, a in enumerate(gradients):
        assert not any(torch.allclose(a, b, atol=1e-6) for b in gradients[i + 1 :])


def test_a_wrong_trace_is_not_unlearned_without_bound():
    """With pi_b = 1 the ratio of a wrong trace lies below the trust region: no gradient from it."""
    method = method_of("srft", num_samples=5, sft_scale=0.0, entropy_coefficient=0.0)
    trajectories, model = collected(method)
    wrong = [t.with_(advantage=-1.0) for t in trajectories if is_demo(t)]
    assert max(scored(model, t)[0].exp().max() for t in wrong) < 0.8
    _, grad = gradient(method, model, [wrong], method.totals(trajectories))
    assert not grad.any()


def test_overlong_penalty_by_hand():
    lengths = torch.tensor([1, 80, 90, 100])
    found = overlong_penalty(lengths, max_tokens=100, cache_share=0.2)
    torch.testing.assert_close(found, torch.tensor([0.0, 0.0, -0.5, -1.0]))
    assert not overlong_penalty(lengths, max_tokens=100, cache_share=0.0).any()


def test_mu_rises_falls_and_stays():
    config = CHORDConfig(mu_peak=0.8, mu_valley=0.2, rise=0.25, fall=0.5)
    found = [mu_at(done, config) for done in (0.0, 0.125, 0.25, 0.5, 0.75, 1.0)]
    assert found == pytest.approx([0.0, 0.4, 0.8, 0.5, 0.2, 0.2])
