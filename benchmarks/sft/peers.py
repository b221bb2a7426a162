"""The peers: TRL's SFTTrainer as guides set it up, and Unsloth with its own packing. One contender in a process.

python -m benchmarks.sft.peers NAME MODEL_FOLDER ROWS.jsonl STEPS
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SETTINGS: dict[str, dict[str, Any]] = {
    "trl-1x16": {"per_device_train_batch_size": 1, "gradient_accumulation_steps": 16},
    "trl-8x2-liger": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2, "use_liger_kernel": True},
    "unsloth-8x2": {"per_device_train_batch_size": 8, "gradient_accumulation_steps": 2},
    "unsloth-packing": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "packing": True},
    "unsloth-packing-4bit": {"per_device_train_batch_size": 4, "gradient_accumulation_steps": 2, "packing": True},
}
WARM_UP = 3


def main(name: str, folder: str, rows: str, steps: str) -> None:
    """Train and print one JSON object: tokens that are not padding, seconds, peak memory."""
    unsloth = name.startswith("unsloth")
    if unsloth:
        import unsloth as _
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer  # type: ignore[attr-defined]

    from benchmarks.sft.work import ALPHA, LR, MOST, PROJECTIONS, RANK

    tokenizer = AutoTokenizer.from_pretrained(folder)
    lora: dict[str, Any] = {"r": RANK, "lora_alpha": ALPHA, "target_modules": list(PROJECTIONS)}
    peft_config = None
    if unsloth:
        from unsloth import FastLanguageModel

        model, _ = FastLanguageModel.from_pretrained(
            folder,
            max_seq_length=MOST,
            dtype=torch.bfloat16,
            load_in_4bit=name.endswith("4bit"),
            use_exact_model_name=True,
        )
        model = FastLanguageModel.get_peft_model(model, **lora, use_gradient_checkpointing="unsloth")
    else:
        from peft import LoraConfig

        model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.bfloat16, device_map="cuda")
        peft_config = LoraConfig(**lora, task_type="CAUSAL_LM")
    conversations = [json.loads(line)["messages"] for line in Path(rows).read_text().splitlines()]
    texts = [tokenizer.apply_chat_template(turns, tokenize=False) for turns in conversations]
    dataset = Dataset.from_dict({"input_ids": [tokenizer(text)["input_ids"] for text in texts]})

    seen: list[tuple[float, int]] = []
    tokens = 0

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            torch.cuda.synchronize()
            seen.append((time.perf_counter(), tokens))

    with tempfile.TemporaryDirectory() as out:
        arguments = SFTConfig(
            output_dir=out, max_steps=int(steps), learning_rate=LR, bf16=True, max_length=MOST, report_to=[],
            save_strategy="no", logging_steps=1, dataloader_num_workers=0, **SETTINGS[name],
        )  # fmt: skip
        trainer = SFTTrainer(
            model=model, args=arguments, train_dataset=dataset, processing_class=tokenizer, peft_config=peft_config,
            callbacks=[Clock()],
        )  # fmt: skip
        collate = trainer.data_collator

        def counted(items: Any) -> Any:
            nonlocal tokens
            tokens += sum(len(item["input_ids"]) for item in items)
            return collate(items)

        trainer.data_collator = counted
        trainer.train()
    (begin, before), (end, after) = seen[WARM_UP - 1], seen[-1]
    found = {
        "tokens": after - before,
        "seconds": end - begin,
        "tokens_per_second": (after - before) / (end - begin),
        "peak_gib": torch.cuda.max_memory_allocated() / 2**30,
        "steps": len(seen) - WARM_UP,
    }
    sys.stdout.write("RESULT " + json.dumps(found) + "\n")


if __name__ == "__main__":
    main(*sys.argv[1:])
