"""Settings of reinforcement: how answers are sampled, scored, and made likelier or less likely."""

from dataclasses import dataclass

from homespun.config.checked import Checked, setting

QUESTIONS, STORIES, CONSISTENCY = "questions", "stories", "consistency"
BUILT_IN_REWARDS = (QUESTIONS, STORIES, CONSISTENCY)


@dataclass(frozen=True)
class ReinforcementConfig(Checked):
    """Reinforcement. Let the model answer, score its answers, and make those likelier that score above the others to
    the same prompt (GRPO). Without a reward, these settings have no effect."""

    reward: str | None = setting(
        None,
        "The function that scores answers: FILE.py:FUNCTION or MODULE:FUNCTION, with reward(prompt, answers) -> "
        f"scores; {QUESTIONS}: 1 for the exact answer of the data, else 0; {CONSISTENCY}: 1 for a built-in story "
        f"without a contradiction, 1/2 with one, and so on; {STORIES}: the same, divided among the stories of a group "
        "that have the same course of events.",
        if_omitted=f"{QUESTIONS} with `homespun reinforce`; no reward with `homespun train`",
        on_resume="announced",
    )
    group_size: int = setting(
        8,
        "Answers to each prompt, which are compared.",
        at_least=2,
        at_most=1024,
        on_resume="fixed",
    )
    answer_tokens: int = setting(
        32, "Length at which an answer is cut off, in tokens.", at_least=1, on_resume="announced"
    )
    prompt_words: int = setting(
        0,
        "With a text instead of conversations: the model goes on from the first N words of a document; 0: it begins "
        "by itself.",
        at_least=0,
        at_most=10_000,
        on_resume="fixed",
    )
    updates: int = setting(
        2,
        "Updates of the weights for the answers of a step, each with a part of the groups.",
        at_least=1,
        at_most=1024,
        on_resume="announced",
    )
    clip_ratio: float = setting(
        0.2,
        "An update leaves out tokens whose probability has already changed by this fraction in the wanted direction.",
        above=0,
        below=1,
        on_resume="announced",
    )
    kl_factor: float = setting(
        0.02,
        "Factor of the divergence from the initial model in the loss; 0: no initial model is kept.",
        at_least=0,
        at_most=100,
        on_resume="fixed",
    )
    reward_seconds: float = setting(
        60.0,
        "A run ends if the reward takes longer for the answers to one prompt.",
        above=0,
        at_most=1e6,
    )
