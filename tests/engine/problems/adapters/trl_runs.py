"""Trainers of trl on tiny models; importing this imports trl, for seconds."""

import datasets
import tokenizers
import torch
import transformers
import trl
from tokenizers import models, pre_tokenizers

WORDS = [
    "the",
    "a",
    "cat",
    "dog",
    "bird",
    "sees",
    "likes",
    "eats",
    "fish",
    "bread",
    "who",
    "what",
    "red",
    "blue",
    "not",
    "and",
]
MARKS = ("<pad>", "<eos>", "<user>", "<assistant>")

TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}<assistant> "
    "{% generation %}{{ message['content'] }} <eos>{% endgeneration %}"
    "{% else %}<user> {{ message['content'] }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<assistant> {% endif %}"
)

SETTINGS = {
    "learning_rate": 0.02,
    "weight_decay": 0.3,
    "max_grad_norm": 0.4,
    "warmup_steps": 1,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 2,
    "per_device_train_batch_size": 4,
    "logging_steps": 1,
    "bf16": False,
    "report_to": [],
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
}


def tokenizer():
    """Words as tokens, with a chat template that marks what the assistant says."""
    words = {word: place for place, word in enumerate([*MARKS, *WORDS])}
    inner = tokenizers.Tokenizer(models.WordLevel(words, unk_token="the"))
    inner.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    made = transformers.PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", eos_token="<eos>", unk_token="the"
    )
    made.chat_template = TEMPLATE
    return made


def llama(**changes):
    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=len(WORDS) + len(MARKS), hidden_size=8, intermediate_size=12,
        num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        max_position_embeddings=32, bos_token_id=1, eos_token_id=1, pad_token_id=0, **changes,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def gpt2():
    """In float64 throughout, other than a llama, whose norms are computed in float32."""
    torch.manual_seed(4)
    config = transformers.GPT2Config(
        vocab_size=len(WORDS) + len(MARKS), n_embd=8, n_layer=2, n_head=2, n_positions=32,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=1, eos_token_id=1,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config).double()


def said(drawn, least, most):
    size = int(torch.randint(least, most + 1, (1,), generator=drawn))
    return " ".join(WORDS[k] for k in torch.randint(len(WORDS), (size,), generator=drawn).tolist())


def text(drawn):
    return {"text": said(drawn, 3, 9)}


def completion(drawn):
    return {"prompt": said(drawn, 2, 5) + " ", "completion": said(drawn, 1, 6)}


def messages(drawn):
    roles = ("user", "assistant", "user", "assistant")
    return {"messages": [{"role": role, "content": said(drawn, 1, 3)} for role in roles]}


def pair(drawn):
    row = {"prompt": said(drawn, 2, 4) + " ", "chosen": said(drawn, 1, 5)}
    return {**row, "rejected": said(drawn, 1, 5)}


def table(row, number, seed):
    drawn = torch.Generator().manual_seed(seed)
    return datasets.Dataset.from_list([row(drawn) for _ in range(number)])


def sft(folder, row=text, model=None, number=24, base=trl.SFTTrainer, **changes):
    """Return a trainer of sentences; ``peft_config`` is its own argument."""
    further = {name: changes.pop(name) for name in ("peft_config",) if name in changes}
    return base(
        model=llama() if model is None else model,
        args=trl.SFTConfig(output_dir=str(folder), **(SETTINGS | changes)),
        train_dataset=table(row, number, 0),
        eval_dataset=table(row, 12, 1),
        processing_class=tokenizer(),
        **further,
    )


def other_llama():
    """A reference that is none of the model's own beginnings, so that the two never agree."""
    model = llama().double()
    drawn = torch.Generator().manual_seed(8)
    with torch.no_grad():
        for each in model.parameters():
            each.add_(torch.randn(each.shape, generator=drawn).double(), alpha=0.3)
    return model


def dpo(folder, model=None, number=24, **changes):
    """Return a trainer of pairs; its reference is the model it begins with, or ``ref_model``."""
    own = ("peft_config", "ref_model")
    further = {name: changes.pop(name) for name in own if name in changes}
    settings = SETTINGS | {"precompute_ref_log_probs": True} | changes
    return trl.DPOTrainer(
        model=llama() if model is None else model,
        args=trl.DPOConfig(output_dir=str(folder), **settings),
        train_dataset=table(pair, number, 0),
        eval_dataset=table(pair, 12, 1),
        processing_class=tokenizer(),
        **further,
    )
