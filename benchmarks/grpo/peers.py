"""The peer: TRL's GRPOTrainer with vLLM on the same GPU. One contender in a process.

python -m benchmarks.grpo.peers NAME MODEL_FOLDER PROMPTS.jsonl STEPS
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "trl": {"per_device_train_batch_size": 8, "use_liger_kernel": True},
    "trl-sleep": {"per_device_train_batch_size": 8, "use_liger_kernel": True, "vllm_enable_sleep_mode": True},
    "trl-kept": {"per_device_train_batch_size": 4, "use_liger_kernel": True, "gradient_checkpointing": False},
}
WARM_UP = 2


def main(name: str, folder: str, prompts: str, steps: str) -> None:
    """Train and print one JSON object: seconds of each step, peak memory."""
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import TrainerCallback
    from trl import GRPOConfig, GRPOTrainer  # type: ignore[attr-defined]

    from benchmarks.grpo.work import ALPHA, COMPLETIONS, LR, NEW_TOKENS, PROMPT_TOKENS, PROMPTS_PER_STEP, RANK
    from benchmarks.sft.work import PROJECTIONS

    rows = [json.loads(line) for line in Path(prompts).read_text(encoding="utf-8").splitlines()]
    dataset = Dataset.from_dict({"prompt": [[{"role": "user", "content": row["prompt"]}] for row in rows]})
    seen: list[float] = []

    def reward(completions: list[Any], **_: Any) -> list[float | None]:
        texts = [turns[0]["content"] for turns in completions]
        return [text.count("w1") / max(1, text.count("w")) for text in texts]

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            seen.append(time.perf_counter())

    settings = SETTINGS[name]
    completions = PROMPTS_PER_STEP * COMPLETIONS
    with tempfile.TemporaryDirectory() as out:
        arguments = GRPOConfig(
            output_dir=out, max_steps=int(steps), learning_rate=LR, bf16=True, report_to=[], save_strategy="no",
            logging_steps=1, beta=0.0, loss_type="dr_grpo", scale_rewards="none", num_generations=COMPLETIONS,
            max_completion_length=NEW_TOKENS, temperature=1.0, use_vllm=True, vllm_mode="colocate",
            vllm_gpu_memory_utilization=0.35, vllm_max_model_length=PROMPT_TOKENS + NEW_TOKENS + 64,
            gradient_accumulation_steps=completions // settings["per_device_train_batch_size"],
            model_init_kwargs={"dtype": "bfloat16"}, **settings,
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=folder,
            reward_funcs=[reward],
            args=arguments,
            train_dataset=dataset,
            peft_config=LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules=list(PROJECTIONS), task_type="CAUSAL_LM"),
            callbacks=[Clock()],
        )
        trainer.train()
    spent = [after - before for before, after in zip(seen[WARM_UP - 1 :], seen[WARM_UP:], strict=False)]
    last = trainer.state.log_history[-2]
    found = {
        "seconds_each": [round(one, 3) for one in spent],
        "seconds_per_step": sum(spent) / len(spent),
        "completion_length": last.get("completions/mean_length"),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "steps": len(spent),
    }
    sys.stdout.write("RESULT " + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
