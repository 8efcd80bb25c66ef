"""Where the paper makes each claim, and how it is measured here: text for a reader who has only
the paper in hand."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Note:
    """``where``: the place in the paper; ``measured``: what the effect is, in one sentence;
    ``apart``: keys of claims past the paper that take this one apart."""

    where: str
    measured: str
    apart: tuple[str, ...] = ()


NOWHERE = "past the paper"
NOTES = {
    "best_on_average": Note(
        "Table 1",
        "Average accuracy of SGPO minus that of the best other row. The other row is picked by its "
        "mean with hindsight, which works against SGPO.",
        ("hardest_exploration", "equal_tokens", "delta_three"),
    ),
    "gain_grows": Note(
        "Table 1",
        "SGPO's gain over the base model on the larger model of a family minus that on the smaller "
        "one.",
    ),
    "alpha_falls": Note(
        "Fig. 4", "Mean alpha (Eq. 6) in the first quarter of the steps minus in the last quarter."
    ),
    "entropy_above": Note(
        "Fig. 4", "Policy entropy of SGPO minus that of SFT+GRPO over the second half of the steps."
    ),
    "ablation_hurts": Note(
        "Table 2",
        "Average accuracy of SGPO minus that of SGPO without the component.",
        ("clip_with_style", "delta_three", "bad_is_harmless"),
    ),
    "proximal_hurts_most": Note(
        "Table 2",
        "What removing both proximal constraints costs minus the largest cost of any other "
        "removal. The other one is picked by its mean with hindsight.",
        ("clip_with_style", "delta_three"),
    ),
    "kl_beats_sft": Note(
        "Table 3",
        "Average accuracy of SGPO minus that with the negative log-likelihood of the same guided "
        "completion in place of the masked KL.",
        ("same_mask", "no_mask", "mask_costs"),
    ),
    "forward_beats_reverse": Note(
        "Table 6", "Average accuracy of SGPO minus that with the reverse KL."
    ),
    "faster_adaptive": Note(
        "Fig. 3",
        "How many times fewer steps SGPO takes than fixed alpha=1 to the lower of their two final "
        "training rewards; below 1 it takes more.",
    ),
    "faster_kl": Note(
        "Fig. 6",
        "How many times fewer steps SGPO takes than direct SFT to the lower of their two final "
        "training rewards; below 1 it takes more.",
        ("same_mask", "no_mask", "mask_costs"),
    ),
    "kl_on_decisions": Note(
        "Fig. 5",
        "Share of the KL that lies on decision tokens (the choices of the plan, and the words that "
        "decide between going on and guessing) minus their share of all tokens.",
    ),
    "right_plan": Note(
        "Fig. 2",
        "Probability of the right plan among 64 under the unguided prompt, averaged over the types "
        "on held-out problems of one task, after SGPO minus after the other method.",
    ),
    "pass_not_below": Note(
        NOWHERE,
        "pass@k of SGPO minus that of SFT+GRPO at the largest k that was sampled: does distilling "
        "strategies narrow what the policy can find?",
    ),
    "same_mask": Note(
        NOWHERE,
        "Table 3 changes two things at once: the loss, and whether tokens with KL above delta are "
        "left out. Here both losses leave out the same tokens.",
    ),
    "no_mask": Note(
        NOWHERE, "The same comparison of losses with no token left out on either side."
    ),
    "mask_costs": Note(NOWHERE, "Direct SFT on all tokens minus direct SFT on the unmasked ones."),
    "clip_with_style": Note(
        NOWHERE,
        "Average accuracy of SGPO minus that without KL clipping, on a base model all of whose "
        "guided texts open with a line of style: high KL, no use.",
    ),
    "delta_three": Note(
        NOWHERE,
        "Average accuracy at the threshold delta=3 of Eq. 5 minus that at the paper's delta=1.",
    ),
    "alpha_switches_off": Note(
        "App. H",
        "Mean alpha over training with the strategies as extracted minus that with strategies "
        "spoilt on purpose in all training problems.",
    ),
    "bad_is_harmless": Note(
        "App. H", "Average accuracy of SGPO with spoilt strategies minus that of SFT+GRPO."
    ),
    "hardest_exploration": Note(
        NOWHERE,
        "Average accuracy of SGPO minus that of the better baseline, on the base model with the "
        "lowest unguided pass rate.",
    ),
    "equal_tokens": Note(
        NOWHERE,
        "Average accuracy of SGPO minus that of SFT+GRPO trained for so many steps that both score "
        "as many tokens, interpolated between budgets that were run.",
    ),
    "beats_opsd": Note(NOWHERE, "Average accuracy of SGPO minus that of the other method."),
    "beats_srft": Note(NOWHERE, "Average accuracy of SGPO minus that of the other method."),
}
