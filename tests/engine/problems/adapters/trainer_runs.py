"""Trainers of small models on sentences, as tests of adapters make them."""

import torch

LENGTH, VOCABULARY = 7, 23
SETTINGS = {
    "learning_rate": 3e-3,
    "weight_decay": 0.3,
    "max_grad_norm": 0.4,
    "warmup_steps": 2,
    "lr_scheduler_type": "cosine",
    "num_train_epochs": 3,
    "per_device_train_batch_size": 4,
    "adam_beta2": 0.9,
    "report_to": [],
    "use_cpu": True,
    "save_strategy": "no",
    "disable_tqdm": True,
}


def rows(number, seed, *, labels=None):
    """Sentences of three to seven tokens; the label of one is a class, or its own tokens."""
    drawn = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(number):
        size = int(torch.randint(3, LENGTH + 1, (1,), generator=drawn))
        tokens = torch.randint(1, VOCABULARY, (size,), generator=drawn).tolist()
        found.append({"input_ids": tokens, "labels": tokens if labels is None else labels(tokens)})
    return found


def padded(samples):
    """Pad to the longest; the labels of padding are ignored."""
    width = max(len(each["input_ids"]) for each in samples)
    gaps = [width - len(each["input_ids"]) for each in samples]
    both = list(zip(samples, gaps, strict=True))
    batch = {
        "input_ids": [each["input_ids"] + [0] * gap for each, gap in both],
        "attention_mask": [[1] * (width - gap) + [0] * gap for gap in gaps],
        "labels": [
            each["labels"] + [-100] * gap if isinstance(each["labels"], list) else each["labels"]
            for each, gap in both
        ],
    }  # fmt: skip
    return {name: torch.tensor(column) for name, column in batch.items()}


def bert(**changes):
    import transformers

    torch.manual_seed(3)
    config = transformers.BertConfig(
        vocab_size=VOCABULARY, hidden_size=8, num_hidden_layers=2, num_attention_heads=2,
        intermediate_size=12, max_position_embeddings=16, num_labels=3,
        hidden_dropout_prob=0.0, attention_probs_dropout_prob=0.0, **changes,
    )  # fmt: skip
    return transformers.BertForSequenceClassification(config)


def gpt2():
    import transformers

    torch.manual_seed(4)
    config = transformers.GPT2Config(
        vocab_size=VOCABULARY, n_embd=8, n_layer=2, n_head=2, n_positions=16,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    return transformers.GPT2LMHeadModel(config)


def llama(**changes):
    import transformers

    torch.manual_seed(3)
    config = transformers.LlamaConfig(
        vocab_size=VOCABULARY, hidden_size=8, intermediate_size=12, num_hidden_layers=2,
        num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=16,
        tie_word_embeddings=True, bos_token_id=0, eos_token_id=0, pad_token_id=None,
        **changes,
    )  # fmt: skip
    return transformers.LlamaForCausalLM(config)


def t5():
    import transformers

    torch.manual_seed(3)
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=8, d_kv=4, d_ff=12, num_layers=1, num_heads=2,
        dropout_rate=0.0, decoder_start_token_id=0, pad_token_id=0, eos_token_id=1,
    )  # fmt: skip
    return transformers.T5ForConditionalGeneration(config)


def bart():
    import transformers

    torch.manual_seed(3)
    config = transformers.BartConfig(
        vocab_size=VOCABULARY, d_model=8, encoder_layers=1, decoder_layers=1, dropout=0.0,
        encoder_attention_heads=2, decoder_attention_heads=2, encoder_ffn_dim=12,
        decoder_ffn_dim=12, max_position_embeddings=16, decoder_start_token_id=2, pad_token_id=0,
        bos_token_id=2, eos_token_id=1, forced_eos_token_id=1,
    )  # fmt: skip
    return transformers.BartForConditionalGeneration(config)


def kind(tokens):
    return sum(tokens) % 3


def trainer_of(folder, model, labels=None, base=None, number=24, **changes):
    import transformers

    settings = transformers.TrainingArguments
    if base is transformers.Seq2SeqTrainer:
        settings = transformers.Seq2SeqTrainingArguments
    args = settings(output_dir=str(folder), **(SETTINGS | changes))
    return (base or transformers.Trainer)(
        model=model,
        args=args,
        train_dataset=rows(number, 0, labels=labels),
        eval_dataset=rows(12, 1, labels=labels),
        data_collator=padded,
    )


def masked(tokens):
    """Labels of every second token."""
    return [each if place % 2 else -100 for place, each in enumerate(tokens)]


def bert_of(name):
    import transformers

    torch.manual_seed(3)
    return getattr(transformers, name)(bert().config)
